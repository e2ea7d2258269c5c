"""What deciding at a threshold costs: a case is selected if its probability is at least that.

Calibrated probabilities need no search: the cheapest threshold is then false_alarm / (false_alarm +
miss) (Elkan 2001). Where the best threshold found here is far from it, calibration is off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flywheel.evaluation import checked, descending

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Costs:
    """What mistakes cost, in any unit that both share.

    Attributes:
        false_alarm: Of a negative that is selected.
        miss: Of a positive that is not.
    """

    false_alarm: float = 1.0
    miss: float = 1.0

    def __post_init__(self) -> None:
        if not (
            math.isfinite(self.false_alarm + self.miss) and min(self.false_alarm, self.miss) > 0
        ):
            raise ValueError(f"{self}: both costs must be positive and finite")

    @property
    def calibrated_threshold(self) -> float:
        """The cheapest threshold for calibrated probabilities (Elkan 2001, equation 2)."""
        return self.false_alarm / (self.false_alarm + self.miss)


@dataclass(frozen=True)
class Decision:
    """What deciding at one threshold comes to.

    Attributes:
        threshold: Cases of at least this probability are selected; infinite selects none.
        selection_rate: Share of cases selected.
        precision: Share of positives among the selected; NaN if none is selected.
        true_positive_rate: Share of the positives that is selected (recall).
        false_positive_rate: Share of the negatives that is selected.
        cost: Mean cost per case, in the unit of `Costs`.
    """

    threshold: float
    selection_rate: float
    precision: float
    true_positive_rate: float
    false_positive_rate: float
    cost: float


def threshold_table(
    label: ArrayLike,
    probability: ArrayLike,
    costs: Costs,
    thresholds: Sequence[float] = tuple(step / 20 for step in range(1, 20)),
) -> list[Decision]:
    """What each of some thresholds comes to, in the order given.

    Raises:
        ValueError: As `flywheel.evaluation.score`.
    """
    import numpy as np

    value, hits, false_alarms = descending(*checked(label, probability))
    # `value` descends: those of at least t are the ones before the first smaller than t.
    selected = np.searchsorted(-value, -np.asarray(thresholds, dtype=np.float64), side="right")
    return _decisions(np.asarray(thresholds), selected, hits, false_alarms, costs)


def best_threshold(label: ArrayLike, probability: ArrayLike, costs: Costs) -> Decision:
    """The cheapest of all thresholds, selecting none included; of equally cheap ones the highest.

    Raises:
        ValueError: As `flywheel.evaluation.score`.
    """
    import numpy as np

    value, hits, false_alarms = descending(*checked(label, probability))
    cost = costs.false_alarm * false_alarms + costs.miss * (hits[-1] - hits)
    cost = np.concatenate([[costs.miss * hits[-1]], cost])
    best = int(np.argmin(cost))
    threshold = np.array([math.inf if best == 0 else value[best - 1]])
    return _decisions(threshold, np.array([best]), hits, false_alarms, costs)[0]


def _decisions(
    thresholds: NDArray[np.float64],
    selected: NDArray[np.intp],
    hits: NDArray[np.float64],
    false_alarms: NDArray[np.float64],
    costs: Costs,
) -> list[Decision]:
    """Decisions that select the cases of the first `selected` distinct predictions."""
    positives, negatives = float(hits[-1]), float(false_alarms[-1])
    rows = positives + negatives
    found = []
    for threshold, groups in zip(thresholds, selected, strict=True):
        tp = float(hits[groups - 1]) if groups else 0.0
        fp = float(false_alarms[groups - 1]) if groups else 0.0
        found.append(
            Decision(
                threshold=float(threshold),
                selection_rate=(tp + fp) / rows,
                precision=tp / (tp + fp) if groups else math.nan,
                true_positive_rate=tp / positives,
                false_positive_rate=fp / negatives,
                cost=(costs.false_alarm * fp + costs.miss * (positives - tp)) / rows,
            )
        )
    return found
