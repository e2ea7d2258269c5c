"""A small client of the gateway for pipelines and scripts; standard library and msgspec only.

Nothing of the server is imported here, so that a code location pays milliseconds for it.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec


class ServingClientError(RuntimeError):
    """The gateway refused a call; the message is its own sentence.

    Attributes:
        status: HTTP status of the answer.
        field: The request field at fault, if the gateway named one.
    """

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.field = field


class BundleRefusedError(ServingClientError):
    """A deployment was refused; the old version serves on."""


class ModelNotFoundError(ServingClientError):
    """There is no such model."""


class ServingUnavailableError(ServingClientError):
    """The gateway cannot be reached (status 0) or cannot serve now (503): try again later.

    Attributes:
        retry_after: Seconds the gateway asks to wait, if it says.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(status, message)
        self.retry_after = retry_after


class _Answer(msgspec.Struct, frozen=True):
    """Base of all answers: fields added by a newer gateway are ignored."""


class Deployed(_Answer, frozen=True):
    """What a deployment or rollback did.

    Attributes:
        model: Name of the model.
        version: The champion now.
        previous: The version a rollback would go to.
        changed: False if that very bundle was the champion already.
        load_seconds: Time Triton took to load it.
        probe_max_abs_diff: Largest difference of the probe's output from the expected one.
    """

    model: str
    version: str
    previous: str | None
    changed: bool
    load_seconds: float
    probe_max_abs_diff: float


class RequestFieldInfo(_Answer, frozen=True):
    """One field of a model's predict request."""

    name: str
    dtype: str
    nullable: bool = False


class RouteChange(_Answer, frozen=True):
    """One entry of a route's history; ``at`` is ISO 8601 in UTC."""

    at: str
    action: str
    version: str
    previous: str | None
    actor: str
    reason: str


class ServedModel(_Answer, frozen=True):
    """A deployed model.

    Attributes:
        name: Its name.
        version: The champion.
        previous: The version a rollback goes to.
        since: When the champion became so, ISO 8601 in UTC.
        digest: Digest of the champion's bundle.
        state: ``up``, or why Triton is not serving.
        request: Fields of its predict request.
        history: The last changes of its route, the oldest first.
    """

    name: str
    version: str
    previous: str | None
    since: str
    digest: str
    state: str
    request: list[RequestFieldInfo]
    history: list[RouteChange]


class PredictionAnswer(_Answer, frozen=True):
    """The answer for one case."""

    request_id: str
    model: str
    model_version: str
    probability: float
    defaulted_features: list[str]


class _Models(_Answer, frozen=True):
    models: list[ServedModel]


class _Predictions(_Answer, frozen=True):
    predictions: list[PredictionAnswer]


class _Problem(_Answer, frozen=True):
    error: str
    field: str | None = None


class ServingClient:
    """Client of one gateway; safe to share between threads.

    Args:
        url: Its address, e.g. ``http://127.0.0.1:8900``.
        token: The admin token, if the gateway has one.
        timeout: Seconds one call may take; a deployment gets at least 180.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 10.0) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"'{url}' is no http address; write e.g. http://127.0.0.1:8900.")
        self.url = url.rstrip("/")
        self._token = token
        self._timeout = timeout
        # The gateway is an internal address: a proxy from the environment must not get in between.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def deploy(
        self, bundle: Path | str, actor: str, reason: str, model: str | None = None
    ) -> Deployed:
        """Make a sealed bundle the champion of its model; doing it again changes nothing.

        Args:
            bundle: Directory of the bundle, as the gateway sees it.
            actor: Who deploys.
            reason: Why.
            model: Name of the model; None reads it from the bundle's manifest.

        Raises:
            BundleRefusedError: If the gateway refuses it.
            ServingUnavailableError: If the gateway or Triton is away.
        """
        directory = Path(bundle).absolute()
        if model is None:
            from flywheel_serving.bundle import Manifest

            manifest = (directory / "manifest.json").read_bytes()
            model = msgspec.json.decode(manifest, type=Manifest).model
        body = {"bundle": str(directory), "actor": actor, "reason": reason}
        answer = self._call("PUT", f"/v1/models/{_quote(model)}", body, max(180.0, self._timeout))
        return msgspec.json.decode(answer, type=Deployed)

    def rollback(self, model: str, actor: str = "unknown", reason: str = "") -> Deployed:
        """Make a model's previous version the champion again.

        Raises:
            ServingClientError: 409 if there is no previous version.
        """
        body = {"actor": actor, "reason": reason}
        answer = self._call("POST", f"/v1/models/{_quote(model)}/rollback", body)
        return msgspec.json.decode(answer, type=Deployed)

    def models(self) -> list[ServedModel]:
        """All deployed models, by name."""
        return msgspec.json.decode(self._call("GET", "/v1/models"), type=_Models).models

    def predict(
        self, model: str, fields: Mapping[str, Any], request_id: str | None = None
    ) -> PredictionAnswer:
        """Predict one case; times may be aware datetimes.

        Raises:
            ModelNotFoundError: If the model is not deployed.
            ServingUnavailableError: If it cannot answer now.
            ServingClientError: 422 with the field at fault.
        """
        headers = {} if request_id is None else {"x-request-id": request_id}
        path = f"/v1/models/{_quote(model)}/predict"
        answer = self._call("POST", path, dict(fields), headers=headers)
        return msgspec.json.decode(answer, type=PredictionAnswer)

    def predict_many(
        self, model: str, instances: Sequence[Mapping[str, Any]], request_id: str | None = None
    ) -> list[PredictionAnswer]:
        """Predict up to 4096 cases in one call; raises as :meth:`predict` does."""
        headers = {} if request_id is None else {"x-request-id": request_id}
        path = f"/v1/models/{_quote(model)}/predict"
        body = {"instances": [dict(fields) for fields in instances]}
        answer = self._call("POST", path, body, headers=headers)
        return msgspec.json.decode(answer, type=_Predictions).predictions

    def ready(self) -> bool:
        """Whether every deployed model answers a real inference; false if nothing listens."""
        try:
            self._call("GET", "/health/ready")
        except ServingUnavailableError:
            return False
        return True

    def _call(
        self,
        method: str,
        path: str,
        body: object = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        data = None if body is None else msgspec.json.encode(body)
        request = urllib.request.Request(self.url + path, data, dict(headers or {}), method=method)  # noqa: S310
        request.add_header("content-type", "application/json")
        if self._token is not None:
            request.add_header("authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=timeout or self._timeout) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise _typed(
                    method, error.code, error.read(), error.headers.get("retry-after")
                ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            message = f"The gateway at {self.url} cannot be reached ({reason}); is it running?"
            raise ServingUnavailableError(0, message) from error


def _quote(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _typed(method: str, status: int, body: bytes, after: str | None) -> ServingClientError:
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem(f"The gateway answered {status}: {body[:200].decode(errors='replace')}")
    if status == 503:
        return ServingUnavailableError(status, problem.error, float(after) if after else None)
    if status == 404:
        return ModelNotFoundError(status, problem.error)
    if method == "PUT" and status in (409, 422):
        return BundleRefusedError(status, problem.error, problem.field)
    return ServingClientError(status, problem.error, problem.field)
