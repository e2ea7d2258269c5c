"""How good predictions are for whom: scores, rates and gaps by subgroup.

Names and definitions of the rates and gaps are fairlearn's (Agarwal 2018, Hardt 2016). A subgroup
of fewer rows than asked for is shown, but neither the worst nor part of a gap: a ratio of rates
that comes from 60 rows says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from flywheel.bootstrap import DRAWS, day_codes, draw_days, quantiles
from flywheel.evaluation import calibration_table, checked_shape, log_losses, mann_whitney

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

MISSING = "(missing)"
MIN_ROWS = 500

Rate = Literal["selection_rate", "true_positive_rate", "false_positive_rate", "base_rate"]
RATES: tuple[Rate, ...] = (
    "selection_rate",
    "true_positive_rate",
    "false_positive_rate",
    "base_rate",
)
Gap = Literal[
    "demographic_parity_difference", "equalized_odds_difference", "equal_opportunity_difference"
]
GAPS: Mapping[Gap, tuple[Rate, ...]] = {
    "demographic_parity_difference": ("selection_rate",),
    "equalized_odds_difference": ("true_positive_rate", "false_positive_rate"),
    "equal_opportunity_difference": ("true_positive_rate",),
}


@dataclass(frozen=True)
class SliceScores:
    """The scores of one subgroup; NaN where the subgroup has no case that a figure is about.

    Attributes:
        column: What the cases are grouped by.
        value: The subgroup, as text.
        rows: Cases.
        base_rate: Share of positives.
        mean_probability: Mean prediction.
        auc: Area under the ROC curve.
        log_loss: Mean negative log-likelihood, nats.
        brier: Mean squared error of the probability.
        ece: Expected calibration error.
        selection_rate: Share of cases with a probability of at least the threshold.
        true_positive_rate: Share of the positives that is selected.
        false_positive_rate: Share of the negatives that is selected.
    """

    column: str
    value: str
    rows: int
    base_rate: float
    mean_probability: float
    auc: float
    log_loss: float
    brier: float
    ece: float
    selection_rate: float
    true_positive_rate: float
    false_positive_rate: float

    def metrics(self) -> dict[str, float]:
        """The figures by name."""
        return {k: v for k, v in asdict(self).items() if k not in ("column", "value")}


def slice_scores(
    label: ArrayLike,
    probability: ArrayLike,
    slices: Mapping[str, ArrayLike],
    threshold: float = 0.5,
) -> list[SliceScores]:
    """Scores of every value of every column, by column and value.

    Args:
        label: 0 or 1 [n].
        probability: Predictions [n].
        slices: Values by column, [n] each; null is a value of its own, `(missing)`.
        threshold: Least probability that is selected.

    Raises:
        ValueError: There is no case, a length differs, or a value is no label or no probability.
    """
    import numpy as np

    y, p = checked_shape(label, probability)
    found = []
    for column, values in slices.items():
        names, code = group_codes(column, values, len(y))
        order = np.argsort(code, kind="stable")
        bounds = np.searchsorted(code[order], np.arange(len(names) + 1))
        for name, start, stop in zip(names, bounds[:-1], bounds[1:], strict=True):
            rows = order[start:stop]
            found.append(_one(column, name, y[rows], p[rows], threshold))
    return found


def group_codes(column: str, values: ArrayLike, rows: int) -> tuple[list[str], NDArray[np.int64]]:
    """The values of a slice column as sorted text, and each case's place among them, int64 [n].

    Raises:
        ValueError: The column has another length.
    """
    import numpy as np

    if np.shape(values) != (rows,):
        raise ValueError(f"slice column {column!r} has shape {np.shape(values)}; want [{rows}]")
    # Hashed: numpy would sort all texts, Arrow would import pandas for it, and both cost more.
    listed = np.asarray(values).tolist()
    text = {v: MISSING if v is None or v != v else str(v) for v in dict.fromkeys(listed)}
    names = sorted(set(text.values()))
    place = {name: code for code, name in enumerate(names)}
    code_of = {value: place[name] for value, name in text.items()}
    return names, np.fromiter(map(code_of.__getitem__, listed), np.int64, rows)


def bands(values: ArrayLike, edges: Sequence[float]) -> NDArray[np.object_]:
    """The band of each number as text, objects [n]; None where it is NaN.

    Args:
        values: Numbers [n].
        edges: Rising; `(6, 12)` makes the bands `below 6`, `6 to 12` and `12 or more`.
    """
    import numpy as np

    number = np.asarray(values, dtype=np.float64)
    told = [f"{edge:g}" for edge in edges]
    names = [
        f"below {told[0]}",
        *(f"{low} to {high}" for low, high in pairwise(told)),
        f"{told[-1]} or more",
    ]
    named = np.array([*names, None], dtype=object)
    place = np.searchsorted(np.asarray(edges, dtype=np.float64), number, side="right")
    return named[np.where(np.isnan(number), len(names), place)]


def large(scores: Sequence[SliceScores], column: str, min_rows: int) -> list[SliceScores]:
    """The subgroups of a column that have rows enough to be judged."""
    return [one for one in scores if one.column == column and one.rows >= min_rows]


def worst(
    scores: Sequence[SliceScores],
    metric: Literal["auc", "log_loss", "brier", "ece"],
    min_rows: int = MIN_ROWS,
) -> SliceScores | None:
    """The large subgroup of any column with the worst score; None if none has rows enough."""
    candidates = [
        one for one in scores if one.rows >= min_rows and not math.isnan(getattr(one, metric))
    ]
    sign = -1.0 if metric == "auc" else 1.0
    return max(candidates, key=lambda one: sign * getattr(one, metric), default=None)


@dataclass(frozen=True)
class LargestGap:
    """The greatest difference of a rate between two subgroups.

    Attributes:
        size: The difference.
        rate: Of which rate.
        highest: Subgroup with the highest rate.
        lowest: Subgroup with the lowest.
    """

    size: float
    rate: Rate
    highest: str
    lowest: str


def largest_gap(
    scores: Sequence[SliceScores], column: str, gap: Gap, min_rows: int = MIN_ROWS
) -> LargestGap | None:
    """A gap between the large subgroups of a column; None if fewer than two can be compared.

    `demographic_parity_difference` is the greatest difference of selection rates,
    `equal_opportunity_difference` of true positive rates, `equalized_odds_difference` the greater
    one of true and of false positive rates.
    """
    gaps = []
    for rate in GAPS[gap]:
        rates = {
            one.value: getattr(one, rate)
            for one in large(scores, column, min_rows)
            if not math.isnan(getattr(one, rate))
        }
        if len(rates) > 1:
            high, low = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
            gaps.append(LargestGap(rates[high] - rates[low], rate, high, low))
    return max(gaps, key=lambda one: one.size, default=None)


@dataclass(frozen=True, eq=False)
class RateIntervals:
    """Rates of the G subgroups of a column with day-block bootstrap intervals, float64 [G] each.

    Attributes:
        values: The subgroups.
        rows: Cases of each, int64 [G].
        rate: The rate by name.
        low: Lower end of the interval by name.
        high: Upper end by name.
    """

    values: list[str]
    rows: NDArray[np.int64]
    rate: Mapping[Rate, NDArray[np.float64]]
    low: Mapping[Rate, NDArray[np.float64]]
    high: Mapping[Rate, NDArray[np.float64]]


def rate_intervals(
    label: ArrayLike,
    probability: ArrayLike,
    day: ArrayLike,
    column: str,
    values: ArrayLike,
    *,
    threshold: float = 0.5,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> RateIntervals:
    """Rates by subgroup with percentile intervals over resampled days (see `flywheel.bootstrap`).

    The cases are counted once by day and subgroup; a draw is a weighted sum of these counts.

    Args:
        label: 0 or 1 [n].
        probability: Predictions [n].
        day: The day of each case [n].
        column: What the cases are grouped by.
        values: Values of that column [n].
        threshold: Least probability that is selected.
        confidence: Of the two-sided intervals.
        draws: Resamples.
        seed: Of the resamples.

    Raises:
        BootstrapError: The cases fall on fewer than two days.
        ValueError: A length differs, or a value is no label or no probability.
    """
    import numpy as np

    y, p = checked_shape(label, probability)
    days, day_code = day_codes(day)
    names, code = group_codes(column, values, len(y))
    # One count of all four cells of the confusion matrices: [day, group, label, selected].
    cell = ((day_code * len(names) + code) * 2 + (y == 1)) * 2 + (p >= threshold)
    count = np.bincount(cell, minlength=len(days) * len(names) * 4).astype(np.float64)
    count = count.reshape(len(days), len(names) * 4)
    weight = np.vstack([np.ones(len(days)), draw_days(len(days), draws, seed)])
    rates = _rates((weight @ count).reshape(-1, len(names), 2, 2))
    tail = (1.0 - confidence) / 2.0
    ends: dict[Rate, NDArray[np.float64]] = {
        name: quantiles(rate[1:], (tail, 1.0 - tail)) for name, rate in rates.items()
    }
    return RateIntervals(
        values=names,
        rows=np.bincount(code, minlength=len(names)),
        rate={name: rate[0] for name, rate in rates.items()},
        low={name: end[0] for name, end in ends.items()},
        high={name: end[1] for name, end in ends.items()},
    )


def _rates(cells: NDArray[np.float64]) -> dict[Rate, NDArray[np.float64]]:
    """Rates [draws, G] from counts [draws, G, label, selected]; NaN for none of nothing."""
    import numpy as np

    selected = cells[..., 1]
    total = cells.sum(axis=3)
    with np.errstate(invalid="ignore"):
        return {
            "selection_rate": selected.sum(axis=2) / total.sum(axis=2),
            "true_positive_rate": selected[..., 1] / total[..., 1],
            "false_positive_rate": selected[..., 0] / total[..., 0],
            "base_rate": total[..., 1] / total.sum(axis=2),
        }


def _one(
    column: str, value: str, y: NDArray[np.float64], p: NDArray[np.float64], threshold: float
) -> SliceScores:
    import numpy as np

    selected = p >= threshold
    positives = int(y.sum())
    nan = float("nan")
    both = 0 < positives < len(y)
    return SliceScores(
        column=column,
        value=value,
        rows=len(y),
        base_rate=float(y.mean()),
        mean_probability=float(p.mean()),
        auc=mann_whitney(y, p) if both else nan,
        log_loss=float(log_losses(y, p).mean()),
        brier=float(np.mean((p - y) ** 2)),
        ece=calibration_table(y, p).error,
        selection_rate=float(selected.mean()),
        true_positive_rate=float(selected[y == 1].mean()) if positives else nan,
        false_positive_rate=float(selected[y == 0].mean()) if positives < len(y) else nan,
    )
