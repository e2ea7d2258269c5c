"""How good predictions were: the scores and the curves they come from.

All functions take labels (0 or 1) and probabilities of the same length n.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


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
        ValueError: There is no case, or all labels are equal.
    """
    import numpy as np

    y, p = _checked(label, probability)
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
    import numpy as np

    y, p = _checked(label, probability)
    _, place, count = np.unique(p, return_inverse=True, return_counts=True)
    mid_rank = (np.cumsum(count) - (count - 1) / 2.0)[place]
    positives = y.sum()
    above = mid_rank[y == 1].sum() - positives * (positives + 1) / 2.0
    return float(above / (positives * (len(y) - positives)))


def log_loss(label: ArrayLike, probability: ArrayLike) -> float:
    """Mean negative log-likelihood in nats; probabilities are kept 1e-7 away from 0 and 1."""
    import numpy as np

    y, p = _checked(label, probability)
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def calibration_error(label: ArrayLike, probability: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error over equally filled bins (Naeini 2015)."""
    import numpy as np

    table = calibration(label, probability, bins)
    return float(np.sum(np.abs(table.observed - table.predicted) * table.count) / table.count.sum())


@dataclass(frozen=True)
class Calibration:
    """Predicted against observed, by bin: float64 [bins] each, and the count int64 [bins]."""

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    count: NDArray[np.int64]


def calibration(label: ArrayLike, probability: ArrayLike, bins: int = 15) -> Calibration:
    """Mean prediction and share of positives in equally filled bins."""
    import numpy as np

    y, p = _checked(label, probability)
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

    y, p = _checked(label, probability)
    order = np.argsort(-p, kind="stable")
    last = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    hits = np.cumsum(y[order])[last]
    misses = last + 1 - hits
    return (
        np.concatenate([[0.0], misses / misses[-1]]),
        np.concatenate([[0.0], hits / hits[-1]]),
    )


def _checked(
    label: ArrayLike, probability: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import numpy as np

    y = np.asarray(label, dtype=np.float64)
    p = np.asarray(probability, dtype=np.float64)
    if y.shape != p.shape or y.ndim != 1:
        raise ValueError(f"labels have shape {y.shape}, probabilities {p.shape}; want equal [n]")
    if not len(y):
        raise ValueError("there is no case to score")
    if not np.isfinite(p).all():
        raise ValueError(f"{int((~np.isfinite(p)).sum())} probabilities are not finite")
    if y.min() == y.max():
        raise ValueError(f"all {len(y)} labels are {y[0]:.0f}; scores need both")
    return y, p
