"""The gateway as an ASGI application: the predict path by hand, everything else by Starlette.

Raw ASGI saves about 100 us of CPU a request over a framework. What a prediction is stands in
:mod:`flywheel_serving.predictor`; here are only HTTP, admission and the life cycle.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import msgspec

from flywheel_serving.deployer import Deployer
from flywheel_serving.errors import ServingError
from flywheel_serving.inference import InferencePool, TritonInferenceError, TritonUnavailableError
from flywheel_serving.metrics import Metrics
from flywheel_serving.online_store import OnlineStore
from flywheel_serving.prediction_log import Spool
from flywheel_serving.predictor import Services
from flywheel_serving.repository import ModelRepository
from flywheel_serving.supervisor import ExternalTriton, TritonSupervisor
from flywheel_serving.triton import TritonInstall

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 8 << 20
MAX_INFLIGHT = 1024
_PREFIX, _SUFFIX = "/v1/models/", "/predict"
_READY_CACHE_SECONDS = 1.0


class Gateway:
    """One gateway with its Triton.

    Args:
        work: Work directory, owned by this process.
        store: The online store.
        triton: The wheel to run, or the addresses of an external server.
        backend: Triton backend the models are rendered for.
        on_ready: Called once when it is ready for the first time.
        on_failed: Called with the reason if it can never become ready.
        pseudonym_key: Secret of the prediction log's pseudonyms.
    """

    def __init__(
        self,
        work: Path,
        store: OnlineStore,
        triton: TritonInstall | ExternalTriton,
        backend: str = "python",
        on_ready: Callable[[], None] = lambda: None,
        on_failed: Callable[[str], None] = lambda _: None,
        pseudonym_key: str | None = None,
    ) -> None:
        self.metrics = Metrics()
        self._store = store
        self._pool = InferencePool("127.0.0.1", 0)
        self._spool = Spool(work / "spool")
        repository = ModelRepository(work / "repository", backend)
        services = Services(store, self._pool, self._spool, self.metrics, pseudonym_key)
        self.deployer = Deployer(work, repository, services)
        self.supervisor = TritonSupervisor(
            triton, work, repository, self._pool, self.deployer, self.metrics
        )
        self.deployer.attach(self.supervisor)
        self._on_ready = on_ready
        self._on_failed = on_failed
        self._starting: asyncio.Task[None] | None = None
        self._started = False
        self._inflight = 0
        self._ready: tuple[float, str | None] = (-1.0, None)
        self._admin: App | None = None
        self._json = msgspec.json.Encoder()
        self._counters: dict[tuple[str, str, int], Any] = {}
        self._whole: dict[str, Any] = {}

    def mount(self, admin: App) -> None:
        """Let this application answer all paths but predict."""
        self._admin = admin

    async def start(self) -> None:
        """Start in the background; until it is done, predict answers 503."""
        self._starting = asyncio.create_task(self._start(), name="gateway-start")

    async def _start(self) -> None:
        try:
            await asyncio.to_thread(self.deployer.restore)
            await self.supervisor.start()
        except Exception as error:
            # Whatever it is, a gateway that can never become ready must end and say why.
            log.exception("The gateway cannot start")
            self._on_failed(f"The gateway cannot start: {error}")
            return
        self._started = True
        self._on_ready()

    async def stop(self) -> None:
        """Stop Triton and close the spool; requests have ended by now."""
        if self._starting is not None:
            await self._starting
        await self.supervisor.stop()
        self._store.close()
        await asyncio.to_thread(self._spool.close)

    async def not_ready(self) -> str | None:
        """Why the gateway cannot serve now, or None; by a real inference, cached for a second."""
        now = time.monotonic()
        if now - self._ready[0] >= _READY_CACHE_SECONDS:
            self._ready = (now, await self._look())
        return self._ready[1]

    async def _look(self) -> str | None:
        if not self._started:
            return "The gateway is starting."
        if not self.supervisor.up:
            return f"Triton is {self.supervisor.state}."
        for name, reason in self.deployer.broken.items():
            return f"Model '{name}' cannot serve: {reason}"
        for name, predictor in list(self.deployer.champions.items()):
            try:
                await predictor.probe(rows=1, limit=2.0)
            except (TritonUnavailableError, TritonInferenceError) as error:
                return f"The probe of model '{name}' fails: {error}"
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        kind = scope["type"]
        if kind == "http":
            path: str = scope["path"]
            if path.startswith(_PREFIX) and path.endswith(_SUFFIX):
                await self._predict(path[len(_PREFIX) : -len(_SUFFIX)], scope, receive, send)
            elif self._admin is not None:
                await self._admin(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _predict(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        version = ""
        status = 200
        headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
        self._inflight += 1
        try:
            request_id = _request_id(scope)
            headers.append((b"x-request-id", request_id.encode()))
            if scope["method"] != "POST":
                headers.append((b"allow", b"POST"))
                raise ServingError(405, "Send predict requests with POST.")
            if self._inflight > MAX_INFLIGHT:
                message = f"More than {MAX_INFLIGHT} requests are under way; try again in a moment."
                raise ServingError(503, message, retry_after=1)
            predictor = self.deployer.champions.get(name)
            if predictor is None or not self.supervisor.up:
                raise self._absent(name)
            version = predictor.version
            answer = await predictor.predict(await _body(scope, receive), request_id)
        except ServingError as error:
            status = error.status
            answer = self._json.encode(error.body)
            headers += [(key.encode(), value.encode()) for key, value in error.headers.items()]
        except Exception:
            # The last line of defence: an error of ours must reach the client as one, and the log.
            log.exception("A predict request for %s failed", name)
            status = 500
            message = "The gateway made an error; its log holds the details."
            answer = self._json.encode({"error": message})
        finally:
            self._inflight -= 1
        headers.append((b"content-length", b"%d" % len(answer)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
        self._count(name, version, status, time.perf_counter() - start)

    def _absent(self, name: str) -> ServingError:
        """Why a model cannot answer: unknown, or not at the moment."""
        models = self.deployer.document.models
        if not self._started:
            return ServingError(503, "The gateway is starting; try again soon.", retry_after=1)
        if name not in models:
            known = ", ".join(sorted(models)) or "none yet; deploy one with PUT /v1/models/NAME"
            return ServingError(404, f"There is no model '{name}'. Deployed: {known}.")
        if name in self.deployer.broken:
            reason = self.deployer.broken[name]
            return ServingError(503, f"Model '{name}' cannot serve: {reason}", retry_after=30)
        message = f"Triton is {self.supervisor.state}; try again in a moment."
        return ServingError(503, message, retry_after=1)

    def _count(self, name: str, version: str, status: int, seconds: float) -> None:
        if name not in self.deployer.document.models:
            # Names come from clients: unknown ones must not grow the metrics without bound.
            name = "unknown"
        key = (name, version, status)
        counter = self._counters.get(key)
        if counter is None:
            counter = self.metrics.requests.labels(name, version, str(status))
            self._counters[key] = counter
            self._whole[name] = self.metrics.latency.labels(name, "whole")
        counter.inc()
        self._whole[name].observe(seconds)


def _request_id(scope: Scope) -> str:
    """The client's X-Request-Id, or a new one.

    Raises:
        ServingError: 422 if it is too long or not plain text.
    """
    for key, value in scope["headers"]:
        if key == b"x-request-id" and value:
            text = value.decode("latin-1")
            if len(text) > 128 or not text.isascii() or not text.isprintable():
                message = "X-Request-Id must be at most 128 printable ASCII characters."
                raise ServingError(422, message, "X-Request-Id")
            return text
    return uuid.uuid4().hex


async def _body(scope: Scope, receive: Receive) -> bytes:
    """Read the request's body.

    Raises:
        ServingError: 413 if it is too large.
    """
    message = f"The body is larger than {MAX_BODY >> 20} MiB; send smaller batches."
    for key, value in scope["headers"]:
        if key == b"content-length" and int(value) > MAX_BODY:
            raise ServingError(413, message)
    event = await receive()
    body: bytes = event.get("body", b"")
    if not event.get("more_body"):
        return body
    parts = [body]
    size = len(body)
    while event.get("more_body"):
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ServingError(400, "The connection ended before the whole body was there.")
        parts.append(event.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            raise ServingError(413, message)
    return b"".join(parts)
