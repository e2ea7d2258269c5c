"""Intervals by resampled days: counts and day sums against the loops that one would write."""

from __future__ import annotations

from typing import Any

from bench.evaluation_subject import (
    CARRIERS,
    DAYS,
    DRAWS,
    GROUPBY_DRAWS,
    LOOP_DRAWS,
    ROWS,
    SCIPY_DRAWS,
)
from bench.measure import DifferentWorkError, child
from bench.report import Row, Step

MOST_BOOTSTRAP_SECONDS = 0.5
MOST_SLICES_SECONDS = 0.05

# Subject and draws. The loops get fewer draws; ours is measured with as many for the comparison of
# the answers, and the ratio is of CPU time per draw.
BOOTSTRAP, LOOP, SCIPY = ("bootstrap", DRAWS), ("bootstrap-loop", LOOP_DRAWS), (
    "bootstrap-scipy", SCIPY_DRAWS,
)  # fmt: skip
SLICES, GROUPBY = ("slices", DRAWS), ("slices-groupby", GROUPBY_DRAWS)
SCORES = ("scores", 0)
LIKE_LOOP, LIKE_GROUPBY = ("bootstrap", LOOP_DRAWS), ("slices", GROUPBY_DRAWS)
SUBJECTS = (BOOTSTRAP, LOOP, SCIPY, SLICES, GROUPBY, SCORES, LIKE_LOOP, LIKE_GROUPBY)


def measure(repeat: int, step: Step) -> list[Row]:
    """Each subject as a process, taking turns; of each the turn with the least CPU time.

    Raises:
        DifferentWorkError: Loop and sums found different intervals for the same draws.
    """
    runs: dict[tuple[str, int], list[Any]] = {subject: [] for subject in SUBJECTS}
    for turn in range(repeat):
        for name, draws in SUBJECTS:
            step(f"{name}, {turn + 1} of {repeat}")
            run = child("-m", "bench.evaluation_subject", name, str(draws))
            runs[name, draws].append(run.result)
    best = {subject: min(of, key=lambda run: run["cpu"]) for subject, of in runs.items()}
    for ours, loop in ((LIKE_LOOP, LOOP), (LIKE_GROUPBY, GROUPBY)):
        found = best[ours]["answer"], best[loop]["answer"]
        if any(abs(a - b) > 2e-6 for a, b in zip(*found, strict=True)):
            raise DifferentWorkError(f"the answers differ: {ours} and {loop} found {found}")
    cpu = {subject: run["cpu"] for subject, run in best.items()}
    per_draw = {subject: cpu[subject] / subject[1] for subject in SUBJECTS if subject[1]}

    def beside(text: str, subject: tuple[str, int], ours: tuple[str, int]) -> Row:
        return Row(
            "evaluation", f"{text}, {subject[1]} draws (ratio per draw)", _seconds(cpu[subject]),
            per_draw[subject] / per_draw[ours],
        )  # fmt: skip

    def goal(text: str, subject: tuple[str, int], limit: float) -> Row:
        return Row(
            "evaluation", f"{text}, {subject[1]} draws", _seconds(cpu[subject]), None,
            f"<= {limit} CPU s", cpu[subject] <= limit,
        )  # fmt: skip

    return [
        Row("evaluation", "cases, days, carriers", f"{ROWS:,}; {DAYS}; {CARRIERS}"),
        goal("gain in AUC, log-loss, Brier: day sums", BOOTSTRAP, MOST_BOOTSTRAP_SECONDS),
        beside("gain in AUC, log-loss: loop over rows", LOOP, BOOTSTRAP),
        beside("gain in AUC: scipy.stats.bootstrap", SCIPY, BOOTSTRAP),
        goal("4 rates by carrier: count tables", SLICES, MOST_SLICES_SECONDS),
        beside("4 rates by carrier: pandas groupby", GROUPBY, SLICES),
        Row("evaluation", "11 scores by carrier, no intervals", _seconds(cpu[SCORES])),
    ]


def _seconds(cpu: float) -> str:
    return f"{cpu:.3f} CPU s"
