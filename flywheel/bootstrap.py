"""What a difference between two models is worth: a paired bootstrap that resamples whole days.

The cases of one day share their weather, so they are no independent draws: on a month of flights
the standard error of a difference of AUC is six times what a test on independent cases believes,
which then calls noise a result. Days are therefore resampled, not cases (the cluster bootstrap,
Field and Welsh 2007), the same days for both models.

No draw touches a case again. A draw is a number w[d] of times that each day was drawn, and

    mean loss = sum_d w[d] loss[d] / sum_d w[d] rows[d]
    AUC       = sum_de w[d] w[e] wins[d, e] / (sum_d w[d] positives[d] * sum_e w[e] negatives[e])

where wins[d, e] counts the pairs of a positive of day d and a negative of day e in which the
positive is ranked higher, ties half: exactly the Mann-Whitney statistic of the resampled cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flywheel.evaluation import checked_shape, log_losses

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

Metric = Literal["auc", "log_loss", "brier"]
METRICS: tuple[Metric, ...] = ("auc", "log_loss", "brier")
HIGHER_IS_BETTER: Mapping[Metric, bool] = {"auc": True, "log_loss": False, "brier": False}

DRAWS = 1000
MINIMUM_DAYS = 2


class BootstrapError(ValueError):
    """There is too little to resample; the message says what is missing."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """A figure with its bootstrap distribution.

    Attributes:
        value: The figure on the cases as they are; NaN where it is not defined.
        draws: The figure on each resample, float64 [draws]; NaN where it is not defined.
    """

    value: float
    draws: NDArray[np.float64]

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided percentile interval, over the draws in which the figure is defined."""
        tail = (1.0 - confidence) / 2.0
        return self._quantile(tail), self._quantile(1.0 - tail)

    def lower(self, confidence: float) -> float:
        """One-sided bound: the figure is above it with this confidence."""
        return self._quantile(1.0 - confidence)

    def upper(self, confidence: float) -> float:
        """One-sided bound: the figure is below it with this confidence."""
        return self._quantile(confidence)

    def _quantile(self, share: float) -> float:
        return float(quantiles(self.draws[:, None], (share,))[0, 0])


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two models on the same cases.

    Attributes:
        rows: Cases.
        days: Days that they fall on.
        candidate: Its figures by metric.
        champion: The figures of the model it is compared with.
        gain: How much better the candidate is: positive is better for every metric.
    """

    rows: int
    days: int
    candidate: Mapping[Metric, Estimate]
    champion: Mapping[Metric, Estimate]
    gain: Mapping[Metric, Estimate]


@dataclass(frozen=True, eq=False)
class DaySums:
    """All that is needed of one model's predictions to score any resample of D days.

    Attributes:
        rows: Cases of each day, float64 [D].
        positives: Those with label 1, float64 [D].
        log_loss: Sum of the losses of each day in nats, float64 [D].
        brier: Sum of the squared errors of each day, float64 [D].
        wins: Pairs won by a positive of day d against a negative of day e, ties half,
            float64 [D, D].
    """

    rows: NDArray[np.float64]
    positives: NDArray[np.float64]
    log_loss: NDArray[np.float64]
    brier: NDArray[np.float64]
    wins: NDArray[np.float64]

    def scores(self, weight: NDArray[np.float64]) -> dict[Metric, NDArray[np.float64]]:
        """The metrics of resamples.

        Args:
            weight: How often each resample has each day, float64 [draws, D].

        Returns:
            Float64 [draws] by metric; NaN where a resample has no case, or for the AUC where it
            has one class only.
        """
        import numpy as np

        rows, positives = weight @ self.rows, weight @ self.positives
        with np.errstate(invalid="ignore"):
            return {
                "auc": ((weight @ self.wins) * weight).sum(axis=1)
                / (positives * (rows - positives)),
                "log_loss": weight @ self.log_loss / rows,
                "brier": weight @ self.brier / rows,
            }


def compare(
    label: ArrayLike,
    day: ArrayLike,
    candidate: ArrayLike,
    champion: ArrayLike,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Both models' metrics and the candidate's gain, with their bootstrap distributions.

    Args:
        label: 0 or 1 [n].
        day: The day of each case, anything that can be sorted [n].
        candidate: Probabilities [n].
        champion: Probabilities [n].
        draws: Resamples.
        seed: Of the resamples.

    Raises:
        BootstrapError: The cases fall on fewer than two days.
        ValueError: A label is neither 0 nor 1, or a value is not a probability.
    """
    checked_shape(label, candidate)
    days, code = day_codes(day)
    return compare_on(draw_days(len(days), draws, seed), label, code, candidate, champion)


def compare_on(
    weight: NDArray[np.float64],
    label: ArrayLike,
    day: NDArray[np.int64],
    candidate: ArrayLike,
    champion: ArrayLike,
) -> Comparison:
    """As `compare`, on resamples that were drawn before: a subgroup's days are drawn with all.

    Args:
        weight: How often each resample has each of D days, float64 [draws, D].
        label: 0 or 1 [n].
        day: Place of each case's day, from 0, int64 [n]; days may be empty.
        candidate: Probabilities [n].
        champion: Probabilities [n].

    Raises:
        ValueError: A label is neither 0 nor 1, or a value is not a probability.
    """
    import numpy as np

    days = weight.shape[1]
    ours, theirs = (day_sums(label, day, days, p) for p in (candidate, champion))
    weight = np.vstack([np.ones(days), weight])
    one, other = ours.scores(weight), theirs.scores(weight)
    sign = {metric: 1.0 if HIGHER_IS_BETTER[metric] else -1.0 for metric in METRICS}
    return Comparison(
        rows=len(day),
        days=int(np.count_nonzero(ours.rows)),
        candidate={metric: _estimate(one[metric]) for metric in METRICS},
        champion={metric: _estimate(other[metric]) for metric in METRICS},
        gain={
            metric: _estimate(sign[metric] * (one[metric] - other[metric])) for metric in METRICS
        },
    )


def day_codes(day: ArrayLike) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
    """The days in order [D], and each case's place among them, int64 [n]."""
    import numpy as np

    return np.unique(np.asarray(day), return_inverse=True)


def day_sums(
    label: ArrayLike, day: NDArray[np.int64], days: int, probability: ArrayLike
) -> DaySums:
    """Reduce cases to days, in O(n log n + n * days) time and O(n + days^2) memory.

    Args:
        label: 0 or 1 [n].
        day: Place of each case's day, from 0, int64 [n].
        days: Number of days, of which some may be empty.
        probability: Predictions [n].

    Raises:
        ValueError: The lengths differ, a label is neither 0 nor 1, or a value is no probability.
    """
    import numpy as np

    y, p = checked_shape(label, probability)
    if day.shape != y.shape:
        raise ValueError(f"labels have shape {y.shape}, days {day.shape}; want equal [n]")

    def by_day(value: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(day, value, minlength=days).astype(np.float64)

    return DaySums(
        rows=by_day(np.ones_like(y)),
        positives=by_day(y),
        log_loss=by_day(log_losses(y, p)),
        brier=by_day((p - y) ** 2),
        wins=_wins(y == 1, day, days, p),
    )


def draw_days(days: int, draws: int, seed: int) -> NDArray[np.float64]:
    """How often each resample has each day, float64 [draws, days].

    A resample has one day fewer than there are: resampling all of D days would understate the
    variance by (D - 1) / D, which is 14 % for a week (Rao and Wu 1988).

    Raises:
        BootstrapError: There are fewer than two days.
    """
    import numpy as np

    if days < MINIMUM_DAYS:
        raise BootstrapError(
            f"the cases fall on {days} day: how much days differ takes at least {MINIMUM_DAYS}; "
            "hold out more days"
        )
    random = np.random.default_rng(seed)
    return random.multinomial(days - 1, np.full(days, 1.0 / days), draws).astype(np.float64)


def quantiles(draws: NDArray[np.float64], shares: tuple[float, ...]) -> NDArray[np.float64]:
    """Quantiles of each column over the draws that are not NaN, float64 [shares, columns].

    A column without any draw has NaN.
    """
    import numpy as np

    if not np.isnan(draws).any():
        return np.quantile(draws, shares, axis=0)
    columns = [column[~np.isnan(column)] for column in draws.T]
    return np.stack(
        [np.quantile(c, shares) if len(c) else np.full(len(shares), np.nan) for c in columns],
        axis=1,
    )


def _wins(
    positive: NDArray[np.bool_], day: NDArray[np.int64], days: int, p: NDArray[np.float64]
) -> NDArray[np.float64]:
    import numpy as np

    distinct, place = np.unique(p, return_inverse=True)
    positive_day, positive_place = day[positive], place[positive]
    negative_day, negative_place = day[~positive], place[~positive]
    wins = np.empty((days, days))
    for e in range(days):
        count = np.bincount(negative_place[negative_day == e], minlength=len(distinct))
        beaten = np.cumsum(count) - count / 2.0
        wins[:, e] = np.bincount(positive_day, beaten[positive_place], minlength=days)
    return wins


def _estimate(values: NDArray[np.float64]) -> Estimate:
    return Estimate(float(values[0]), values[1:])
