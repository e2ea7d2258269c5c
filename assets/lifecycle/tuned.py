"""What sweeps found: their table, and the trainer with the best parameters that a morning knows."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from assets.lifecycle.names import Lifecycle
from flywheel.dataset import Dataset, columns, required
from flywheel.model import ModelSpec
from flywheel.sweep import from_json, to_json, with_parameters
from flywheel.training import Trainer
from resources.lakehouse import Lakehouse, Window

PARAMETERS = "sweep_parameters"


@dataclass(frozen=True)
class Tuned:
    """A model with the parameters it is trained with.

    Attributes:
        life: The model; its trainer is the one to use.
        sweep_as_of: The sweep that found them; None if they are as declared.
        parameters: What it found, by field.
    """

    life: Lifecycle
    sweep_as_of: date | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tags(self) -> dict[str, str]:
        """Where the parameters come from, for the registry; nothing if they are as declared."""
        if self.sweep_as_of is None:
            return {}
        return {
            "sweep_as_of": self.sweep_as_of.isoformat(),
            PARAMETERS: to_json(self.parameters),
        }


def sweep_table(spec: ModelSpec) -> Dataset:
    """One row per trial."""
    return Dataset(
        name=f"{spec.name}_sweep",
        key=("as_of", "trial"),
        partition_by="as_of",
        columns=columns(
            required("as_of", "date", "The morning whose training set was searched on."),
            required("trial", "int64", "Number of the trial; 0 is the trainer as declared."),
            required("state", "string", "How it ended: complete, pruned or failed."),
            ("value", "float64", "Validation log-loss in nats; of a pruned trial the last one."),
            required("parameters", "string", "What was tried: JSON, by field of the trainer."),
            ("epochs", "int64", "Steps that were fitted: epochs, or trees."),
            required("seconds", "float64", "How long it took."),
            ("sentence", "string", "Why it failed."),
            required("trainer", "string", "Kind and recipe version of the trainer."),
        ),
    )


def trainer_name(trainer: Trainer) -> str:
    """Kind and recipe version: parameters of another one mean something else."""
    return f"{type(trainer).__name__} {trainer.version}"


def tuned(life: Lifecycle, as_of: date, lakehouse: Lakehouse) -> Tuned:
    """The model with what the newest sweep up to a morning found best, or as it is declared.

    A sweep of another trainer, or over other fields than are searched today, is passed over.
    """
    spec = life.spec
    if spec.sweep is None or not lakehouse.exists(life.table("sweep")):
        return Tuned(life)
    known = Window("as_of", spec.calendar.start, as_of + timedelta(days=1))
    best: dict[str, Any] | None = None
    for row in lakehouse.read(life.table("sweep"), known).to_pylist():
        row["parameters"] = from_json(row["parameters"])
        if (
            row["state"] == "complete"
            and row["trainer"] == trainer_name(spec.trainer)
            and set(row["parameters"]) == set(spec.sweep.space)
            and (best is None or _rank(row) < _rank(best))
        ):
            best = row
    if best is None:
        return Tuned(life)
    return Tuned(_with(life, best["parameters"]), best["as_of"], best["parameters"])


def as_swept(life: Lifecycle, tags: Mapping[str, str]) -> Lifecycle:
    """The model with the parameters that were on record (`Tuned.tags`), whatever is best today."""
    found = tags.get(PARAMETERS)
    return _with(life, from_json(found)) if found else life


def _with(life: Lifecycle, parameters: Mapping[str, Any]) -> Lifecycle:
    trainer = with_parameters(life.spec.trainer, parameters)
    return dataclasses.replace(life, spec=dataclasses.replace(life.spec, trainer=trainer))


def _rank(row: Mapping[str, Any]) -> tuple[int, float, int]:
    """The newest sweep first; of its trials the one with the least loss, the first of equals."""
    return -row["as_of"].toordinal(), row["value"], row["trial"]
