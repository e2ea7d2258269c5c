"""Trailing windows: 4 keys x 4 windows of (count, sum), over one year and over many."""

from __future__ import annotations

from typing import Any

from bench.measure import DifferentWorkError, child, temporary_home
from bench.report import Row, Step, at_most

MOST_CPU_SECONDS = 1.25
FLOOR, LIBRARY = "numpy searchsorted", "trailing_windows"
AT_ONCE = "trailing_windows, 10 x at once"
ONE, TEN, THIRTY = (f"TrailingStream by month, {years} x" for years in (1, 10, 30))
SUBJECTS = {
    FLOOR: ("floor",),
    LIBRARY: ("library",),
    AT_ONCE: ("library", "10"),
    ONE: ("stream", "1"),
    TEN: ("stream", "10"),
    THIRTY: ("stream", "30"),
}


def measure(repeat: int, step: Step) -> list[Row]:
    """Each subject as a process, taking turns; of each the turn with the least CPU time.

    Raises:
        DifferentWorkError: Subjects that did the same years found different sums.
    """
    runs: dict[str, list[Any]] = {subject: [] for subject in SUBJECTS}
    with temporary_home():
        step("read the flights")
        child("-m", "bench.windows_subject", "prepare")
        for turn in range(repeat):
            for subject, arguments in SUBJECTS.items():
                step(f"{subject}, {turn + 1} of {repeat}")
                runs[subject].append(child("-m", "bench.windows_subject", *arguments).result)
    best = {subject: min(of, key=lambda run: run["cpu"]) for subject, of in runs.items()}
    for group in ((FLOOR, LIBRARY, ONE), (AT_ONCE, TEN)):
        found = {subject: best[subject]["answer"] for subject in group}
        if len(set(found.values())) > 1:
            raise DifferentWorkError(f"the answers differ: {found}")
    cpu = {subject: run["cpu"] for subject, run in best.items()}
    return [
        Row("windows", FLOOR, _measured(best[FLOOR])),
        Row(
            "windows", f"{LIBRARY}, {best[LIBRARY]['rows']:,} flights", _measured(best[LIBRARY]),
            cpu[LIBRARY] / cpu[FLOOR], f"<= {MOST_CPU_SECONDS} CPU s",
            cpu[LIBRARY] <= MOST_CPU_SECONDS,
        ),
        Row("windows", AT_ONCE, _measured(best[AT_ONCE])),
        Row("windows", ONE, _measured(best[ONE]), cpu[ONE] / cpu[FLOOR]),
        # At most linear: n years cost no more than n times the one.
        *(
            at_most(
                "windows", f"{subject} (ratio to 1 x)", _measured(best[subject]),
                cpu[subject] / cpu[ONE], years,
            )
            for subject, years in ((TEN, 10), (THIRTY, 30))
        ),
    ]  # fmt: skip


def _measured(run: Any) -> str:
    return (
        f"{run['cpu']:.2f} CPU s, {run['peak_mb'] - run['before_mb']:.0f} MB on top of "
        f"{run['before_mb']:.0f}"
    )
