"""What every trainer agrees on: the data it gets, the model it gives back.

A trainer is a value (a frozen dataclass of parameters) with one method. Its product is ONNX bytes
with the two input tensors and the one output tensor that serving knows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flywheel.checkpoints import Checkpoints

VALIDATION_EVERY = 10

log = logging.getLogger(__name__)

# Is called after each step of a fit (an epoch, a tree) with its number, from 1, and its validation
# log-loss; raises `Pruned` to end the fit.
Report = Callable[[int, float], None]


class Pruned(Exception):  # noqa: N818 - nothing went wrong
    """Who watches a fit has seen enough of it."""


class TrainingError(RuntimeError):
    """Training cannot give a usable model; the message says why and what to look at."""


@dataclass(frozen=True)
class TrainingData:
    """Encoded cases.

    Attributes:
        numeric: float32 [n, numbers], NaN where missing.
        categorical: int64 [n, categories]; 0 is unknown.
        label: float32 [n], 0 or 1.
        numbers: Names of the numeric columns.
        categories: Names of the categorical columns.
        cardinalities: Number of codes of each categorical column, the unknown included.
    """

    numeric: NDArray[np.float32]
    categorical: NDArray[np.int64]
    label: NDArray[np.float32]
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    cardinalities: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, which: NDArray[np.int64] | NDArray[np.bool_] | slice) -> TrainingData:
        """Some of the cases."""
        return TrainingData(
            self.numeric[which],
            self.categorical[which],
            self.label[which],
            self.numbers,
            self.categories,
            self.cardinalities,
        )

    def check(self, purpose: str) -> None:
        """Refuse data that no model can learn from.

        Args:
            purpose: What the cases are for, for the message.

        Raises:
            TrainingError: No rows, a label that is none, an infinite number, a category outside its
                vocabulary, or only one class.
        """
        import numpy as np

        if not len(self):
            raise TrainingError(
                f"the training window holds no labelled case to {purpose}: materialize its days, "
                "or widen it"
            )
        if strange := int((~np.isin(self.label, (0, 1))).sum()):
            raise TrainingError(
                f"{strange} of {len(self)} labels are neither 0 nor 1; leave cases without an "
                "answer out of the training set"
            )
        infinite = [
            n for n, v in zip(self.numbers, self.numeric.T, strict=True) if np.isinf(v).any()
        ]
        if infinite:
            raise TrainingError(f"inputs {infinite} hold infinite values; make them null or finite")
        outside = [
            f"{name} (0 to {size - 1})"
            for name, size, codes in zip(
                self.categories, self.cardinalities, self.categorical.T, strict=True
            )
            if ((codes < 0) | (codes >= size)).any()
        ]
        if outside:
            raise TrainingError(
                f"codes lie outside the vocabularies of {', '.join(outside)}; encode a category "
                "that the vocabulary lacks as 0, unknown"
            )
        positives = int(self.label.sum())
        if positives in (0, len(self)):
            raise TrainingError(
                f"all {len(self)} labelled cases to {purpose} have the same label; widen the "
                "training window"
            )

    @property
    def silent(self) -> tuple[str, ...]:
        """Names of the columns that never have a value: a number, or a known category."""
        import numpy as np

        numbers = zip(self.numbers, np.isnan(self.numeric).T, strict=True)
        categories = zip(self.categories, (self.categorical == 0).T, strict=True)
        return tuple(name for name, missing in (*numbers, *categories) if missing.all())


def check(train: TrainingData, validation: TrainingData) -> dict[str, float]:
    """What every trainer does first: refuse the hopeless, name the suspicious.

    Returns:
        Figures for `TrainedModel.metrics`: `all_null_inputs`, how many inputs never had a value.

    Raises:
        TrainingError: See `TrainingData.check`.
    """
    train.check("learn from")
    validation.check("validate by")
    silent = train.silent
    if silent:
        log.warning(
            "inputs %s are null in all %d training cases: the model learns nothing from them; see "
            "whether their feature views are materialized for the training window",
            list(silent),
            len(train),
        )
    return {"all_null_inputs": float(len(silent))}


def validation_cases(day: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which cases validate: those of the last day and of every tenth day before it.

    Whole days, because cases of one day share its weather and its delays.

    Args:
        day: int64 [n], days since some epoch.

    Returns:
        bool [n].

    Raises:
        TrainingError: There is no case.
    """
    if not len(day):
        raise TrainingError(
            "the training window holds no labelled case: materialize its days, or widen it"
        )
    return day % VALIDATION_EVERY == day.max() % VALIDATION_EVERY


def stable_day(day: date, every: int) -> bool:
    """Whether a day belongs to the stable holdout: one in `every`, the same for all versions.

    The days of a stride that shares no factor with 7 fall on all weekdays in turn.
    """
    return day.toordinal() % every == 0


@dataclass(frozen=True)
class TrainedModel:
    """A fitted model.

    Attributes:
        onnx: One ONNX file: `numeric` FP32 [n, numbers] and `categorical` INT64 [n, categories] to
            `probability` FP32 [n, 1].
        curves: Values per epoch by name, for plots.
        metrics: Figures about the fit itself.
        original: The float32 file that an int8 `onnx` was made of; None if it is float itself.
    """

    onnx: bytes
    curves: dict[str, list[float]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    original: bytes | None = None


class Trainer(Protocol):
    """Fits a model. Implementations are frozen dataclasses, so that their parameters are values.

    A domain may bring its own: a class in its folder, named in its `ModelSpec`.
    """

    @property
    def version(self) -> str:
        """Changes whenever the recipe changes what it produces."""
        ...

    @property
    def kind(self) -> str:
        """The library that fits it, as the catalog shows it: `torch`, `lightgbm`, ..."""
        ...

    def fit(
        self,
        train: TrainingData,
        validation: TrainingData,
        seed: int,
        checkpoints: Checkpoints | None = None,
        report: Report | None = None,
    ) -> TrainedModel:
        """Fit on `train`; `validation` (later cases) may stop the fit early.

        Args:
            train: Cases to learn from.
            validation: Cases to stop by.
            seed: Of everything random: the same seed gives the same bytes.
            checkpoints: Where a fit that takes long keeps its state, and goes on from, with the
                same result as if it had never been killed. A fit of seconds may ignore it.
            report: Is told how each step went. A fit of one step may ignore it.

        Raises:
            Pruned: `report` raised it.
            TrainingError: The fit diverged or the data cannot be learned from.
        """
        ...
