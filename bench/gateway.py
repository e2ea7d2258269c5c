"""What the gateway adds to a prediction: CPU per request, against Triton asked directly.

The model is the flights model with its features in Feast's SQLite online store. The gateway
decodes JSON, runs the transform, reads the features, asks Triton and logs the answer durably; asked
directly, Triton gets the finished tensors in binary.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec
import psutil
import pyarrow.parquet as pq

from bench.gateway_bundle import BUNDLE, CASES
from bench.http_load import post, send
from bench.measure import child, temporary_home, tree_cpu
from bench.report import Row, Step
from flywheel.services import Service, Services
from flywheel.settings import Settings

CONCURRENCY = (1, 8)
WARMUP_SECONDS, SECONDS = 1, 4

DIRECT, THROUGH = "direct Triton", "through the gateway"


class GatewayBenchmarkError(RuntimeError):
    """The surroundings are not as the benchmark needs them; the message says how."""


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    url: str
    requests: list[bytes]


@dataclass(frozen=True)
class Cost:
    """CPU microseconds per answered request, and failed requests."""

    gateway: float
    triton: float
    errors: int

    @property
    def total(self) -> float:
        """Both servers together."""
        return self.gateway + self.triton


def measure(repeat: int, step: Step) -> list[Row]:
    """Serve the model, ask it both ways in turns, and take the median of the repeats."""
    with temporary_home() as settings, tempfile.TemporaryDirectory() as folder:
        step("train a small flights model")
        child("-m", "bench.gateway_bundle", folder)
        put_online(settings, Path(folder))
        services = Services(settings)
        try:
            step("start gateway and Triton")
            serving = services.start("serving")
            services.wait(serving)
            targets = deploy(serving, Path(folder))
            return _measure(serving, targets, repeat, step)
        finally:
            services.stop("serving")


def put_online(settings: Settings, folder: Path) -> None:
    """Push every view's rows to the online store, the newest of an entity last."""
    from assets.flights.flight_delay import FLIGHT_DELAY
    from resources.build import default_resources

    store = default_resources(settings)["feature_store"]
    store.apply("flights", FLIGHT_DELAY.views)
    for view in FLIGHT_DELAY.views:
        rows = pq.read_table(folder / f"{view.name}.parquet").sort_by("event_timestamp").to_pylist()
        newest = {tuple(row[key] for key in view.key_names): row for row in rows}
        store.push("flights", view, list(newest.values()))


def deploy(serving: Service, folder: Path) -> dict[str, Target]:
    """Deploy the bundle, and prepare the same cases for both ways of asking.

    Raises:
        GatewayBenchmarkError: The answers lean on defaults: the online store is not filled.
    """
    from flywheel_serving.bundle import open_bundle
    from flywheel_serving.client import ServingClient
    from flywheel_serving.inference import InferenceRequest

    client = ServingClient(serving.url)
    client.deploy(folder / BUNDLE, actor="bench", reason="benchmark")
    bundle = open_bundle(folder / BUNDLE)
    name = bundle.manifest.model
    cases = pq.read_table(folder / CASES).to_pylist()
    defaulted = [len(client.predict(name, case).defaulted_features) for case in cases]
    if median(defaulted) > len(bundle.manifest.inputs) / 4:
        raise GatewayBenchmarkError(
            f"of {len(bundle.manifest.inputs)} inputs {median(defaulted):.0f} were missing in the "
            "median request; look at bench/gateway_bundle.py"
        )
    predict = f"{serving.url}/v1/models/{name}/predict"
    json_type = {"Content-Type": "application/json"}
    build = InferenceRequest(bundle.manifest).build
    tensors = [
        build([float("nan") if v is None else v for v in numbers], categories)
        for numbers, categories in zip(bundle.probe.numeric, bundle.probe.categorical, strict=True)
    ]
    return {
        DIRECT: Target(f"http://127.0.0.1:{triton_port(serving)}", tensors),
        THROUGH: Target(
            serving.url,
            [post(predict, msgspec.json.encode(case), json_type) for case in cases],
        ),
    }


def triton_of(serving: Service) -> psutil.Process:
    """The Triton server that a gateway has started."""
    for process in psutil.Process(serving.pid).children():
        if process.name() == "tritonserver":
            return process
    raise GatewayBenchmarkError(f"the gateway {serving.pid} has no child called tritonserver")


def triton_port(serving: Service) -> int:
    """The HTTP port of the gateway's Triton."""
    flag = "--http-port="
    return next(
        int(part.removeprefix(flag))
        for part in triton_of(serving).cmdline()
        if part.startswith(flag)
    )


def _measure(serving: Service, targets: dict[str, Target], repeat: int, step: Step) -> list[Row]:
    costs: dict[tuple[int, str], list[Cost]] = {}
    for at_once in CONCURRENCY:
        for target in targets.values():
            send(target.url, target.requests, at_once, WARMUP_SECONDS)
    for turn in range(repeat):
        for at_once in CONCURRENCY:
            for subject, target in targets.items():
                step(f"{subject}, {at_once} at once, {turn + 1} of {repeat}")
                cost = _cost(serving, target, at_once)
                costs.setdefault((at_once, subject), []).append(cost)
    step("idle")
    rows = [_idle(serving)]
    for at_once in CONCURRENCY:
        direct = _median(costs[at_once, DIRECT], lambda one: one.total)
        for subject in targets:
            found = costs[at_once, subject]
            errors = sum(one.errors for one in found)
            total = _median(found, lambda one: one.total)
            split = (
                f" (gateway {_median(found, lambda one: one.gateway):.0f},"
                f" Triton {_median(found, lambda one: one.triton):.0f})"
            )
            rows.append(
                Row(
                    "gateway",
                    f"{subject}, {at_once} at once",
                    f"{total:.0f} CPU us/request{split if subject == THROUGH else ''}",
                    total / direct if subject == THROUGH else None,
                    "0 errors",
                    errors == 0,
                )
            )
    return rows


def _cost(serving: Service, target: Target, at_once: int) -> Cost:
    """CPU of the server processes per request; what they do when idle is in it."""
    before = _used(serving)
    load = send(target.url, target.requests, at_once, SECONDS)
    after = _used(serving)
    if not load.answered:
        raise GatewayBenchmarkError(f"{target.url} answered nothing: {load.errors} errors")
    gateway_cpu, triton_cpu = (
        1e6 * (then - now) / load.answered for now, then in zip(before, after, strict=True)
    )
    return Cost(gateway_cpu, triton_cpu, load.errors)


def _idle(serving: Service) -> Row:
    """What the servers need while nobody asks."""
    before = _used(serving)
    time.sleep(SECONDS)
    gateway, triton = (
        1e3 * (then - now) / SECONDS for now, then in zip(before, _used(serving), strict=True)
    )
    return Row("gateway", "idle", f"gateway {gateway:.0f}, Triton {triton:.0f} CPU ms/s")


def _used(serving: Service) -> tuple[float, float]:
    """CPU seconds so far of the gateway and of its Triton."""
    triton = triton_of(serving)
    return tree_cpu(psutil.Process(serving.pid), without=triton), tree_cpu(triton)


def _median(costs: list[Cost], of: Callable[[Cost], float]) -> float:
    return median(of(one) for one in costs)
