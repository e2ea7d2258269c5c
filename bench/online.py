"""What reading features online costs: our readers beside Feast's SDK, on SQLite and on Redis.

One request is the features of four views of the flights model, twelve in all. Every subject reads
the same requests in a process of its own, in turns with the others; its CPU is what the gateway
would spend. Redis works in its own process, which is not counted.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from statistics import median
from typing import Any

from bench.measure import child, report
from bench.report import Row, Step

NAME = "online"
DOMAIN = "flights"
WANTED = {
    "carrier_delays": 3,
    "origin_delays": 3,
    "aircraft_legs": 3,
    "origin_weather": 3,
}
KEYS, REQUESTS, WARM_UP = 200, 3000, 300
EVENT = datetime(2013, 3, 1, 12, tzinfo=UTC)

P99_MS, CPU_US = 1.0, 150.0

SUBJECTS = {
    "our reader, SQLite": ("ours", "sqlite"),
    "our reader, Redis": ("ours", "redis"),
    "Feast SDK, SQLite": ("feast", "sqlite"),
    "Feast SDK, Redis": ("feast", "redis"),
}


def measure(repeat: int, step: Step) -> list[Row]:
    """Fill both stores, and read from them in turns."""
    with tempfile.TemporaryDirectory(prefix="flywheel-bench-") as folder, redis_server() as url:
        places = {"sqlite": f"{folder}/online.db", "redis": url}
        for place in places.values():
            step("fill the online stores")
            child("-m", "bench.online", "fill", folder, place)
        taken: dict[str, list[dict[str, float]]] = {subject: [] for subject in SUBJECTS}
        for turn in range(repeat):
            for subject, (reader, place) in SUBJECTS.items():
                step(f"{subject}, {turn + 1} of {repeat}")
                result = child("-m", "bench.online", reader, folder, places[place]).result
                taken[subject].append(result)
    middle = {
        subject: {key: median([one[key] for one in results]) for key in results[0]}
        for subject, results in taken.items()
    }
    return [row for subject in SUBJECTS for row in _rows(subject, middle)]


def _rows(subject: str, middle: dict[str, dict[str, float]]) -> Iterator[Row]:
    one = middle[subject]
    place = SUBJECTS[subject][1]
    sdk = next(middle[s] for s, (reader, p) in SUBJECTS.items() if (reader, p) == ("feast", place))
    ours = SUBJECTS[subject] == ("ours", "redis")
    yield Row(
        NAME, f"{subject}: CPU a read", f"{one['cpu_us']:.0f} us", one["cpu_us"] / sdk["cpu_us"],
        f"<= {CPU_US:.0f} us" if ours else "", one["cpu_us"] <= CPU_US if ours else None,
    )  # fmt: skip
    yield Row(
        NAME, f"{subject}: latency p50 / p99", f"{one['p50_ms']:.2f} / {one['p99_ms']:.2f} ms",
        one["p99_ms"] / sdk["p99_ms"],
        f"p99 < {P99_MS:.0f} ms" if ours else "", one["p99_ms"] < P99_MS if ours else None,
    )  # fmt: skip
    yield Row(NAME, f"{subject}: CPU of its import", f"{one['import_s']:.2f} s")


@contextmanager
def redis_server() -> Iterator[str]:
    """A redis-server in memory on a free loopback port; gives its URL."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise RuntimeError("there is no redis-server; install the package of that name")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def feature_store(folder: str, online: str) -> Any:
    """Feast over an empty lakehouse in a folder."""
    from resources.feature_store import FeatureStore

    kind = "redis" if online.startswith("redis") else "sqlite"
    return FeatureStore(
        registry=f"sqlite:///{folder}/{kind}-registry.db",
        online_store=online,
        catalog_uri=f"sqlite:///{folder}/catalog.db",
        warehouse=f"file://{folder}/warehouse",
    )


def views() -> list[Any]:
    """The views that are read."""
    from assets.flights.flight_delay import FLIGHT_DELAY

    return [view for view in FLIGHT_DELAY.views if view.name in WANTED]


def keys(n: int) -> dict[str, str]:
    """Join keys of the n-th entity of each kind."""
    return {name: f"{name}-{n}" for name in ("carrier", "origin", "tailnum")}


def fill(folder: str, online: str) -> None:
    """Write a row of every key."""
    chance = random.Random(1)
    store = feature_store(folder, online)
    store.apply(DOMAIN, views())
    for view in views():
        rows = [
            {
                **{name: keys(n)[name] for name in view.key_names},
                **{name: chance.gauss(0, 30) for name in view.feature_names},
                "event_timestamp": EVENT,
                "created_timestamp": EVENT,
            }
            for n in range(KEYS)
        ]
        store.push(DOMAIN, view, rows)


def requests() -> list[dict[str, str]]:
    """Join keys of all requests."""
    chance = random.Random(2)
    return [keys(chance.randrange(KEYS)) for _ in range(REQUESTS)]


def references() -> list[str]:
    """The features of a request, as Feast writes them."""
    return [
        f"{view.name}:{name}"
        for view in views()
        for name in view.feature_names[: WANTED[view.name]]
    ]


def ours(_: str, online: str) -> None:
    """Read as the gateway does: lookups are made, read and decoded, on uvloop."""
    before = time.process_time()
    import msgspec
    import uvloop

    from flywheel_serving.online_store import KeyedView, open_online_store

    store = open_online_store(online)
    imported = time.process_time() - before
    from resources.online_view import online_view

    keyed = []
    for view in views():
        whole = online_view(view)
        some = msgspec.structs.replace(whole, features=whole.features[: WANTED[view.name]])
        keyed.append((KeyedView(some), view.key_names))

    async def read(one: dict[str, str]) -> bool:
        lookups = [view.lookup([one[name] for name in names]) for view, names in keyed]
        rows = await store.read(DOMAIN, [lookup for lookup in lookups if lookup is not None])
        return None not in rows

    async def run() -> None:
        asked = requests()
        for one in asked[:WARM_UP]:
            assert await read(one), "a row is missing"
        watch = Watch()
        for one in asked:
            watch.start()
            await read(one)
            watch.stop()
        watch.report(imported)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def sdk(folder: str, online: str) -> None:
    """Read through Feast's SDK, one row at a time."""
    before = time.process_time()
    store = feature_store(folder, online).store(DOMAIN)
    module = "redis" if online.startswith("redis") else "sqlite"
    import_module(f"feast.infra.online_stores.{module}")
    imported = time.process_time() - before
    features = references()

    def read(one: dict[str, str]) -> bool:
        answer = store.get_online_features(
            features=features, entity_rows=[one], full_feature_names=True
        ).to_dict()
        return [None] not in answer.values()

    asked = requests()
    for one in asked[:WARM_UP]:
        assert read(one), "a row is missing"
    watch = Watch()
    for one in asked:
        watch.start()
        read(one)
        watch.stop()
    watch.report(imported)


class Watch:
    """Wall and CPU time of single reads."""

    def __init__(self) -> None:
        self._taken: list[float] = []
        self._cpu = time.process_time()
        self._since = 0.0

    def start(self) -> None:
        """A read begins."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """It has ended."""
        self._taken.append(time.perf_counter() - self._since)

    def report(self, import_seconds: float) -> None:
        """Hand over CPU a read, percentiles of the latency, and what the imports cost."""
        cpu = time.process_time() - self._cpu
        taken = sorted(self._taken)
        report(
            {
                "cpu_us": cpu / len(taken) * 1e6,
                "p50_ms": taken[len(taken) // 2] * 1e3,
                "p99_ms": taken[len(taken) * 99 // 100] * 1e3,
                "import_s": import_seconds,
            }
        )


if __name__ == "__main__":
    {"fill": fill, "ours": ours, "feast": sdk}[sys.argv[1]](sys.argv[2], sys.argv[3])
