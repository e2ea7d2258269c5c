"""Tries one bundle in a Triton of its own: does it load, does it answer as in training, how fast.

The server is private and thrown away: a temporary folder, free ports, nothing else loaded. Model
repository, server flags and connection pool are those of the gateway, so what is measured is what
deployment and traffic would meet, less the gateway itself. A bundle that does not load is a result;
a Triton that does not run is an error.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from flywheel_serving.bundle import Bundle
from flywheel_serving.control import TritonControl, TritonControlError
from flywheel_serving.inference import (
    InferencePool,
    InferenceRequest,
    TritonInferenceError,
    TritonUnavailableError,
)
from flywheel_serving.probe import probe_gap, probe_request
from flywheel_serving.repository import ModelRepository
from flywheel_serving.triton import TritonInstall, TritonProcess, TritonStartError

_LONGEST_SECONDS = 60.0
"""Requests of one measurement that have not begun by then are not made."""

_WARM_ROUNDS = 2
"""Requests of each connection before any is measured."""


class Latencies(msgspec.Struct, frozen=True):
    """Latency of single-row requests, so many of them at once.

    Attributes:
        requests: Requests made, failed ones included.
        errors: Requests that failed.
        p50_ms: Median of those that did not, milliseconds (nearest rank); None if all failed.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile.
        per_second: Answers a second.
    """

    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    per_second: float


class TrialResult(msgspec.Struct, frozen=True):
    """What became of a bundle.

    Attributes:
        model: Name of the model.
        version: Its version.
        digest: Identity of the bundle's content.
        loaded: Whether Triton loaded and warmed it.
        reason: Why it did not load or did not answer its probe; empty if it did.
        load_seconds: What loading and warming took; None if it did not load.
        probe_rows: Rows of the probe.
        probe_max_abs_diff: Largest difference between the probe's expected and actual probability;
            None if there was no answer, or one that is not a number.
        tolerance: The difference that a deployment allows, from the manifest.
        model_bytes: Size of the ONNX file.
        bundle_bytes: Size of all files of the bundle.
        latencies: By number of requests at once; empty if the probe was not answered.
    """

    model: str
    version: str
    digest: str
    loaded: bool
    reason: str
    load_seconds: float | None
    probe_rows: int
    probe_max_abs_diff: float | None
    tolerance: float
    model_bytes: int
    bundle_bytes: int
    latencies: dict[int, Latencies]

    @property
    def agrees(self) -> bool:
        """Whether a deployment would take it: it loads, and its probe is answered as expected."""
        gap = self.probe_max_abs_diff
        return gap is not None and gap <= self.tolerance


async def try_bundle(
    bundle: Bundle, install: TritonInstall, concurrency: Sequence[int] = (8,), requests: int = 2000
) -> TrialResult:
    """Load a bundle into a throw-away Triton, probe it and measure its latency.

    Triton is stopped whatever happens. It also ends when this process is killed, so this must run
    in the main thread (see :meth:`TritonProcess.start`).

    Args:
        bundle: A verified bundle.
        install: The wheel.
        concurrency: Numbers of requests at once to measure, one after the other.
        requests: Single-row requests of each measurement, made of the probe's rows; 0 measures
            nothing. A measurement that takes a minute ends with fewer.

    Raises:
        TritonStartError: If Triton does not start, or ends while it loads the bundle.
    """
    with tempfile.TemporaryDirectory(prefix="flywheel-trial-") as folder:
        work = Path(folder)
        repository = ModelRepository(work / "repository")
        name = repository.add(bundle)
        process = TritonProcess(install, work, repository.directory)
        process.start()
        try:
            await process.wait_live()
            return await _try(
                bundle, name, process, work, concurrency if requests else (), requests
            )
        finally:
            await process.stop()


async def _try(
    bundle: Bundle,
    name: str,
    process: TritonProcess,
    work: Path,
    concurrency: Sequence[int],
    requests: int,
) -> TrialResult:
    result = TrialResult(
        model=bundle.manifest.model,
        version=bundle.manifest.version,
        digest=bundle.digest,
        loaded=False,
        reason="",
        load_seconds=None,
        probe_rows=len(bundle.probe.probability),
        probe_max_abs_diff=None,
        tolerance=bundle.manifest.tolerance,
        model_bytes=bundle.model_path.stat().st_size,
        bundle_bytes=sum(p.stat().st_size for p in bundle.directory.rglob("*") if p.is_file()),
        latencies={},
    )
    replace = msgspec.structs.replace
    control = TritonControl(f"127.0.0.1:{process.grpc_port}")
    start = time.perf_counter()
    try:
        await control.load(name)
    except TritonControlError as error:
        if error.unavailable and await _has_ended(process):
            raise TritonStartError(
                f"Triton ended with code {process.exit_code()} while it loaded {name}: "
                f"{process.log_tail()}"
            ) from error
        # The folder is gone when somebody reads this.
        return replace(result, reason=str(error).replace(f"{work}/", "").strip())
    finally:
        await control.close()
    result = replace(result, loaded=True, load_seconds=round(time.perf_counter() - start, 3))
    pool = InferencePool("127.0.0.1", process.http_port, max((*concurrency, 1)))
    try:
        call = InferenceRequest(bundle.manifest)
        try:
            gap = await probe_gap(pool, call, bundle.probe)
        except (TritonUnavailableError, TritonInferenceError) as error:
            return replace(result, reason=f"Triton did not answer the probe: {error}")
        if math.isnan(gap):
            return replace(result, reason="Triton computed a probability that is not a number.")
        rows = [probe_request(call, bundle.probe, row, row + 1) for row in range(result.probe_rows)]
        latencies = {at: await _measure(pool, rows, at, requests) for at in concurrency}
        return replace(result, probe_max_abs_diff=gap, latencies=latencies)
    finally:
        pool.close_idle()


async def _has_ended(process: TritonProcess) -> bool:
    """Whether a server that cannot be reached is gone; its sockets close before it has ended."""
    for _ in range(20):
        if process.exit_code() is not None:
            return True
        await asyncio.sleep(0.05)
    return False


async def _measure(
    pool: InferencePool, rows: Sequence[bytes], concurrency: int, requests: int
) -> Latencies:
    """Keep so many requests under way until all are answered; each waits for nobody else."""
    await _ask(pool, rows, concurrency, concurrency * _WARM_ROUNDS)
    start = time.perf_counter()
    seconds, errors = await _ask(pool, rows, concurrency, requests)
    elapsed = time.perf_counter() - start
    seconds.sort()

    def percentile(share: float) -> float | None:
        return round(seconds[math.ceil(share * len(seconds)) - 1] * 1e3, 4) if seconds else None

    return Latencies(
        requests=len(seconds) + errors,
        errors=errors,
        p50_ms=percentile(0.5),
        p95_ms=percentile(0.95),
        p99_ms=percentile(0.99),
        per_second=round(len(seconds) / elapsed, 1),
    )


async def _ask(
    pool: InferencePool, rows: Sequence[bytes], concurrency: int, requests: int
) -> tuple[list[float], int]:
    """Seconds of each request that was answered, and how many were not."""
    turns = iter(range(requests))
    end = time.perf_counter() + _LONGEST_SECONDS
    seconds: list[float] = []
    errors = 0

    async def client() -> None:
        nonlocal errors
        for turn in turns:
            start = time.perf_counter()
            if start > end:
                return
            try:
                await pool.infer(rows[turn % len(rows)])
            except (TritonUnavailableError, TritonInferenceError):
                errors += 1
            else:
                seconds.append(time.perf_counter() - start)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return seconds, errors
