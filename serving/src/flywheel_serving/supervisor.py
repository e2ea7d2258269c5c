"""Keeps Triton alive: restarts a dead server, reloads a model whose probe keeps failing.

Health is a real inference: a Python model whose process has died still counts as ready for Triton.
An external Triton (a container) is watched the same way, only never started or stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import NamedTuple, Protocol

from flywheel_serving.control import TritonControl, TritonControlError
from flywheel_serving.inference import InferencePool, TritonInferenceError, TritonUnavailableError
from flywheel_serving.metrics import Metrics
from flywheel_serving.repository import ModelRepository
from flywheel_serving.triton import TritonInstall, TritonProcess, TritonStartError

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_PROBE_SECONDS = 1.0
_FAILURES_BEFORE_HEAL = 2
_HEALS_BEFORE_RESTART = 3
_LONGEST_BACKOFF = 30.0


class ExternalTriton(NamedTuple):
    """Addresses of a Triton that somebody else runs on the same model repository."""

    host: str
    http_port: int
    grpc_address: str


class Models(Protocol):
    """What the supervisor asks about the models that must be loaded."""

    def wanted(self) -> list[str]:
        """Triton names of all models that must be loaded."""
        ...

    async def check(self, name: str) -> None:
        """Run a real inference on one of them.

        Raises:
            TritonUnavailableError: If Triton is away.
            TritonInferenceError: If Triton answers with an error.
        """
        ...


class TritonSupervisor:
    """Owns the connection to Triton and, unless it is external, its process.

    Args:
        triton: The wheel to run, or the addresses of an external server.
        work: Work directory of the process.
        repository: The model repository.
        pool: Pool of inference connections; it is pointed at each new server.
        models: The models to keep loaded.
        metrics: Where restarts and heals are counted.
    """

    def __init__(
        self,
        triton: TritonInstall | ExternalTriton,
        work: Path,
        repository: ModelRepository,
        pool: InferencePool,
        models: Models,
        metrics: Metrics,
    ) -> None:
        self._triton = triton
        self._work = work
        self._repository = repository
        self._pool = pool
        self._models = models
        self._metrics = metrics
        self._process: TritonProcess | None = None
        self._control: TritonControl | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._failures: dict[str, int] = {}
        self._heals: dict[str, int] = {}
        self.state = "starting"
        """``up``, or why Triton is not serving."""

    @property
    def up(self) -> bool:
        """Whether Triton is expected to answer."""
        return self.state == "up"

    @property
    def pid(self) -> int | None:
        """Process id of the server, None if it is external or not started."""
        return None if self._process is None else self._process.pid

    @property
    def control(self) -> TritonControl:
        """The control connection.

        Raises:
            TritonControlError: If Triton is not up.
        """
        if self._control is None or not self.up:
            raise TritonControlError(f"Triton is {self.state}", unavailable=True)
        return self._control

    async def start(self) -> None:
        """Start (or connect to) Triton, load all wanted models and begin to watch.

        An external server may come up later.

        Raises:
            TritonStartError: If our own server does not come up the first time.
        """
        if isinstance(self._triton, ExternalTriton):
            self._control = TritonControl(self._triton.grpc_address)
            await self._check_external(self._control)
        else:
            await self._bring_up()
        self._watcher = asyncio.create_task(self._watch(), name="triton-watch")

    async def stop(self) -> None:
        """Stop watching and stop the server."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        self._set_state("stopped")
        self._pool.close_idle()
        if self._control is not None:
            await self._control.close()
        if self._process is not None:
            await self._process.stop()

    def _set_state(self, state: str) -> None:
        self.state = state
        self._metrics.triton_up.set(1 if self.up else 0)

    async def _bring_up(self) -> None:
        if isinstance(self._triton, ExternalTriton):
            host, port, grpc_address = self._triton
        else:
            process = self._process = TritonProcess(
                self._triton, self._work, self._repository.directory
            )
            process.start()
            await process.wait_live()
            host, port = "127.0.0.1", process.http_port
            grpc_address = f"127.0.0.1:{process.grpc_port}"
        if self._control is not None:
            await self._control.close()
        self._control = TritonControl(grpc_address)
        self._pool.connect_to(host, port)
        for name in self._models.wanted():
            try:
                await self._control.load(name)
            except TritonControlError as error:
                # The others must serve all the same; the watch goes on trying this one.
                log.error("%s", error)
        self._failures.clear()
        self._heals.clear()
        self._set_state("up")

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        next_probe = loop.time()
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if self._process is not None and self._process.exit_code() is not None:
                await self._restart()
            elif loop.time() >= next_probe:
                if isinstance(self._triton, ExternalTriton) and self._control is not None:
                    await self._check_external(self._control)
                if self.up:
                    await self._check_models()
                next_probe = loop.time() + _PROBE_SECONDS

    async def _check_external(self, control: TritonControl) -> None:
        """Follow a server of somebody else: when it comes back, it has forgotten its models."""
        try:
            await control.index()
        except TritonControlError as error:
            if self.up:
                log.error("%s", error)
            self._set_state("unreachable")
        else:
            if not self.up:
                await self._bring_up()

    async def _restart(self) -> None:
        loop = asyncio.get_running_loop()
        delay = 0.0
        while True:
            assert self._process is not None  # noqa: S101  # only a process of ours ends
            self._set_state(f"restarting (it ended with code {self._process.exit_code()})")
            log.error("Triton %s: %s", self.state, self._process.log_tail(300))
            self._metrics.triton_restarts.inc()
            await self._process.stop()
            await asyncio.sleep(delay)
            delay = min(_LONGEST_BACKOFF, max(0.5, delay * 2))
            started = loop.time()
            try:
                await self._bring_up()
            except TritonStartError as error:
                log.error("%s", error)
                continue
            log.warning("Triton is up again after %.1f s", loop.time() - started)
            return

    async def _check_models(self) -> None:
        for name in self._models.wanted():
            try:
                await self._models.check(name)
            except (TritonUnavailableError, TritonInferenceError) as error:
                self._failures[name] = self._failures.get(name, 0) + 1
                log.warning("The probe of %s failed: %s", name, error)
            else:
                self._failures.pop(name, None)
                self._heals.pop(name, None)
                continue
            if self._process is not None and self._process.exit_code() is not None:
                return
            if self._failures[name] >= _FAILURES_BEFORE_HEAL:
                await self._heal(name)

    async def _heal(self, name: str) -> None:
        self._failures.pop(name, None)
        heals = self._heals[name] = self._heals.get(name, 0) + 1
        if heals > _HEALS_BEFORE_RESTART and self._process is not None:
            log.error("%d reloads did not heal %s; restarting Triton", heals - 1, name)
            await self._process.stop()
            return
        log.warning("Reloading %s", name)
        self._metrics.model_heals.labels(name).inc()
        self._repository.touch(name)
        try:
            await self.control.load(name)
        except TritonControlError as error:
            log.error("%s", error)
