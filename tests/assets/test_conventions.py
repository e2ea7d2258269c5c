"""The rules of the house that no linter knows: names, arrows between the rooms, and what loads."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

import assets
import definitions
from assets.discovery import domains

ROOT = Path(definitions.__file__).parent
SPECS = sorted(definitions.defs.resolve_all_asset_specs(), key=lambda spec: spec.key)

ROOMS = ("flywheel", "assets", "resources", "jobs", "sensors")

# What the modules of a room may never import, wherever the statement stands.
FORBIDDEN = {
    "flywheel": {"dagster", "assets", "resources", "jobs", "sensors", "flywheel_serving"},
    "resources": {"assets", "jobs", "sensors"},
    "assets": {"jobs", "sensors"},
    "jobs": {"sensors"},
    "serving/src": {"flywheel", "assets", "resources", "jobs", "sensors", "dagster"},
}

HEAVY = {
    "evidently", "feast", "great_expectations", "lightgbm", "matplotlib", "mlflow", "onnxruntime",
    "optuna", "pandas", "pyiceberg", "ray", "sklearn", "torch", "tritonclient",
}  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.key.to_user_string())
def test_an_asset_lies_in_the_group_that_its_key_begins_with(spec: dg.AssetSpec) -> None:
    assert len(spec.key.path) == 2
    assert spec.group_name == spec.key.path[0]
    assert (ROOT / "assets" / spec.key.path[0]).is_dir()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.key.to_user_string())
def test_an_asset_says_what_it_is_whose_it_is_and_of_what_it_is_made(spec: dg.AssetSpec) -> None:
    assert len(spec.description or "") > 10
    assert spec.owners
    assert spec.kinds
    assert "flywheel/layer" in spec.tags


def test_every_dataset_and_view_keeps_its_contract_before_anything_reads_it() -> None:
    graph = definitions.defs.resolve_asset_graph()
    tables = [
        spec.key
        for spec in SPECS
        if spec.tags["flywheel/layer"] in ("dataset", "features") and "iceberg" in spec.kinds
    ]
    assert len(tables) >= 12
    assert all(graph.get(dg.AssetCheckKey(key, "contract")).blocking for key in tables)


def modules(room: str) -> Iterator[Path]:
    yield from sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level packages that a module imports anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_go_one_way(room: str) -> None:
    paths = list(modules(room))
    assert paths
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in paths
        if (bad := imported(path) & FORBIDDEN[room])
    }
    assert not wrong


def test_nothing_imports_the_front_door() -> None:
    paths = [path for room in (*ROOMS, "serving/src") for path in modules(room)]
    # Programs of their own: `python -m jobs.demo`, and what `flywheel backtest` runs.
    programs = {ROOT / "jobs" / "demo.py", ROOT / "jobs" / "walk_forward.py"}
    assert [p for p in paths if "definitions" in imported(p) and p not in programs] == []


def test_loading_the_code_location_loads_nothing_heavy(tmp_path: Path) -> None:
    script = "import definitions, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=ROOT,
        env={**os.environ, "FLYWHEEL_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(json.loads(done.stdout))
    assert "assets.flights.flight_delay" in loaded
    assert loaded & HEAVY == set()


DICE = '''
"""Throws of a die, and whether the next one is a six."""

from datetime import date, timedelta

import pyarrow as pa

from assets.authoring import AssetContext, dataset, feature_view
from flywheel.calendar import Calendar
from flywheel.dataset import Dataset, columns, required
from flywheel.features import FeatureView, join_keys, number
from flywheel.gates import AtLeast
from flywheel.model import DriftPolicy, ModelSpec, RequestField, Spine, view_inputs
from flywheel.trainers.tabular import TabularNetwork

NIGHTS = Calendar(date(2024, 1, 1), "Europe/Monaco")

THROWS = Dataset(
    name="throws",
    key=("throw_id",),
    partition_by="thrown_at",
    columns=columns(
        required("throw_id", "string", "Throw."),
        required("thrown_at", "timestamp", "When."),
        required("player", "string", "Who."),
        ("six", "bool", "What came of it."),
        ("landed_at", "timestamp", "When it lay still."),
    ),
)

LUCK = FeatureView(
    name="luck",
    join_keys=join_keys("player"),
    features=(number("sixes_1h", "Sixes in the last hour."),),
    ttl=timedelta(hours=12),
    description="How lucky a player has been.",
    owner="team:casino",
)


@dataset(THROWS, calendar=NIGHTS, owner="team:casino")
def throws(context: AssetContext) -> pa.Table: ...


@feature_view(LUCK, calendar=NIGHTS)
def luck(throws: pa.Table) -> pa.Table: ...


NEXT_SIX = ModelSpec(
    name="next_six",
    description="Probability of a six.",
    owner="team:casino",
    calendar=NIGHTS,
    spine=Spine(
        dataset=THROWS,
        entity_id="throw_id",
        event_timestamp="thrown_at",
        label="six",
        label_known_at="landed_at",
        request=(RequestField("throw_id", "string"), RequestField("player", "string")),
    ),
    views=(LUCK,),
    inputs=tuple(view_inputs(LUCK, age=True)),
    trainer=TabularNetwork(),
    gates=(AtLeast(),),
    drift=DriftPolicy(signals=("luck__sixes_1h",)),
)
'''


@pytest.fixture
def second_domain(tmp_path: Path) -> Iterator[dg.Definitions]:
    """The definitions after a folder `dice` was put beside `flights`."""
    folder = tmp_path / "dice"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "throws.py").write_text(DICE)
    assets.__path__.append(str(tmp_path))
    domains.cache_clear()
    try:
        yield definitions.build_definitions()
    finally:
        assets.__path__.remove(str(tmp_path))
        domains.cache_clear()
        for name in [name for name in sys.modules if name.startswith("assets.dice")]:
            del sys.modules[name]


def test_adding_a_model_is_one_folder_and_no_plumbing(second_domain: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(second_domain)
    keys = {s.key.to_user_string() for s in second_domain.resolve_all_asset_specs()}
    flights = {spec.key.to_user_string() for spec in SPECS}
    assert keys - flights == {
        "dice/throws",
        "dice/throws__quarantine",
        "dice/luck",
        "dice/online_features",
        "dice/maintenance",
        *(
            f"dice/next_six_{step}"
            for step in (
                "training_set", "model", "evaluation", "champion", "deployment",
                "predictions", "drift", "performance",
            )
        ),
    }  # fmt: skip
    assert flights <= keys
    repository = second_domain.get_repository_def()
    assert {"dice_data", "next_six_training", "next_six_monitoring", "next_six_replay"} <= {
        job.name for job in repository.get_all_jobs()
    }
    assert "next_six_drift" in {sensor.name for sensor in repository.sensor_defs}
    assert "next_six_retraining" in {schedule.name for schedule in repository.schedule_defs}


def test_two_models_of_one_name_are_refused(second_domain: dg.Definitions, tmp_path: Path) -> None:
    (tmp_path / "dice" / "again.py").write_text(
        "from dataclasses import replace\n"
        "from assets.dice.throws import NEXT_SIX\n"
        "AGAIN = replace(NEXT_SIX, seed=1)\n"
    )
    domains.cache_clear()
    with pytest.raises(ValueError, match=r"models \['next_six'\] are declared twice"):
        definitions.build_definitions()


def test_an_input_of_no_known_form_is_refused_in_a_sentence(
    second_domain: dg.Definitions, tmp_path: Path
) -> None:
    text = (tmp_path / "dice" / "throws.py").read_text()
    wrong = text.replace("throws: pa.Table", "throws: list").replace("next_six", "wrong")
    (tmp_path / "dice" / "wrong.py").write_text(wrong)
    domains.cache_clear()
    with pytest.raises(dg.DagsterInvalidDefinitionError, match=r"luck: annotate 'throws' as pa.T"):
        definitions.build_definitions()


def test_a_function_that_is_named_otherwise_than_its_table_is_refused(
    second_domain: dg.Definitions, tmp_path: Path
) -> None:
    text = (tmp_path / "dice" / "throws.py").read_text()
    (tmp_path / "dice" / "wrong.py").write_text(text.replace("def luck", "def fortune"))
    domains.cache_clear()
    with pytest.raises(
        dg.DagsterInvalidDefinitionError, match="fortune computes 'luck'; give both"
    ):
        definitions.build_definitions()
