"""The whole gate suite on one candidate, part by part: `python -m bench.gates_subject FOLDER`."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from assets.flights.flight_delay import FLIGHT_DELAY
from assets.lifecycle import inputs
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.quality import data_quality
from assets.lifecycle.training import pin_inputs
from bench.gates import DATA, INT8, TRIAL
from bench.gates_bundle import AS_OF, BUNDLE, CHAMPION, DEPARTURES, HELD_OUT
from bench.measure import report
from flywheel.contest import Cases, Contest
from flywheel.evaluation import score
from flywheel.gates import (
    AtLeast,
    BeatsChampion,
    Calibrated,
    Fairness,
    Gate,
    Latency,
    Loads,
    NoLeakage,
    NoSliceRegression,
    Quantized,
    SizeLimit,
    ValidData,
    slice_columns,
    trial_plan,
)
from flywheel.onnx_runtime import predict
from flywheel.quantization import FLOAT_FILE, compare_with_original
from flywheel.settings import Settings
from flywheel_serving.bundle import open_bundle
from resources.build import default_resources
from resources.lakehouse import Lakehouse

# Every gate but `Parity`, whose replay needs an online store. The limits are wide: what is measured
# is the asking, and a verdict that fails is a sign that a gate had nothing to judge.
GATES: tuple[Gate, ...] = (
    ValidData(),
    NoLeakage(),
    AtLeast("auc", 0.7),
    Calibrated(0.1),
    BeatsChampion("log_loss", margin=-0.1),
    NoSliceRegression(("carrier", "origin"), max_drop=0.1),
    Fairness("origin", max_gap=0.5),
    Quantized(tolerance=0.001),
    Loads(),
    Latency(p99_ms=100.0, at_concurrency=8, requests=2000),
    SizeLimit(megabytes=1.0),
)


@dataclass
class Parts:
    """Wall and CPU seconds of named parts, child processes that have ended included."""

    seconds: dict[str, tuple[float, float]]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure what happens inside."""
        wall, cpu = time.perf_counter(), _cpu()
        yield
        self.seconds[name] = (time.perf_counter() - wall, _cpu() - cpu)


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def main(folder: Path) -> None:
    """Put the tables into a lakehouse; then gather the evidence and judge, measured."""
    life = Lifecycle("flights", FLIGHT_DELAY)
    resources = default_resources(Settings())
    lakehouse = resources["lakehouse"]
    write_tables(life, lakehouse, folder)
    bundle = open_bundle(folder / BUNDLE)
    rows = pq.read_table(folder / HELD_OUT)
    encoded = inputs.encode(bundle.manifest, rows)
    int8 = bundle.model_path.read_bytes()
    theirs = predict((folder / CHAMPION).read_bytes(), encoded)
    ours = predict(int8, encoded)
    cases = Cases(
        label=encoded.label,
        day=rows.column("event_timestamp").cast("int64").to_numpy() // 86_400_000_000,
        candidate=ours,
        champion=theirs,
        slices={c: inputs.numpy_column(rows, c) for c in slice_columns(GATES)},
        features={i.name: inputs.numpy_column(rows, i.name) for i in FLIGHT_DELAY.inputs},
    )
    parts = Parts({})
    contest = Contest(score(encoded.label, ours), score(encoded.label, theirs), cases=cases)
    plan = trial_plan(GATES)
    assert plan is not None
    with parts.part(TRIAL):
        contest = replace(contest, trial=resources["trials"].run(bundle.directory, plan))
    with parts.part(DATA):
        contest = replace(contest, data=data_quality(life, AS_OF, lakehouse))
    with parts.part(INT8):
        original = (bundle.directory / FLOAT_FILE).read_bytes()
        found = compare_with_original(original, int8, encoded)
        contest = replace(contest, quantization=found)
    verdicts = {}
    for gate in GATES:
        name = type(gate).__name__
        with parts.part(name):
            verdicts[name] = gate.judge(contest)
    report(
        {
            "parts": parts.seconds,
            "failed": [v.sentence for v in verdicts.values() if not v.passed],
            "said": {name: v.sentence for name, v in verdicts.items()},
        }
    )


def write_tables(life: Lifecycle, lakehouse: Lakehouse, folder: Path) -> None:
    """The tables that the training read, and an empty training set, pinned as by a training."""
    spec = life.spec
    tables: dict[str, Any] = {spec.spine.dataset.name: (spec.spine.dataset, DEPARTURES)}
    tables |= {view.name: (view.dataset, f"{view.name}.parquet") for view in spec.views}
    for name, (declared, file) in tables.items():
        lakehouse.write(f"{life.domain}.{name}", declared.conform(pq.read_table(folder / file)))
    pin_inputs(life, AS_OF, lakehouse)
    training_set = inputs.training_set_table(spec).schema.empty_table()
    lakehouse.write(life.table("training_set"), training_set)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
