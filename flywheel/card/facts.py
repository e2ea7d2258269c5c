"""What a model card is made of: values only, None or empty where something is not known."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

from flywheel.contest import Verdict
from flywheel.evaluation import HARNESS_VERSION, Calibration
from flywheel.evidence import ALL, Figure
from flywheel.model import Input, ModelSpec
from flywheel.slices import MIN_ROWS
from flywheel.story import Hardware, Usage
from flywheel.thresholds import Costs, Decision


class CardError(ValueError):
    """A card cannot be made of what was given; the message says what and why."""


@dataclass(frozen=True)
class Field:
    """One input of the model, one field of a request, or one tensor.

    Attributes:
        name: Its name.
        dtype: Its type, in words.
        description: What it means, with its unit.
        source: Where it comes from; empty for what a client sends and for tensors.
        classification: `pii` or `sensitive`; None for neither.
        missing: What becomes of a missing value.
    """

    name: str
    dtype: str
    description: str
    source: str = ""
    classification: str | None = None
    missing: str = ""


@dataclass(frozen=True)
class Declaration:
    """What the owner declared in the `ModelSpec`.

    Attributes:
        model: Registry name.
        description: What it predicts.
        owner: `team:...` or an e-mail address.
        intended_use: What it is for; empty if nobody said.
        limits: What it must not be used for, and its weaknesses; empty if nobody said.
        trainer: Name of the trainer's class.
        training_days: Length of the window before the `as_of` day.
        holdout_days: The last days of it, never trained on.
        request: Fields that a client sends.
        inputs: Inputs of the model.
        tensors: The two tensors of its ONNX file, then its output.
    """

    model: str
    description: str
    owner: str
    intended_use: str
    limits: tuple[str, ...]
    trainer: str
    training_days: int
    holdout_days: int
    request: tuple[Field, ...]
    inputs: tuple[Field, ...]
    tensors: tuple[Field, ...]

    @classmethod
    def of(cls, spec: ModelSpec) -> Declaration:
        """What a spec declares; meanings and classifications come from its columns and views."""
        column = spec.spine.dataset.column
        return cls(
            model=spec.name,
            description=spec.description,
            owner=spec.owner,
            intended_use=spec.intended_use,
            limits=spec.limits,
            trainer=type(spec.trainer).__name__,
            training_days=spec.training_days,
            holdout_days=spec.holdout_days,
            request=tuple(
                Field(
                    one.name,
                    one.dtype,
                    column(one.name).description,
                    classification=column(one.name).classification,
                    missing="null is allowed" if one.nullable else "refused",
                )
                for one in spec.spine.request
            ),
            inputs=tuple(_input(spec, one) for one in spec.inputs),
            tensors=(
                Field("numeric", f"FP32 [n, {len(spec.numbers)}]", "The numbers, in order."),
                Field("categorical", f"INT64 [n, {len(spec.categories)}]", "Codes of categories."),
                Field("probability", "FP32 [n, 1]", "Output: probability of the label."),
            ),
        )


@dataclass(frozen=True)
class Provenance:
    """How a version was made.

    Attributes:
        as_of: The morning it was made on.
        training_set: Table of its training set.
        snapshots: Iceberg snapshot by table, the training set's own among them.
        commit: Git commit of the code; `-dirty` if files differed from it, `unknown` outside git.
        onnx_sha256: Hash of the ONNX file, hexadecimal.
        parameters: Parameters of the training by name.
        training_rows: Cases it was trained on; None if unknown.
        environment: `flywheel.story.environment_hash`; empty if it was not recorded.
        hardware: The machine; None if it was not recorded.
        usage: What the training took; None if it was not measured.
    """

    as_of: date
    training_set: str
    snapshots: Mapping[str, int]
    commit: str
    onnx_sha256: str
    parameters: Mapping[str, object]
    training_rows: int | None = None
    environment: str = ""
    hardware: Hardware | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class ThresholdTable:
    """What deciding at thresholds comes to.

    Attributes:
        costs: Of mistakes.
        rows: The thresholds asked for.
        best: The cheapest of all thresholds.
    """

    costs: Costs
    rows: Sequence[Decision]
    best: Decision


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How good a version was found to be, on cases it was not trained on.

    Attributes:
        figures: Scores of all contestants, on all cases and by subgroup.
        verdicts: What the gates said.
        champion: Version that it was compared with; None while there is none.
        calibration: Predicted against observed.
        thresholds: What deciding by it costs; None where costs are not declared.
        candidate: The version's own name among the contestants.
        threshold: Least probability that counts as selected in the subgroups' rates.
        min_rows: Smaller subgroups are shown, but not judged.
        harness: Version of the code that made the figures.
    """

    figures: Sequence[Figure]
    verdicts: Sequence[Verdict] = ()
    champion: str | None = None
    calibration: Calibration | None = None
    thresholds: ThresholdTable | None = None
    candidate: str = "candidate"
    threshold: float = 0.5
    min_rows: int = MIN_ROWS
    harness: int = HARNESS_VERSION

    def __post_init__(self) -> None:
        names = {one.contestant for one in self.figures}
        if self.candidate not in names:
            raise CardError(
                f"no figure is of {self.candidate!r}, but of {sorted(names) or 'nobody'}: give the "
                "figures of the version that the card is about"
            )

    def overall(self, metric: str) -> float | None:
        """A score of the version itself on all cases; None if there is none."""
        return next(
            (
                one.value
                for one in self.figures
                if (one.contestant, one.slice_column, one.metric) == (self.candidate, ALL, metric)
            ),
            None,
        )


@dataclass(frozen=True)
class Link:
    """Where to read on.

    Attributes:
        text: What is there.
        url: A http or https address.

    Raises:
        CardError: The address is of another kind: a page of ours may not carry scripts.
    """

    text: str
    url: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[^\s<>\"'`\\^{|}]+", self.url):
            raise CardError(f"link {self.text!r}: {self.url!r} is no http or https address")


@dataclass(frozen=True, eq=False)
class Card:
    """Everything a card says of one version.

    Attributes:
        declared: What the owner declared.
        version: Registry version.
        made: How it was made.
        evaluation: How good it was found to be; None before its evaluation.
        plots: Pictures as `flywheel.plots` makes them.
        links: Where to read on: run, assets, tables.
    """

    declared: Declaration
    version: str
    made: Provenance
    evaluation: Evaluation | None = None
    plots: Sequence[str] = ()
    links: Sequence[Link] = field(default_factory=tuple)

    @property
    def window(self) -> tuple[date, date, date]:
        """First day, first held-out day and last day of the training window."""
        day = timedelta(days=1)
        return (
            self.made.as_of - self.declared.training_days * day,
            self.made.as_of - self.declared.holdout_days * day,
            self.made.as_of - day,
        )


def _input(spec: ModelSpec, one: Input) -> Field:
    kind, *rest = one.source.split(":")
    description, classification = "", None
    if kind == "request":
        column = spec.spine.dataset.column(rest[0])
        description, classification = column.description, column.classification
    elif kind == "transform":
        description = "Worked out from the request."
    elif kind == "age":
        description = f"Minutes since the row of {rest[0]} became true."
    else:
        features = {view.name: view.features for view in spec.views}[rest[0]]
        (column,) = (column for column in features if column.name == rest[1])
        description, classification = column.description, column.classification
    missing = f"becomes {one.default}"
    if one.default is None:
        missing = "seen as missing" if one.kind == "number" else "seen as unknown"
    return Field(one.name, one.kind, description, one.source, classification, missing)
