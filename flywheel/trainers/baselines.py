"""Yardsticks: models that are fitted only to be compared with, on the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flywheel.trainers.linear import LogisticRegression
from flywheel.trainers.trees import GradientBoosting
from flywheel.training import TrainingData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Baseline", "GradientBoosting", "LogisticRegression"]


class Baseline(Protocol):
    """What a model is compared with; the trainers of straight lines and trees are also that."""

    def score(self, train: TrainingData, cases: TrainingData, seed: int) -> NDArray[np.float64]:
        """Fit on `train` and return float64 [n] probabilities of `cases`."""
        ...
