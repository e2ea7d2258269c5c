"""What a user meets whose training set cannot be learned from: a sentence, and no version.

The real model asset of the flights, on Iceberg and MLflow, with rows made up for the purpose.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from assets.flights.flight_delay import FLIGHT_DELAY
from assets.lifecycle import inputs, training
from assets.lifecycle.names import Lifecycle
from flywheel.checkpoints import Checkpoint, Checkpoints
from flywheel.onnx_runtime import predict
from flywheel.trainers.tabular import TabularNetwork
from flywheel.training import Trainer
from flywheel_serving.bundle import open_bundle
from resources.checkpoints import CheckpointFolder
from resources.io_manager import IcebergIOManager
from resources.lakehouse import Lakehouse, Window
from resources.registry import Registry
from tests.conftest import lakehouse_in
from tests.flywheel.full_disk import no_file_larger_than

AS_OF = date(2013, 3, 1)
ROWS, DAYS = 600, 40
NETWORK = TabularNetwork(hidden=(8,), epochs=3, batch_size=64, learning_rate=1e-2)


@dataclass(frozen=True)
class Turn:
    """How a run of the asset ended.

    Attributes:
        success: Whether it succeeded.
        error: What it failed with, class and message; empty if it succeeded.
        metadata: Of the materialization.
        status: Of its MLflow run.
        metrics: Of its MLflow run.
    """

    success: bool
    error: str
    metadata: dict[str, Any]
    status: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class World:
    """A lakehouse and a registry of its own.

    Attributes:
        lakehouse: With empty tables of everything that a training reads.
        registry: MLflow on SQLite.
        checkpoints: Of trainings under way.
    """

    lakehouse: Lakehouse
    registry: Registry
    checkpoints: CheckpointFolder

    def train(
        self,
        rows: pa.Table,
        trainer: Trainer = NETWORK,
        checkpoints: CheckpointFolder | None = None,
    ) -> Turn:
        """Put rows in the training set's table and materialize the model."""
        life = Lifecycle("flights", replace(FLIGHT_DELAY, trainer=trainer))
        table = inputs.training_set_table(life.spec)
        window = Window("as_of", AS_OF, AS_OF + timedelta(days=1))
        self.lakehouse.write(life.table("training_set"), table.conform(rows), window)
        result = dg.materialize(
            [training.training_set(life), training.model(life)],
            selection=[life.key("model")],
            partition_key=AS_OF.isoformat(),
            resources={
                "lakehouse": self.lakehouse,
                "io_manager": IcebergIOManager(lakehouse=self.lakehouse),
                "registry": self.registry,
                "checkpoints": checkpoints or self.checkpoints,
                "feature_store": dg.ResourceDefinition.none_resource(),
            },
            instance=dg.DagsterInstance.ephemeral(),
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
        client = self.registry.client
        experiment = client.get_experiment_by_name(life.spec.name)
        assert experiment is not None
        wanted = f"tags.dagster_run_id = '{result.run_id}'"
        (run,) = client.search_runs([experiment.experiment_id], wanted)
        made = result.asset_materializations_for_node("flights__flight_delay_model")
        failed = [e for e in result.all_events if e.is_step_failure]
        errors = [e.step_failure_data.error for e in failed]
        causes = [error.cause or error for error in errors if error is not None]
        return Turn(
            result.success,
            "\n".join(f"{cause.cls_name}: {cause.message}" for cause in causes),
            {k: v.value for m in made for k, v in m.metadata.items()},
            run.info.status,
            run.data.metrics,
        )

    @property
    def versions(self) -> list[str]:
        """Numbers of all registered versions."""
        return [version.number for version in self.registry.versions(FLIGHT_DELAY.name)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder: Path = tmp_path_factory.mktemp("world")
    lakehouse = lakehouse_in(folder)
    read = (FLIGHT_DELAY.spine.dataset, *(view.dataset for view in FLIGHT_DELAY.views))
    for dataset in read:
        lakehouse.write(f"flights.{dataset.name}", dataset.schema.empty_table())
    registry = Registry(
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
        artifact_root=f"file://{folder}/artifacts",
        ui_url="http://127.0.0.1:5050",
        bundle_cache=str(folder / "bundles"),
    )
    return World(lakehouse, registry, CheckpointFolder(folder=str(folder / "checkpoints")))


def cases(seed: int = 1) -> pa.Table:
    """Flights whose delay follows their hour; the last week is held out."""
    random = np.random.default_rng(seed)
    day = np.sort(random.integers(0, DAYS, ROWS))
    hour = random.integers(5, 23, ROWS)
    start = FLIGHT_DELAY.calendar.midnight(AS_OF - timedelta(days=DAYS))
    when = [start + timedelta(days=int(d), hours=int(h)) for d, h in zip(day, hour, strict=True)]
    late = random.random(ROWS) < 1 / (1 + np.exp(14.0 - hour))
    columns: dict[str, Any] = {
        "as_of": [AS_OF] * ROWS,
        "entity_id": [f"flight {i}" for i in range(ROWS)],
        "event_timestamp": when,
        "label": late,
        "label_known_at": [moment + timedelta(hours=3) for moment in when],
        "split": np.where(day < DAYS - 7, inputs.TRAIN, inputs.HOLDOUT),
    }
    for column in inputs.training_set_table(FLIGHT_DELAY).columns:
        if column.name not in columns:
            number = column.dtype == "float64"
            columns[column.name] = (
                random.normal(size=ROWS) if number else random.choice(["AA", "DL", "UA"], ROWS)
            )
    return pa.table({**columns, "hour": hour.astype(np.float64)})


def where(condition: Any, rows: pa.Table, column: str, value: Any) -> pa.Table:
    """The rows with another value where a condition holds."""
    kind = rows.schema.field(column).type
    changed = pc.if_else(condition, pa.scalar(value, kind), rows.column(column))
    return rows.set_column(rows.schema.get_field_index(column), column, changed)


GOOD = cases()
TRAINED_ON = pc.equal(GOOD.column("split"), inputs.TRAIN)
LATE = GOOD.column("label")
DAY = pc.day(GOOD.column("event_timestamp").cast(pa.timestamp("us", "UTC")))

BAD = {
    "no case at all": (GOOD.slice(0, 0), NETWORK, "holds no labelled case"),
    "all held out": (GOOD.filter(pc.invert(TRAINED_ON)), NETWORK, "holds no labelled case"),
    "a single day": (
        GOOD.filter(pc.and_(TRAINED_ON, pc.equal(DAY, 1))),
        NETWORK,
        "no labelled case to learn from",
    ),
    "all late": (GOOD.filter(LATE), NETWORK, "labelled cases to learn from have the same label"),
    "none late": (GOOD.filter(pc.invert(LATE)), NETWORK, "have the same label; widen the training"),
    "an infinite number": (
        where(pc.equal(GOOD.column("entity_id"), "flight 0"), GOOD, "distance", math.inf),
        NETWORK,
        "inputs ['distance'] hold infinite values",
    ),
    "a loss that is no number": (
        GOOD,
        replace(NETWORK, learning_rate=1e38, weight_decay=1e3),
        "lower the learning rate",
    ),
    "more workers than cases": (GOOD, replace(NETWORK, workers=100), "cannot share batches"),
}


@pytest.mark.parametrize(("rows", "trainer", "sentence"), BAD.values(), ids=BAD)
def test_what_cannot_be_learned_is_said_and_leaves_no_version(
    world: World, rows: pa.Table, trainer: Trainer, sentence: str
) -> None:
    before = world.versions
    turn = world.train(rows, trainer)
    assert not turn.success
    assert "TrainingError: " in turn.error
    assert sentence in turn.error
    assert turn.status == "FAILED"
    assert turn.metadata == {}
    assert world.versions == before


@pytest.mark.slow
def test_the_next_good_run_works(world: World) -> None:
    assert not world.train(GOOD.filter(LATE)).success
    before = world.versions
    turn = world.train(GOOD)
    assert turn.success
    assert turn.status == "FINISHED"
    assert turn.metadata["trained_now"]
    assert world.versions == [str(len(before) + 1), *before]


@pytest.mark.slow
def test_inputs_that_are_always_null_are_counted_and_do_no_harm(world: World) -> None:
    rows = where(True, where(True, cases(2), "distance", None), "dest", None)
    turn = world.train(rows)
    assert turn.success
    assert turn.metadata["all_null_inputs"] == turn.metrics["all_null_inputs"] == 2


@pytest.mark.slow
def test_a_category_that_training_never_saw_is_answered_as_an_unknown_one(world: World) -> None:
    rows = cases(3)
    asked = pc.equal(rows.column("split"), inputs.HOLDOUT)
    rows = where(asked, rows, "carrier", "ZZ")
    assert world.train(rows).success
    newest = world.registry.versions(FLIGHT_DELAY.name)[0]
    bundle = open_bundle(world.registry.bundle(newest))
    held_out = rows.filter(asked)
    unknown = where(True, held_out, "carrier", None)
    answers = [
        predict((bundle.directory / "model.onnx").read_bytes(), inputs.encode(bundle.manifest, of))
        for of in (held_out, unknown)
    ]
    assert np.isfinite(answers[0]).all()
    np.testing.assert_array_equal(*answers)


class FullDisk(Checkpoints):
    """On a disk that has no room after the first checkpoint."""

    def save(self, checkpoint: Checkpoint) -> None:
        with no_file_larger_than(500) if checkpoint.step > 1 else nullcontext():
            super().save(checkpoint)


class FolderOnFullDisk(CheckpointFolder):
    """Keeps checkpoints there."""

    def of(self, fingerprint: str) -> Checkpoints:
        return FullDisk(super().of(fingerprint).folder)


@pytest.mark.slow
def test_a_full_disk_costs_the_checkpoints_and_not_the_version(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = world.versions
    turn = world.train(cases(4), checkpoints=FolderOnFullDisk(folder=str(tmp_path)))
    assert turn.success
    assert len(world.versions) == len(before) + 1
    assert turn.metadata["missed_checkpoints"] == turn.metrics["missed_checkpoints"] == 2
    assert caplog.text.count("Make room on that disk") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_for_checkpoints_that_is_none_is_said_before_the_first_epoch(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    before = world.versions
    turn = world.train(cases(5), checkpoints=CheckpointFolder(folder=str(tmp_path / "file")))
    assert not turn.success
    assert "CheckpointError: checkpoints cannot be written to" in turn.error
    assert turn.status == "FAILED"
    assert world.versions == before
