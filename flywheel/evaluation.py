"""How good predictions were: the scores and the curves they come from.

All functions take labels (0 or 1) and probabilities of the same length n. What differences between
two models are worth is in `flywheel.bootstrap`, scores by subgroup in `flywheel.slices`, decisions
at a threshold in `flywheel.thresholds`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


# How scores, intervals and verdicts are computed. Raise it with every change that moves a figure: a
# test holds the figures of each version. Evaluations of different versions are not comparable.
HARNESS_VERSION: Final = 1

PROBABILITY_FLOOR: Final = 1e-7


class NotComparableError(ValueError):
    """Two evaluations were not made alike; the message has the command that makes them so."""


@dataclass(frozen=True)
class Origin:
    """What an evaluation was made by and of.

    Attributes:
        asset: Key of the evaluation's asset, e.g. `flights/flight_delay_evaluation`.
        as_of: Its partition, an ISO date.
        holdout: Fingerprint of the held-out cases.
        harness: `HARNESS_VERSION` of the code that made it.
    """

    asset: str
    as_of: str
    holdout: str
    harness: int = HARNESS_VERSION

    @property
    def command(self) -> str:
        """The shell command that makes it again, with the code at hand."""
        return f"dg launch --assets {self.asset} --partition {self.as_of}"


def comparable(a: Origin, b: Origin) -> None:
    """Refuse to set figures beside each other that differ in more than the model.

    Raises:
        NotComparableError: The harness or the held-out cases differ.
    """
    if a.harness != b.harness:
        old = min(a, b, key=lambda one: one.harness)
        raise NotComparableError(
            f"{a.asset} of {a.as_of} was made by evaluation harness {a.harness}, {b.asset} of "
            f"{b.as_of} by {b.harness}: their figures do not mean the same. Make the older one "
            f"again: {old.command}"
        )
    if a.holdout != b.holdout:
        old = min(a, b, key=lambda one: one.as_of)
        raise NotComparableError(
            f"{a.asset} of {a.as_of} was scored on the held-out cases {a.holdout}, {b.asset} of "
            f"{b.as_of} on {b.holdout}: only scores on the same cases compare. If the cases ought "
            f"to be the same, make the older one again: {old.command}"
        )


@dataclass(frozen=True)
class Scores:
    """The scores of one set of predictions.

    Attributes:
        rows: Cases.
        base_rate: Share of positive labels.
        mean_probability: Mean prediction.
        auc: Area under the ROC curve.
        log_loss: Mean negative log-likelihood, nats.
        brier: Mean squared error of the probability.
        ece: Expected calibration error, 15 equally filled bins.
    """

    rows: int
    base_rate: float
    mean_probability: float
    auc: float
    log_loss: float
    brier: float
    ece: float

    def as_dict(self) -> dict[str, float]:
        """The scores by name."""
        return asdict(self)


def score(label: ArrayLike, probability: ArrayLike) -> Scores:
    """All scores.

    Raises:
        ValueError: There is no case, or all labels are equal, or a value is no label or no
            probability.
    """
    import numpy as np

    y, p = checked(label, probability)
    return Scores(
        rows=len(y),
        base_rate=float(y.mean()),
        mean_probability=float(p.mean()),
        auc=auc(y, p),
        log_loss=log_loss(y, p),
        brier=float(np.mean((p - y) ** 2)),
        ece=calibration_error(y, p),
    )


def auc(label: ArrayLike, probability: ArrayLike) -> float:
    """Area under the ROC curve, as the Mann-Whitney statistic with mid-ranks (Hanley 1982)."""
    return mann_whitney(*checked(label, probability))


def mann_whitney(y: NDArray[np.float64], value: NDArray[np.float64]) -> float:
    """Share of pairs of a positive and a negative in which the positive has the greater value.

    Args:
        y: Labels [n], both of them present.
        value: Anything ordered [n], infinities included; ties count half.
    """
    import numpy as np

    _, place, count = np.unique(value, return_inverse=True, return_counts=True)
    mid_rank = (np.cumsum(count) - (count - 1) / 2.0)[place]
    positives = y.sum()
    above = mid_rank[y == 1].sum() - positives * (positives + 1) / 2.0
    return float(above / (positives * (len(y) - positives)))


def log_loss(label: ArrayLike, probability: ArrayLike) -> float:
    """Mean negative log-likelihood in nats; probabilities are kept 1e-7 away from 0 and 1."""
    return float(log_losses(*checked(label, probability)).mean())


def log_losses(y: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Negative log-likelihood of each case in nats, float64 [n]; see `log_loss`."""
    import numpy as np

    p = np.clip(p, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


def calibration_error(label: ArrayLike, probability: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error over equally filled bins (Naeini 2015)."""
    return calibration(label, probability, bins).error


@dataclass(frozen=True)
class Calibration:
    """Predicted against observed, by bin: float64 [bins] each, and the count int64 [bins]."""

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of the bins, by their rows."""
        import numpy as np

        return float(np.average(np.abs(self.observed - self.predicted), weights=self.count))

    @property
    def greatest_error(self) -> float:
        """Maximum calibration error: the distance of the worst bin (Naeini 2015)."""
        import numpy as np

        return float(np.abs(self.observed - self.predicted).max())


def calibration(label: ArrayLike, probability: ArrayLike, bins: int = 15) -> Calibration:
    """Mean prediction and share of positives in equally filled bins."""
    return calibration_table(*checked(label, probability), bins)


def calibration_table(
    y: NDArray[np.float64], p: NDArray[np.float64], bins: int = 15
) -> Calibration:
    """As `calibration`, of cases that are `checked` already and may be of one class."""
    import numpy as np

    chunks = [c for c in np.array_split(np.argsort(p, kind="stable"), bins) if len(c)]
    return Calibration(
        np.array([p[c].mean() for c in chunks]),
        np.array([y[c].mean() for c in chunks]),
        np.array([len(c) for c in chunks]),
    )


def roc_curve(
    label: ArrayLike, probability: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates, from (0, 0) to (1, 1), one point per distinct prediction."""
    import numpy as np

    y, p = checked(label, probability)
    _, hits, misses = descending(y, p)
    return (
        np.concatenate([[0.0], misses / misses[-1]]),
        np.concatenate([[0.0], hits / hits[-1]]),
    )


def precision_recall_curve(
    label: ArrayLike, probability: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall, from the highest prediction down; starts at precision 1, recall 0."""
    import numpy as np

    y, p = checked(label, probability)
    _, hits, misses = descending(y, p)
    return (
        np.concatenate([[1.0], hits / (hits + misses)]),
        np.concatenate([[0.0], hits / hits[-1]]),
    )


def average_precision(label: ArrayLike, probability: ArrayLike) -> float:
    """Precision averaged over the positives: the steps' sum, not a trapezium (Davis 2006)."""
    import numpy as np

    precision, recall = precision_recall_curve(label, probability)
    return float(np.diff(recall) @ precision[1:])


def descending(
    y: NDArray[np.float64], p: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The distinct predictions from the highest down, with positives and negatives so far.

    Returns:
        Prediction, positives and negatives with that prediction or a higher one, [distinct] each.
    """
    import numpy as np

    order = np.argsort(-p, kind="stable")
    last = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    hits = np.cumsum(y[order])[last]
    return p[order][last], hits, last + 1 - hits


def checked(
    label: ArrayLike, probability: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Labels and probabilities as float64 [n] each.

    Raises:
        ValueError: There is no case, the lengths differ, a label is neither 0 nor 1, a
            probability is not between 0 and 1, or all labels are equal.
    """
    y, p = checked_shape(label, probability)
    if y.min() == y.max():
        raise ValueError(f"all {len(y)} labels are {y[0]:.0f}; scores need both")
    return y, p


def checked_shape(
    label: ArrayLike, probability: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As `checked`, but all labels may be equal, as they may be within a subgroup."""
    import numpy as np

    y = np.asarray(label, dtype=np.float64)
    p = np.asarray(probability, dtype=np.float64)
    if y.shape != p.shape or y.ndim != 1:
        raise ValueError(f"labels have shape {y.shape}, probabilities {p.shape}; want equal [n]")
    if not len(y):
        raise ValueError("there is no case to score")
    if unlabelled := int((~np.isin(y, (0.0, 1.0))).sum()):
        raise ValueError(f"{unlabelled} labels are neither 0 nor 1: score labelled cases only")
    if not np.isfinite(p).all():
        raise ValueError(f"{int((~np.isfinite(p)).sum())} probabilities are not finite")
    if p.min() < 0 or p.max() > 1:
        raise ValueError(
            f"probabilities lie between {p.min():.4g} and {p.max():.4g}, outside [0, 1]: these "
            "may be logits; apply the sigmoid first"
        )
    return y, p
