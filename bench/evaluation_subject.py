"""One subject of the benchmark `evaluation` in a process: a question and who answers it.

Cases like a month of flights: 28,000 on 31 days, whose predictions share each day's luck, by 16
carriers. All sides of a question have the same cases and, but for scipy, the same resamples.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.measure import cost_of, report
from flywheel.bootstrap import compare, draw_days
from flywheel.evaluation import auc, log_loss
from flywheel.slices import rate_intervals, slice_scores

Array = NDArray[Any]

ROWS, DAYS, CARRIERS = 28_000, 31, 16
DRAWS, LOOP_DRAWS, SCIPY_DRAWS, GROUPBY_DRAWS = 1000, 100, 500, 100
SEED = 7
TAILS = (0.05, 0.95)


def cases() -> dict[str, Array]:
    """Label, day, carrier, and two models' probabilities."""
    random = np.random.default_rng(SEED)
    day = np.sort(random.integers(0, DAYS, ROWS))
    truth = random.beta(1.0, 3.5, ROWS)
    luck = random.normal(0.0, 0.05, (2, DAYS))
    models = [np.clip(truth + luck[m][day] + random.normal(0, 0.1, ROWS), 0, 1) for m in (0, 1)]
    return {
        "label": (random.random(ROWS) < truth).astype(np.float64),
        "day": day,
        "carrier": np.array([f"C{c:02}" for c in range(CARRIERS)])[
            random.integers(0, CARRIERS, ROWS)
        ],
        "ours": models[0],
        "theirs": models[1],
    }


def bootstrap_ours(of: dict[str, Array], draws: int) -> Any:
    """The gain in AUC and log-loss, by day sums."""
    found = compare(of["label"], of["day"], of["ours"], of["theirs"], draws=draws, seed=SEED)
    return [round(end, 9) for m in ("auc", "log_loss") for end in found.gain[m].interval(0.9)]


def bootstrap_loop(of: dict[str, Array], draws: int) -> Any:
    """The same by scoring the rows of every resample."""
    rows_of = [np.flatnonzero(of["day"] == d) for d in range(DAYS)]
    gains = []
    for times in draw_days(DAYS, draws, SEED).astype(int):
        rows = np.concatenate([np.tile(rows_of[d], n) for d, n in enumerate(times)])
        label, ours, theirs = (of[name][rows] for name in ("label", "ours", "theirs"))
        gains.append(
            (auc(label, ours) - auc(label, theirs), log_loss(label, theirs) - log_loss(label, ours))
        )
    return [round(float(end), 9) for ends in np.quantile(gains, TAILS, axis=0).T for end in ends]


def bootstrap_scipy(of: dict[str, Array], draws: int) -> Any:
    """The gain in AUC alone, by scipy, resampling days."""
    from scipy.stats import bootstrap

    rows_of = [np.flatnonzero(of["day"] == d) for d in range(DAYS)]

    def gain(days: Array) -> float:
        rows = np.concatenate([rows_of[int(d)] for d in days])
        label = of["label"][rows]
        return auc(label, of["ours"][rows]) - auc(label, of["theirs"][rows])

    bootstrap(
        (np.arange(DAYS),), gain, vectorized=False, n_resamples=draws, method="percentile",
        confidence_level=0.9, rng=SEED,
    )  # fmt: skip
    return None


def slices_ours(of: dict[str, Array], draws: int) -> Any:
    """Four rates by carrier with intervals, by count tables."""
    found = rate_intervals(
        of["label"], of["ours"], of["day"], "carrier", of["carrier"],
        confidence=0.9, draws=draws, seed=SEED,
    )  # fmt: skip
    return [round(float(end.sum()), 6) for ends in (found.low, found.high) for end in ends.values()]


def slices_groupby(of: dict[str, Array], draws: int) -> Any:
    """The same by a pandas groupby of the rows of every resample."""
    import pandas as pd

    frame = pd.DataFrame({name: of[name] for name in ("label", "carrier", "day")})
    frame["selected"] = of["ours"] >= 0.5
    frame["hit"] = frame["selected"].where(frame["label"] == 1)
    frame["false_alarm"] = frame["selected"].where(frame["label"] == 0)
    figures = ["selected", "hit", "false_alarm", "label"]
    frame[figures] = frame[figures].astype(float)
    rows_of = [np.flatnonzero(of["day"] == d) for d in range(DAYS)]
    drawn = []
    for times in draw_days(DAYS, draws, SEED).astype(int):
        rows = np.concatenate([np.tile(rows_of[d], n) for d, n in enumerate(times)])
        drawn.append(frame.take(rows).groupby("carrier")[figures].mean().to_numpy())
    ends = np.quantile(np.stack(drawn), TAILS, axis=0)
    return [round(float(end), 6) for tail in ends for end in tail.sum(axis=0)]


def scores(of: dict[str, Array], _draws: int) -> Any:
    """All eleven scores by carrier, without intervals."""
    return len(slice_scores(of["label"], of["ours"], {"carrier": of["carrier"]}))


SUBJECTS: dict[str, Callable[[dict[str, Array], int], Any]] = {
    "bootstrap": bootstrap_ours,
    "bootstrap-loop": bootstrap_loop,
    "bootstrap-scipy": bootstrap_scipy,
    "slices": slices_ours,
    "slices-groupby": slices_groupby,
    "scores": scores,
}


def main() -> None:
    """Measure the subject that is named, with so many draws."""
    name, draws = sys.argv[1], int(sys.argv[2])
    of = cases()
    np.unique(of["day"])  # its first call in a process imports numpy.ma, which no side is charged
    answer, cost = cost_of(lambda: SUBJECTS[name](of, draws))
    report(asdict(cost) | {"answer": answer})


if __name__ == "__main__":
    main()
