"""What every trainer agrees on: the data it gets, the model it gives back.

A trainer is a value (a frozen dataclass of parameters) with one method. Its product is ONNX bytes
with the two input tensors and the one output tensor that serving knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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

    def check(self) -> None:
        """Refuse data that no model can learn from.

        Raises:
            TrainingError: No rows, a label that is none, an infinite number, or only one class.
        """
        import numpy as np

        if not len(self):
            raise TrainingError("the training window holds no labelled case")
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
        positives = int(self.label.sum())
        if positives in (0, len(self)):
            raise TrainingError(
                f"all {len(self)} labelled cases have the same label; widen the training window"
            )


@dataclass(frozen=True)
class TrainedModel:
    """A fitted model.

    Attributes:
        onnx: One ONNX file: `numeric` FP32 [n, numbers] and `categorical` INT64 [n, categories] to
            `probability` FP32 [n, 1].
        curves: Values per epoch by name, for plots.
        metrics: Figures about the fit itself.
    """

    onnx: bytes
    curves: dict[str, list[float]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class Trainer(Protocol):
    """Fits a model. Implementations are frozen dataclasses, so that their parameters are values."""

    @property
    def version(self) -> str:
        """Changes whenever the recipe changes what it produces."""
        ...

    def fit(self, train: TrainingData, validation: TrainingData, seed: int) -> TrainedModel:
        """Fit on `train`; `validation` (later cases) may stop the fit early.

        Raises:
            TrainingError: The fit diverged or the data cannot be learned from.
        """
        ...
