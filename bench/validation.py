"""What checking contracts costs: its share of ingesting a month and computing its features."""

from __future__ import annotations

from bench.measure import Child, child, temporary_home
from bench.report import Row, Step
from bench.validation_run import CHECKS, IMPORT, REST_OF_IT

GREATEST_SHARE = 0.25

PARTS = (IMPORT, CHECKS, REST_OF_IT)


def measure(repeat: int, step: Step) -> list[Row]:
    """The run as a process of its own; the one with the least CPU time."""
    runs: list[Child] = []
    for turn in range(repeat):
        step(f"January, {turn + 1} of {repeat}")
        with temporary_home():
            runs.append(child("-m", "bench.validation_run"))
    run = min(runs, key=lambda run: run.cpu)
    spent = {part: run.result["parts"][part] for part in PARTS}
    total = sum(spent.values())
    share = total / run.cpu
    rows = f"{run.result['rows']:,} rows in {run.result['batches']} batches"
    return [
        Row("validation", f"January, {rows}", _seconds(run.cpu)),
        Row(
            "validation", "of it: validation", _seconds(total), share,
            f"ratio <= {GREATEST_SHARE}", share <= GREATEST_SHARE,
        ),
        *(
            Row("validation", f"part: {part}", _seconds(seconds), seconds / run.cpu)
            for part, seconds in spent.items()
        ),
    ]  # fmt: skip


def _seconds(cpu: float) -> str:
    return f"{cpu:.1f} CPU s"
