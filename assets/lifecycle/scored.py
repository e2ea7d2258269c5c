"""Held-out cases with what every contestant said of them: what an evaluation passes around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flywheel.contest import Cases
from flywheel.evaluation import Scores

if TYPE_CHECKING:
    import numpy as np

CANDIDATE, CHAMPION = "candidate", "champion"


@dataclass(frozen=True)
class Scored:
    """The cases of one window with what every contestant said of them.

    Attributes:
        cases: As gates and figures take them.
        predictions: Probabilities [n] by contestant.
        scores: Scores by contestant.
    """

    cases: Cases
    predictions: dict[str, np.ndarray]
    scores: dict[str, Scores]

    @property
    def rivals(self) -> dict[str, np.ndarray]:
        """The predictions of candidate and champion alone."""
        return {n: p for n, p in self.predictions.items() if n in (CANDIDATE, CHAMPION)}
