"""The declaration of a model: everything the lifecycle needs to know, and nothing it can derive.

From one `ModelSpec` in a domain's folder `assets/lifecycle` makes the training set, the model, its
evaluation, champion, deployment, predictions, drift and performance.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from flywheel.calendar import Calendar
from flywheel.column import NUMBERS
from flywheel.dataset import Column, Dataset
from flywheel.features import FeatureView
from flywheel.gates import Gate, Quantized, slice_columns
from flywheel.thresholds import Costs
from flywheel.trainers.baselines import Baseline
from flywheel.training import Trainer

if TYPE_CHECKING:
    from flywheel.sweep import Sweep

RequestFeatures = Callable[[Mapping[str, Any]], Mapping[str, float | str | None]]


class SpecError(ValueError):
    """A `ModelSpec` contradicts itself; the message names the part and what to change."""


@dataclass(frozen=True)
class RequestField:
    """One field of a request for a prediction; also a column of the spine dataset.

    Attributes:
        name: Field name.
        dtype: `timestamp` fields carry an offset.
        nullable: Whether it may be null or left out.
    """

    name: str
    dtype: Literal["string", "float", "int", "timestamp"]
    nullable: bool = False


@dataclass(frozen=True)
class Spine:
    """The cases to predict: which rows there are, when each is asked, and what came of it.

    Attributes:
        dataset: The dataset with one row per case, in the model's own domain.
        entity_id: Column that identifies a case.
        event_timestamp: Column with the moment of the question; nothing known later may be used.
        label: Boolean column, null while unknown or if there is none.
        label_known_at: Column with the moment the label became known.
        request: Columns that a client sends.
    """

    dataset: Dataset
    entity_id: str
    event_timestamp: str
    label: str
    label_known_at: str
    request: tuple[RequestField, ...]


@dataclass(frozen=True)
class Input:
    """One input of the model.

    Attributes:
        name: Column of the training set.
        source: `request:FIELD`, `transform:NAME`, `view:VIEW:FEATURE` or `age:VIEW` (minutes since
            the feature row became true).
        kind: Numbers may be missing; categories are learned from the training set.
        default: Stands in for a missing value; None lets the model handle it as missing.
    """

    name: str
    source: str
    kind: Literal["number", "category"]
    default: float | str | None = None


@dataclass(frozen=True)
class DriftPolicy:
    """When what is served has moved away from what the champion was trained on.

    A signal's threshold is the larger of `threshold` and `margin` times the greatest PSI that
    blocks of the same length inside the training window show among themselves.

    Attributes:
        signals: Inputs that may trigger training. The others are measured and shown only.
        window_days: Days of predictions that are compared.
        min_rows: Below this many predictions, or before the window is full, there is no verdict.
        threshold: Least PSI that counts (.25 is the usual "major shift", Siddiqi 2006).
        margin: Times the greatest PSI within the training window.
    """

    signals: tuple[str, ...]
    window_days: int = 7
    min_rows: int = 1000
    threshold: float = 0.25
    margin: float = 1.0


@dataclass(frozen=True)
class ModelSpec:
    """A model and its life.

    Attributes:
        name: Unique name; asset names and the registry name derive from it.
        description: What it predicts, for the catalog and the model's page.
        owner: `team:...` or an e-mail address.
        calendar: The days it lives through.
        spine: The cases.
        views: Feature views it reads.
        inputs: Its inputs, in order.
        trainer: What fits it.
        baselines: Yardsticks whose scores are shown beside it, by name.
        request_features: Function of the request alone, in a module that imports only the
            standard library: the module's source travels in the bundle.
        training_days: Length of the rolling window that ends with the `as_of` day.
        holdout_days: The last days of that window, on which candidates are compared; no version
            is trained on them.
        stable_every_days: Every so many days of all history one is never trained on, by no
            version: on these days versions of any age can be compared.
        slices: What scores are broken down by: inputs or columns of the spine, numbers with the
            edges of their bands. Columns that a gate names need not be repeated.
        costs: What a false alarm and a miss cost, for the table of thresholds.
        seed: Seed of everything random.
        gates: What a candidate must pass.
        drift: When served data counts as drifted.
        retrain_every_days: Longest time without training; None for no schedule.
        intended_use: What it is for and who decides by it, in sentences; for the model card.
        limits: What it must not be used for and its known weaknesses, a sentence each; for the
            model card.
        precision: Of the network that is served. With `int8` it is quantised after the fit, and its
            float original travels in the bundle; needs the gate `Quantized`.
        sweep: How the trainer's parameters are searched; None leaves it as it is declared.
    """

    name: str
    description: str
    owner: str
    calendar: Calendar
    spine: Spine
    views: tuple[FeatureView, ...]
    inputs: tuple[Input, ...]
    trainer: Trainer
    gates: tuple[Gate, ...]
    drift: DriftPolicy
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    request_features: RequestFeatures | None = None
    training_days: int = 59
    holdout_days: int = 7
    stable_every_days: int = 20
    slices: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    costs: Costs = field(default_factory=Costs)
    seed: int = 20130101
    retrain_every_days: int | None = 28
    intended_use: str = ""
    limits: tuple[str, ...] = ()
    precision: Literal["float32", "int8"] = "float32"
    sweep: Sweep | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise SpecError(f"{self.name!r}: a model's name is lower_snake_case")
        if isinstance(self.limits, str):
            raise SpecError(f"{self.name}: limits is a tuple of sentences, not one text")
        if not 0 < self.holdout_days < self.training_days:
            raise SpecError(f"{self.name}: holdout_days must lie between 0 and training_days")
        self._check_precision()
        columns = {c.name for c in self.spine.dataset.columns}
        spine = self.spine
        for name in (
            spine.entity_id, spine.event_timestamp, spine.label, spine.label_known_at,
            *(f.name for f in spine.request),
        ):  # fmt: skip
            if name not in columns:
                raise SpecError(
                    f"{self.name}: the spine names {name!r}, which {spine.dataset.name} lacks; "
                    f"it has {sorted(columns)}"
                )
        inputs = [i.name for i in self.inputs]
        if repeated := {name for name in inputs if inputs.count(name) > 1}:
            raise SpecError(f"{self.name}: inputs {sorted(repeated)} are declared twice")
        for one in self.inputs:
            self._check_source(one)
        if unknown := set(self.drift.signals) - set(inputs):
            raise SpecError(f"{self.name}: drift signals {sorted(unknown)} are not inputs")
        if self.stable_every_days < 2:
            raise SpecError(f"{self.name}: stable_every_days must be 2 or more")
        for name, edges in self.slice_bands.items():
            self._check_slice(name, edges)
        if self.sweep is not None:
            self.sweep.check(self.trainer)

    def _check_precision(self) -> None:
        if self.precision not in ("float32", "int8"):
            raise SpecError(f"{self.name}: precision is float32 or int8, not {self.precision!r}")
        asked = any(isinstance(gate, Quantized) for gate in self.gates)
        if self.precision == "int8" and not asked:
            raise SpecError(
                f"{self.name}: an int8 network must be compared with its float original: add "
                "Quantized(tolerance=0.001) to gates"
            )
        if asked and self.precision != "int8":
            raise SpecError(
                f"{self.name}: the gate Quantized compares an int8 network with its float "
                'original: add precision="int8", or take the gate out'
            )

    def _check_source(self, one: Input) -> None:
        kind, *rest = one.source.split(":")
        views = {view.name: view.feature_names for view in self.views}
        fields = [f.name for f in self.spine.request]
        known = {
            "request": len(rest) == 1 and rest[0] in fields,
            "transform": len(rest) == 1 and self.request_features is not None,
            "view": len(rest) == 2 and rest[1] in views.get(rest[0], []),
            "age": len(rest) == 1 and rest[0] in views,
        }
        if not known.get(kind, False):
            raise SpecError(
                f"{self.name}: input {one.name!r} has source {one.source!r}, which is not one of "
                f"request:{fields}, transform:NAME, view:VIEW:FEATURE, age:VIEW with {views}"
            )

    def _check_slice(self, name: str, edges: tuple[float, ...]) -> None:
        kinds = {c.name: _kind(c.dtype) for c in self.spine.dataset.columns}
        kinds |= {i.name: i.kind for i in self.inputs}
        if name not in kinds:
            raise SpecError(
                f"{self.name}: {name!r} is neither an input nor a column of "
                f"{self.spine.dataset.name}, so scores cannot be broken down by it"
            )
        if kinds[name] == "number" and not edges:
            raise SpecError(
                f"{self.name}: {name!r} is a number: give slices={{{name!r}: (edge, ...)}}"
            )
        if kinds[name] == "category" and edges:
            raise SpecError(f"{self.name}: {name!r} is no number, so it has no bands: give ()")

    @property
    def slice_bands(self) -> dict[str, tuple[float, ...]]:
        """Every slice column, also those that only a gate names, with the edges of its bands."""
        return {**dict.fromkeys(slice_columns(self.gates), ()), **self.slices}

    @property
    def extra_slices(self) -> list[Column]:
        """The slice columns that are no inputs: the training set carries them along."""
        inputs = {i.name for i in self.inputs}
        return [self.spine.dataset.column(n) for n in self.slice_bands if n not in inputs]

    @property
    def numbers(self) -> list[str]:
        """Names of the numeric inputs, in order."""
        return [i.name for i in self.inputs if i.kind == "number"]

    @property
    def categories(self) -> list[str]:
        """Names of the categorical inputs, in order."""
        return [i.name for i in self.inputs if i.kind == "category"]


def view_inputs(view: FeatureView, *, age: bool = False, only: Sequence[str] = ()) -> list[Input]:
    """All features of a view (or `only` some) as numeric inputs named `view__feature`."""
    inputs = [
        Input(f"{view.name}__{name}", f"view:{view.name}:{name}", "number")
        for name in (only or view.feature_names)
    ]
    if age:
        inputs.append(Input(f"{view.name}__age", f"age:{view.name}", "number"))
    return inputs


def _kind(dtype: str) -> str:
    return "number" if dtype in NUMBERS else "category"
