"""One loaded version of a model: from the body of a predict request to its answer.

This is the whole hot path but for HTTP: decode, transform, read features, vectorize, infer, log,
encode. Nothing here knows about routes or deployments.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from flywheel_serving.bundle import Bundle, load_transform
from flywheel_serving.cases import Case, CaseReader, Question, Rows, StaleFeatureError
from flywheel_serving.errors import ServingError
from flywheel_serving.inference import (
    InferencePool,
    InferenceRequest,
    TritonInferenceError,
    TritonUnavailableError,
)
from flywheel_serving.metrics import Metrics
from flywheel_serving.online_store import OnlineStore
from flywheel_serving.prediction_log import PredictionRecord, Spool, SpoolError
from flywheel_serving.probe import probe_gap
from flywheel_serving.pseudonyms import Pseudonyms
from flywheel_serving.request import RequestDecoder

_YIELD_EVERY = 128  # cases of a batch after which other requests get their turn


class Prediction(msgspec.Struct, frozen=True):
    """The answer for one case."""

    request_id: str
    model: str
    model_version: str
    probability: float
    defaulted_features: list[str]


class _Batch(msgspec.Struct, frozen=True):
    predictions: list[Prediction]


@contextmanager
def _instance(index: int) -> Iterator[None]:
    """Errors of one instance of a batch say which one it is."""
    try:
        yield
    except ServingError as error:
        message = f"Instance {index}: {error.message}"
        raise ServingError(error.status, message, error.field, error.retry_after) from error


async def _turn(index: int) -> None:
    """Let other requests have their turn now and then."""
    if index % _YIELD_EVERY == _YIELD_EVERY - 1:
        await asyncio.sleep(0)


class Services(NamedTuple):
    """What every predictor of a gateway shares.

    Attributes:
        store: The online store.
        pool: Connections to Triton.
        spool: The prediction log.
        metrics: The gateway's metrics.
        pseudonym_key: Secret of the log's pseudonyms; None leaves classified values out of it.
    """

    store: OnlineStore
    pool: InferencePool
    spool: Spool
    metrics: Metrics
    pseudonym_key: str | None = None


class Predictor:
    """Answers the predict requests of one version.

    Raises:
        BundleError: If the transform cannot be loaded.
    """

    def __init__(self, bundle: Bundle, services: Services) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.name = manifest.model
        self.version = manifest.version
        self.triton_name = manifest.triton_name
        self.inflight = 0
        """Requests under way; the version may be unloaded when it is 0."""
        store, self._pool, self._spool, metrics, key = services
        self._pseudonyms = Pseudonyms(manifest, key)
        self._entity = manifest.request.entity_id
        self._decoder = RequestDecoder(manifest.request)
        self._cases = CaseReader(manifest, load_transform(bundle), store)
        self._call = InferenceRequest(manifest)
        self._encoder = msgspec.json.Encoder()
        self._count = metrics.predictions.labels(self.name, self.version)
        self._features_time = metrics.latency.labels(self.name, "features")
        self._triton_time = metrics.latency.labels(self.name, "triton")
        self._defaulted = {
            item.name: metrics.defaulted.labels(self.name, item.name)
            for item in manifest.inputs
            if item.source.startswith(("view:", "age:"))
        }
        self._stale = {
            (view.name, answer): metrics.stale.labels(self.name, view.name, answer)
            for view in manifest.feature_views
            for answer in ("default", "refuse")
        }

    async def predict(self, body: bytes, request_id: str) -> bytes:
        """Answer one request, single or batch, after it has been logged.

        Raises:
            ServingError: With the status the client should see.
        """
        start = time.perf_counter()
        received = time.time()
        self.inflight += 1
        try:
            if self._decoder.is_batch(body):
                return await self._predict_batch(body, request_id, start, received)
            question = self._cases.question(self._decoder.single(body))
            case = self._case(question, await self._cases.read([question]))
            request = self._call.build(case.vector.numeric, case.vector.categorical)
            ready = time.perf_counter()
            self._features_time.observe(ready - start)
            probabilities = await self._infer(request, 1)
            self._triton_time.observe(time.perf_counter() - ready)
            answers = self._log([case], [request_id], probabilities, start, received)
            return self._encoder.encode(answers[0])
        finally:
            self.inflight -= 1

    async def _predict_batch(
        self, body: bytes, request_id: str, start: float, received: float
    ) -> bytes:
        questions: list[Question] = []
        for index, fields in enumerate(self._decoder.batch(body)):
            with _instance(index):
                questions.append(self._cases.question(fields))
            await _turn(index)
        rows = await self._cases.read(questions)
        cases: list[Case] = []
        numeric: list[float] = []
        categorical: list[int] = []
        for index, question in enumerate(questions):
            with _instance(index):
                case = self._case(question, rows)
            cases.append(case)
            numeric += case.vector.numeric
            categorical += case.vector.categorical
            await _turn(index)
        request = self._call.build(numeric, categorical, len(cases))
        ready = time.perf_counter()
        self._features_time.observe(ready - start)
        probabilities = await self._infer(request, len(cases))
        self._triton_time.observe(time.perf_counter() - ready)
        ids = [f"{request_id}/{index}" for index in range(len(cases))]
        answers = self._log(cases, ids, probabilities, start, received)
        return self._encoder.encode(_Batch(answers))

    def _case(self, question: Question, rows: Rows) -> Case:
        """A case; a refusal for a stale view is counted."""
        try:
            return self._cases.case(question, rows)
        except StaleFeatureError as error:
            self._stale[error.view, "refuse"].inc()
            raise

    async def _infer(self, request: bytes, rows: int) -> Sequence[float]:
        try:
            probabilities = await self._pool.infer(request, rows)
        except (TritonUnavailableError, TritonInferenceError) as error:
            message = f"Triton cannot answer for {self.triton_name} now: {error} Try again."
            raise ServingError(503, message, retry_after=1) from error
        if not all(map(math.isfinite, probabilities)):
            message = f"{self.triton_name} computed a probability that is not a number."
            raise ServingError(500, f"{message} Roll back, and check the model's missing values.")
        return probabilities

    def _log(
        self,
        cases: list[Case],
        ids: list[str],
        probabilities: Sequence[float],
        start: float,
        received: float,
    ) -> list[Prediction]:
        arrived = datetime.fromtimestamp(received, UTC).isoformat()
        latency = round((time.perf_counter() - start) * 1e3, 3)
        records: list[PredictionRecord] = []
        answers: list[Prediction] = []
        for case, request_id, probability in zip(cases, ids, probabilities, strict=True):
            vector = case.vector
            records.append(
                PredictionRecord(
                    request_id=request_id,
                    model=self.name,
                    model_version=self.version,
                    role="champion",
                    received_at=arrived,
                    event_timestamp=case.event_timestamp.astimezone(UTC).isoformat(),
                    entity_id=str(case.fields[self._entity]),
                    request=self._pseudonyms.request(case.fields),
                    features=self._pseudonyms.features(vector.features),
                    defaulted_features=vector.defaulted,
                    probability=probability,
                    latency_ms=latency,
                )
            )
            answers.append(
                Prediction(request_id, self.name, self.version, probability, vector.defaulted)
            )
            for feature in vector.defaulted:
                self._defaulted[feature].inc()
            for view in vector.stale:
                self._stale[view, "default"].inc()
        try:
            self._spool.append(self.name, records)
        except SpoolError as error:
            raise ServingError(503, str(error), retry_after=5) from error
        self._count.inc(len(records))
        return answers

    async def probe(self, rows: int | None = None, limit: float | None = None) -> float:
        """Run the bundle's probe through Triton.

        Args:
            rows: How many of its rows; None means all.
            limit: Seconds it may take.

        Returns:
            Largest absolute difference from the expected probability; NaN if one is not a number.

        Raises:
            TritonUnavailableError: If Triton is away.
            TritonInferenceError: If Triton answers with an error.
        """
        return await probe_gap(self._pool, self._call, self.bundle.probe, rows, limit)
