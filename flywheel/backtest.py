"""Walk-forward backtests: how a year would have gone under different policies of retraining.

A version `as_of` a morning knows nothing that became known later, so any past period can be lived
through again: each day is predicted by the version that a policy would have had in service. Which
version that is, and what the predictions were worth, is computed here; versions and cases come from
elsewhere.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final, Literal

from flywheel.bootstrap import DRAWS, MINIMUM_DAYS, compare_on, day_codes, draw_days
from flywheel.evaluation import calibration_table, checked_shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from flywheel.bootstrap import Estimate

Cadence = Literal["never", "month"] | int

AUC: Final = "auc"
LOG_LOSS: Final = "log_loss"
ECE: Final = "ece"
CALIBRATION_GAP: Final = "calibration_gap"
AUC_GAIN: Final = "auc_gain"
LOG_LOSS_GAIN: Final = "log_loss_gain"

MEANINGS: Final[Mapping[str, str]] = {
    AUC: "area under the ROC curve",
    LOG_LOSS: "mean negative log-likelihood, nats",
    ECE: "expected calibration error, 15 equally filled bins",
    CALIBRATION_GAP: "mean probability minus share of positives",
    AUC_GAIN: "AUC above that of the frozen version",
    LOG_LOSS_GAIN: "log-loss below that of the frozen version",
}


class BacktestError(ValueError):
    """A backtest cannot be made; the message says what is missing and how to get it."""


@dataclass(frozen=True)
class Policy:
    """When to retrain.

    Attributes:
        name: E.g. `monthly`.
        cadence: `never` again after the first morning; on the first of every `month`; or every so
            many days.
    """

    name: str
    cadence: Cadence

    def __post_init__(self) -> None:
        if isinstance(self.cadence, int) and self.cadence < 1:
            raise BacktestError(f"{self.name}: every {self.cadence} days is no cadence; 1 or more")

    def mornings(self, start: date, end: date) -> list[date]:
        """The mornings in [start, end) on which a version is trained; the first is `start`."""
        if self.cadence == "never":
            return [start]
        days = [start + timedelta(days=n) for n in range((end - start).days)]
        if self.cadence == "month":
            return [day for day in days if day == start or day.day == 1]
        return days[:: self.cadence]


FROZEN: Final = Policy("frozen", "never")
MONTHLY: Final = Policy("monthly", "month")
WEEKLY: Final = Policy("weekly", 7)


def policy_of(every: str) -> Policy:
    """The policy that somebody asks for: `month`, `week`, or `10 days`.

    Raises:
        BacktestError: It is none of these.
    """
    named = {"month": MONTHLY, "week": WEEKLY, "day": Policy("daily", 1)}
    if every in named:
        return named[every]
    if found := re.fullmatch(r"(\d+) ?(?:d|days?)", every):
        return Policy(f"every {int(found[1])} days", int(found[1]))
    raise BacktestError(f"{every!r} is no cadence: write month, week or e.g. '10 days'")


@dataclass(frozen=True)
class Plan:
    """Who serves when.

    Attributes:
        start: First day.
        end: Day after the last.
        served: By policy, the morning of the version in service on each day.
        missing: By policy that is left out, the mornings that have no version.
    """

    start: date
    end: date
    served: Mapping[str, Mapping[date, date]]
    missing: Mapping[str, tuple[date, ...]]

    @property
    def mornings(self) -> list[date]:
        """The mornings of all versions that are needed."""
        return sorted({morning for days in self.served.values() for morning in days.values()})


def plan_of(policies: Sequence[Policy], made: Collection[date], start: date, end: date) -> Plan:
    """Assign to every day the version that would have served on it, under each policy.

    A version serves from its own morning on: it knows nothing of that day.

    Args:
        policies: What to compare.
        made: The mornings that have a version.
        start: First day.
        end: Day after the last.

    Raises:
        BacktestError: There is no day, or two policies have one name.
    """
    if end <= start:
        raise BacktestError(f"the period from {start} up to {end} has no day: end must be later")
    names = [policy.name for policy in policies]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise BacktestError(f"the policies {repeated} are asked for twice")
    served: dict[str, dict[date, date]] = {}
    missing: dict[str, tuple[date, ...]] = {}
    for policy in policies:
        mornings = policy.mornings(start, end)
        if lacking := tuple(morning for morning in mornings if morning not in made):
            missing[policy.name] = lacking
            continue
        days = (start + timedelta(days=n) for n in range((end - start).days))
        served[policy.name] = {
            day: mornings[bisect.bisect_right(mornings, day) - 1] for day in days
        }
    return Plan(start, end, served, missing)


@dataclass(frozen=True)
class Measure:
    """One figure of a backtest.

    Attributes:
        policy: Under which policy.
        month: First day of the month; None for the whole period.
        metric: One of `MEANINGS`.
        value: The figure; None where it is not defined (an AUC of one class).
        low: Lower end of its 95 % interval from resampled days; None if it has none.
        high: Upper end.
        rows: Cases.
    """

    policy: str
    month: date | None
    metric: str
    value: float | None
    low: float | None
    high: float | None
    rows: int


def measure(
    label: ArrayLike,
    day: NDArray[np.datetime64],
    predictions: Mapping[str, ArrayLike],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Measure]:
    """All figures of each policy, by month and over the whole period.

    Gains are paired: policy and frozen version are scored on the same resampled days.

    Args:
        label: 0 or 1 [n].
        day: Local day of each case, datetime64[D] [n].
        predictions: Probabilities [n] by policy; `frozen` among them.
        draws: Resamples of days.
        seed: Of the resamples.

    Raises:
        BacktestError: `frozen` is not among the policies, or there is no case.
        ValueError: A label is neither 0 nor 1, or a value is not a probability.
    """
    import numpy as np

    if FROZEN.name not in predictions:
        raise BacktestError("gains are over the frozen version, which has no predictions")
    y = np.asarray(label, dtype=np.float64)
    if not len(y):
        raise BacktestError("no case of the period has a known label")
    months = day.astype("datetime64[M]")
    found: list[Measure] = []
    for month in [*np.unique(months), None]:
        rows = np.full(len(y), True) if month is None else months == month
        first = None if month is None else month.astype("datetime64[D]").item()
        chosen = {name: np.asarray(p)[rows] for name, p in predictions.items()}
        found += _measure_one(first, y[rows], day[rows], chosen, draws, seed)
    return found


def _measure_one(
    month: date | None,
    label: NDArray[np.float64],
    day: NDArray[np.datetime64],
    predictions: Mapping[str, NDArray[np.float64]],
    draws: int,
    seed: int,
) -> list[Measure]:
    import numpy as np

    days, code = day_codes(day)
    enough = len(days) >= MINIMUM_DAYS
    weight = draw_days(len(days), draws, seed) if enough else np.empty((0, len(days)))
    found: list[Measure] = []
    for policy, probability in predictions.items():
        y, p = checked_shape(label, probability)
        both = compare_on(weight, y, code, p, predictions[FROZEN.name])
        exact = {
            ECE: calibration_table(y, p).error,
            CALIBRATION_GAP: float(p.mean() - y.mean()),
        }
        estimates = {AUC: both.candidate["auc"], LOG_LOSS: both.candidate["log_loss"]}
        if policy != FROZEN.name:
            estimates |= {AUC_GAIN: both.gain["auc"], LOG_LOSS_GAIN: both.gain["log_loss"]}
        found += [
            Measure(policy, month, metric, value, None, None, len(y))
            for metric, value in exact.items()
        ]
        found += [
            Measure(policy, month, metric, *_with_interval(estimate), len(y))
            for metric, estimate in estimates.items()
        ]
    return found


def _with_interval(estimate: Estimate) -> tuple[float | None, float | None, float | None]:
    """Value, low and high; None where there is no number."""
    low, high = estimate.interval() if len(estimate.draws) else (None, None)
    # Adding zero makes the negative zero of a loss that did not change a plain one.
    value, low, high = (
        None if x is None or x != x else x + 0.0 for x in (estimate.value, low, high)
    )
    return value, low, high
