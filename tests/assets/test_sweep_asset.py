"""A sweep as an asset: a row per trial, runs in MLflow, and models that take what it found."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from assets.discovery import Domain
from assets.lifecycle import inputs
from assets.lifecycle.build import lifecycle_assets
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.sweep import sweep
from assets.lifecycle.training import model, split_rows
from assets.lifecycle.tuned import tuned
from flywheel.calendar import Calendar
from flywheel.dataset import Dataset, columns, required
from flywheel.gates import AtLeast
from flywheel.model import DriftPolicy, Input, ModelSpec, RequestField, SpecError, Spine
from flywheel.settings import ROOT, Settings
from flywheel.study_place import JOURNAL
from flywheel.sweep import Float, Int, Sweep, from_json
from flywheel.trainers.linear import LogisticRegression
from flywheel.trainers.trees import GradientBoosting
from jobs.build import jobs_and_schedules
from resources.build import default_resources
from resources.checkpoints import CheckpointFolder
from resources.io_manager import IcebergIOManager
from resources.registry import Registry
from resources.sweeps import Sweeps
from tests.conftest import lakehouse_in

THROWS = Dataset(
    name="throws",
    key=("throw_id",),
    partition_by="thrown_at",
    columns=columns(
        required("throw_id", "string", "Throw."),
        required("thrown_at", "timestamp", "When."),
        required("table", "string", "Where."),
        ("force", "float64", "How hard."),
        ("six", "bool", "What came of it."),
        ("landed_at", "timestamp", "When it lay still."),
    ),
)

SIXES = ModelSpec(
    name="next_six",
    description="Probability of a six.",
    owner="team:casino",
    calendar=Calendar(date(2024, 1, 1), "UTC"),
    spine=Spine(
        dataset=THROWS,
        entity_id="throw_id",
        event_timestamp="thrown_at",
        label="six",
        label_known_at="landed_at",
        request=(
            RequestField("throw_id", "string"),
            RequestField("thrown_at", "timestamp"),
            RequestField("table", "string"),
            RequestField("force", "float"),
        ),
    ),
    views=(),
    inputs=(
        Input("table", "request:table", "category"),
        Input("force", "request:force", "number"),
    ),
    trainer=GradientBoosting(trees=20),
    gates=(AtLeast(),),
    drift=DriftPolicy(signals=("force",), window_days=1),
    training_days=14,
    holdout_days=2,
    sweep=Sweep({"trees": Int(5, 80), "learning_rate": Float(0.005, 0.5, log=True)}, trials=8),
)
LIFE = Lifecycle("dice", SIXES)
FIRST, SECOND = "2024-02-01", "2024-02-15"


def training_set(as_of: str, *, spoilt_holdout: bool = False) -> pa.Table:
    """Two weeks of throws before a morning; the table and the force say how they end."""
    random = np.random.default_rng(date.fromisoformat(as_of).toordinal())
    morning = datetime.fromisoformat(as_of).replace(tzinfo=UTC)
    rows = []
    for n in range(700):
        when = morning - timedelta(minutes=28 * (700 - n))
        force, table = float(random.normal()), str(random.choice(["low", "high"]))
        six = bool(random.random() < 1 / (1 + np.exp(-2 * np.sin(2 * force) - (table == "high"))))
        held_out = when >= morning - timedelta(days=2)
        rows.append(
            {
                "as_of": date.fromisoformat(as_of),
                "entity_id": f"t{n}",
                "event_timestamp": when,
                "label": not six if held_out and spoilt_holdout else six,
                "label_known_at": when + timedelta(minutes=1),
                "split": inputs.HOLDOUT if held_out else inputs.TRAIN,
                "table": table,
                "force": force,
            }
        )
    declared = inputs.training_set_table(SIXES)
    return declared.conform(pa.Table.from_pylist(rows, schema=declared.schema))


@dataclasses.dataclass
class Casino:
    """Real Iceberg and MLflow in a folder, with two training sets."""

    folder: Path
    life: Lifecycle = LIFE

    def __post_init__(self) -> None:
        self.lakehouse = lakehouse_in(self.folder)
        self.registry = Registry(
            tracking_uri=f"sqlite:///{self.folder}/mlflow.db",
            artifact_root=f"file://{self.folder}/artifacts",
            ui_url="http://127.0.0.1:5050",
            bundle_cache=str(self.folder / "bundles"),
        )
        self.instance = dg.DagsterInstance.ephemeral()

    def prepare(self) -> None:
        """Write what is upstream of the sweep."""
        self.lakehouse.write("dice.throws", THROWS.schema.empty_table())
        for as_of in (FIRST, SECOND):
            self.write(training_set(as_of))

    def write(self, rows: pa.Table) -> None:
        from resources.lakehouse import Window

        day = rows.column("as_of")[0].as_py()
        window = Window("as_of", day, day + timedelta(days=1))
        self.lakehouse.write(LIFE.table("training_set"), rows, window)

    def materialize(self, step: Any, as_of: str, life: Lifecycle | None = None) -> dict[str, Any]:
        """Materialize one asset of the model; its metadata."""
        life = life or self.life
        upstream = dg.AssetSpec(LIFE.key("training_set"), partitions_def=LIFE.as_of)
        asset = step(life)
        done = dg.materialize(
            [asset, upstream.with_io_manager_key("io_manager")],
            selection=[asset],
            partition_key=as_of,
            instance=self.instance,
            resources={
                "lakehouse": self.lakehouse,
                "io_manager": IcebergIOManager(lakehouse=self.lakehouse),
                "registry": self.registry,
                "checkpoints": CheckpointFolder(folder=str(self.folder / "checkpoints")),
                "sweeps": Sweeps(folder=str(self.folder / "sweeps")),
            },
        )
        events = done.asset_materializations_for_node(asset.node_def.name)
        (event,) = (one for one in events if one.asset_key == asset.key)
        return {name: value.value for name, value in event.metadata.items()}

    def trials(self, as_of: str) -> list[dict[str, Any]]:
        """The sweep's rows of a morning, but for how long they took."""
        rows = self.lakehouse.read(LIFE.table("sweep")).drop_columns(["seconds"]).to_pylist()
        return [row for row in rows if row["as_of"] == date.fromisoformat(as_of)]


@pytest.fixture(scope="module")
def casino(tmp_path_factory: pytest.TempPathFactory) -> Casino:
    made = Casino(tmp_path_factory.mktemp("casino"))
    made.prepare()
    return made


@pytest.fixture(scope="module")
def unswept(casino: Casino) -> dict[str, Any]:
    """Metadata of the model before there is any sweep."""
    return casino.materialize(model, FIRST)


@pytest.fixture(scope="module")
def swept(casino: Casino, unswept: dict[str, Any]) -> dict[str, Any]:
    """Metadata of the first sweep."""
    assert unswept["trained_now"]
    return casino.materialize(sweep, FIRST)


def found(casino: Casino, as_of: str) -> dict[str, Any]:
    complete = [row for row in casino.trials(as_of) if row["state"] == "complete"]
    return min(complete, key=lambda row: row["value"])


def test_a_sweep_is_a_table_with_a_row_per_trial(casino: Casino, swept: dict[str, Any]) -> None:
    rows = casino.trials(FIRST)
    assert [row["trial"] for row in rows] == list(range(8))
    assert from_json(rows[0]["parameters"]) == {"learning_rate": 0.07, "trees": 20}
    assert {row["trainer"] for row in rows} == {"GradientBoosting trees-1"}
    winner = found(casino, FIRST)
    assert winner["value"] < rows[0]["value"]
    assert swept["best_validation_loss"] == winner["value"]
    assert swept["declared_validation_loss"] == rows[0]["value"]
    assert swept["best_parameters"] == from_json(winner["parameters"])
    for picture in ("history", "parallel_coordinates", "parameter_importance"):
        assert swept[picture].startswith("![")


def test_mlflow_shows_a_run_per_trial_under_the_sweeps(
    casino: Casino, swept: dict[str, Any], tmp_path: Path
) -> None:
    client = casino.registry.client
    parent = client.get_run(swept["mlflow_run"].rpartition("/")[2])
    winner = found(casino, FIRST)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best_validation_loss"] == winner["value"]
    assert parent.data.params["best_trial"] == str(winner["trial"])
    best_trees = from_json(winner["parameters"])["trees"]
    assert parent.data.params["best.trees"] == str(best_trees)
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    shown = {
        int(run.data.tags["trial"]): (
            run.data.tags["state"],
            run.data.metrics.get("validation_loss"),
            int(run.data.params["trees"]),
        )
        for run in children
    }
    assert shown == {
        row["trial"]: (row["state"], row["value"], from_json(row["parameters"])["trees"])
        for row in casino.trials(FIRST)
    }
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    file = client.download_artifacts(parent.info.run_id, "study/study.journal", str(tmp_path))
    storage = JournalStorage(JournalFileBackend(file))
    (name,) = optuna.get_all_study_names(storage)
    assert optuna.load_study(study_name=name, storage=storage).best_value == winner["value"]


def test_a_model_takes_the_best_of_the_newest_sweep_that_its_morning_knows(
    casino: Casino, unswept: dict[str, Any], swept: dict[str, Any]
) -> None:
    assert "sweep_as_of" not in unswept
    declared = casino.registry.versions("next_six")[-1]
    assert "sweep_as_of" not in declared.tags

    trained = casino.materialize(model, FIRST)
    assert trained["trained_now"]
    assert trained["sweep_as_of"] == FIRST
    version = casino.registry.versions("next_six")[0]
    winner = found(casino, FIRST)
    # On the same training set it is the very fit that won.
    assert trained["best_validation_loss"] == pytest.approx(winner["value"], abs=1e-7)
    assert version.number == "2"
    assert version.tags["sweep_as_of"] == FIRST
    assert version.tags["sweep_parameters"] == winner["parameters"]
    logged = casino.registry.client.get_run(version.run_id).data.params
    assert logged["sweep_as_of"] == FIRST
    assert json.loads(logged["sweep_parameters"]) == json.loads(winner["parameters"])
    assert logged["trainer.trees"] == str(from_json(winner["parameters"])["trees"])
    assert version.tags["fingerprint"] != declared.tags["fingerprint"]
    assert not casino.materialize(model, FIRST)["trained_now"]

    def known(as_of: str, life: Lifecycle = LIFE) -> date | None:
        return tuned(life, date.fromisoformat(as_of), casino.lakehouse).sweep_as_of

    first, second = date.fromisoformat(FIRST), date.fromisoformat(SECOND)
    assert [known("2024-01-31"), known(SECOND)] == [None, first]
    casino.materialize(sweep, SECOND)
    assert [known("2024-02-14"), known(SECOND), known("2025-01-01")] == [first, second, second]
    effective = tuned(LIFE, second, casino.lakehouse)
    assert effective.parameters == from_json(found(casino, SECOND)["parameters"])
    assert effective.life.spec.trainer == GradientBoosting(**effective.parameters)

    # What another trainer, or another search, found says nothing about this one.
    line = LogisticRegression()
    other = dataclasses.replace(
        SIXES, trainer=line, sweep=Sweep({"regularisation": Float(0.01, 1)})
    )
    fewer = dataclasses.replace(SIXES, sweep=Sweep({"trees": Int(5, 80)}))
    plain = dataclasses.replace(SIXES, sweep=None)
    for spec in (other, fewer, plain):
        life = Lifecycle("dice", spec)
        assert tuned(life, second, casino.lakehouse).life == life
        assert known(SECOND, life) is None


def test_a_sweep_again_fits_nothing_and_changes_nothing(
    casino: Casino, swept: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = casino.lakehouse.current_snapshot(LIFE.table("sweep"))

    def untouched(*_: Any, **__: Any) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(GradientBoosting, "fit", untouched)
    again = casino.materialize(sweep, FIRST)
    assert again["best_parameters"] == swept["best_parameters"]
    assert casino.lakehouse.current_snapshot(LIFE.table("sweep")) == before


def test_the_held_out_days_are_not_looked_at(casino: Casino, swept: dict[str, Any]) -> None:
    before = casino.trials(FIRST)
    spoilt = training_set(FIRST, spoilt_holdout=True)
    assert split_rows(spoilt, inputs.TRAIN) == split_rows(training_set(FIRST), inputs.TRAIN)
    studies = len(list((casino.folder / "sweeps").iterdir()))
    casino.write(spoilt)
    try:
        casino.materialize(sweep, FIRST)
    finally:
        casino.write(training_set(FIRST))
    assert casino.trials(FIRST) == before
    assert len(list((casino.folder / "sweeps").iterdir())) == studies


KILLED = """
import sys
from pathlib import Path
from assets.lifecycle.sweep import sweep
from tests.assets.test_sweep_asset import FIRST, Casino
Casino(Path(sys.argv[1])).materialize(sweep, FIRST)
"""


@pytest.mark.slow
def test_a_killed_sweep_goes_on(casino: Casino, swept: dict[str, Any], tmp_path: Path) -> None:
    other = Casino(tmp_path)
    other.prepare()
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as killed:  # fmt: skip
        while killed.poll() is None:
            journals = list(tmp_path.glob(f"sweeps/*/{JOURNAL}"))
            if journals and journals[0].stat().st_size > 9000:
                break
            time.sleep(0.001)
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not other.lakehouse.exists(LIFE.table("sweep"))
    other.materialize(sweep, FIRST)
    assert other.trials(FIRST) == casino.trials(FIRST)


def test_only_a_model_with_a_sweep_has_the_asset_and_the_job() -> None:
    def made(spec: ModelSpec) -> tuple[dg.AssetGraph, set[str]]:
        domain = Domain("dice", (), (spec,))
        jobs, _schedules = jobs_and_schedules([domain])
        resources = default_resources(Settings())
        defined = dg.Definitions(assets=lifecycle_assets([domain]), resources=resources)
        graph = defined.resolve_asset_graph()
        return graph, {job.name for job in jobs}

    graph, jobs = made(SIXES)
    node = graph.get(LIFE.key("model"))
    assert LIFE.key("sweep") in node.parent_keys
    assert graph.get(LIFE.key("sweep")).parent_keys == {LIFE.key("training_set")}
    assert "next_six_sweep" in jobs
    mapping = node.partition_mappings[LIFE.key("sweep")]
    needed = mapping.get_upstream_mapped_partitions_result_for_partitions(
        LIFE.as_of.subset_with_partition_keys(["2024-02-15"]),
        LIFE.as_of,
        LIFE.as_of,
        current_time=datetime(2024, 3, 1, tzinfo=UTC),
    )
    keys = sorted(needed.partitions_subset.get_partition_keys())
    assert (keys[0], keys[-1], len(keys)) == ("2024-01-02", "2024-02-15", 45)

    graph, jobs = made(dataclasses.replace(SIXES, sweep=None))
    assert LIFE.key("sweep") not in graph.get_all_asset_keys()
    assert graph.get(LIFE.key("model")).parent_keys == {LIFE.key("training_set")}
    assert "next_six_sweep" not in jobs


def test_a_model_whose_sweep_does_not_fit_its_trainer_is_refused() -> None:
    with pytest.raises(SpecError, match=r"searches \['depth'\], which GradientBoosting lacks"):
        dataclasses.replace(SIXES, sweep=Sweep({"depth": Int(1, 2)}))
