"""A real int8 candidate of the flights model before the gates about its data and its artifact."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from assets.lifecycle import inputs
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.quality import data_quality
from assets.lifecycle.training import model, split_rows, training_set
from flywheel.contest import Contest, TrialPlan
from flywheel.evaluation import score
from flywheel.gates import Latency, Loads, Quantized, SizeLimit, ValidData, trial_plan
from flywheel.onnx_runtime import predict
from flywheel.quantization import FLOAT_FILE, compare_with_original
from flywheel_serving.bundle import Bundle, open_bundle
from resources.trials import TrialError
from tests.end_to_end.world import QUIET, World

pytestmark = pytest.mark.slow

AS_OF = "2013-01-15"
GATES = (
    ValidData(),
    Quantized(tolerance=0.002),
    Loads(),
    Latency(p99_ms=2000.0, requests=200),
    SizeLimit(megabytes=0.2),
)


@pytest.fixture(scope="module")
def life(world: World) -> Lifecycle:
    """The flights model in int8, trained and registered."""
    spec = replace(world.life.spec, name="flight_delay_int8", precision="int8", gates=GATES)
    life = Lifecycle("flights", spec)
    ended = dg.materialize(
        [training_set(life), model(life)], partition_key=AS_OF, instance=world.instance,
        resources=world.resources, run_config=QUIET,
    )  # fmt: skip
    assert ended.success
    return life


@pytest.fixture(scope="module")
def bundle(world: World, life: Lifecycle) -> Bundle:
    registry = world.resources["registry"]
    (version,) = registry.versions(life.spec.name)
    return open_bundle(registry.bundle(version))


def test_the_float_original_travels_in_the_bundle(bundle: Bundle) -> None:
    original = bundle.directory / FLOAT_FILE
    assert FLOAT_FILE in bundle.manifest.files
    assert bundle.model_path.stat().st_size < original.stat().st_size / 2.5


def test_the_candidate_passes_on_evidence_from_the_lakehouse_and_from_triton(
    world: World, life: Lifecycle, bundle: Bundle
) -> None:
    lakehouse = world.resources["lakehouse"]
    rows = split_rows(lakehouse.read(life.table("training_set")), inputs.HOLDOUT)
    cases = inputs.encode(bundle.manifest, rows)
    int8 = bundle.model_path.read_bytes()
    plan = trial_plan(GATES)
    assert plan == TrialPlan((8,), 200)
    contest = Contest(
        score(cases.label, predict(int8, cases)),
        None,
        trial=world.resources["trials"].run(bundle.directory, plan),
        data=data_quality(life, date.fromisoformat(AS_OF), lakehouse),
        quantization=compare_with_original(
            (bundle.directory / FLOAT_FILE).read_bytes(), int8, cases
        ),
    )
    verdicts = [gate.judge(contest) for gate in GATES]
    assert {v.gate: v.sentence for v in verdicts if not v.passed} == {}
    assert verdicts[0].evidence["tables"] == 1 + len(life.spec.views)
    assert verdicts[0].evidence["rows"] > 10_000
    assert verdicts[1].evidence["times smaller"] > 2.5


def test_what_cannot_be_tried_is_an_error_and_no_verdict(world: World, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="cannot be tried .*manifest.json does not exist"):
        world.resources["trials"].run(tmp_path, TrialPlan())
