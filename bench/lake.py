"""What Iceberg costs beside plain Parquet, and what a long history costs."""

from __future__ import annotations

from statistics import median

from bench.measure import child, temporary_home
from bench.report import Row, Step, at_most

# Commit latency may grow by this between the 10th and the 400th commit.
MOST_GROWTH = 2.0


def measure(repeat: int, step: Step) -> list[Row]:
    """Write and scan the year, then commit 400 days one by one and read them all."""
    taken: dict[str, list[float]] = {}
    for turn in range(repeat):
        step(f"write and scan the year, {turn + 1} of {repeat}")
        with temporary_home():
            for name, seconds in child("-m", "bench.lake_run", "layout").result.items():
                taken.setdefault(name, []).append(seconds)
    cpu = {name: median(values) for name, values in taken.items()}
    rows = []
    for what in ("write", "scan"):
        plain, iceberg = cpu[f"parquet {what}"], cpu[f"iceberg {what}"]
        rows += [
            Row("lake", f"{what} the year, plain Parquet", f"{plain * 1e3:.0f} CPU ms"),
            Row(
                "lake", f"{what} the year, Iceberg", f"{iceberg * 1e3:.0f} CPU ms", iceberg / plain
            ),
        ]
    step("400 commits")
    with temporary_home():
        history = child("-m", "bench.lake_run", "history").result
    early, late = history["commit 10"], history["commit 400"]
    fresh, old = history["read fresh"], history["read old"]
    tended = history["read tended"]
    return [
        *rows,
        Row("lake", "commit of a day, 10th", f"{early * 1e3:.0f} CPU ms"),
        at_most(
            "lake", "commit of a day, 400th", f"{late * 1e3:.0f} CPU ms", late / early, MOST_GROWTH
        ),
        Row("lake", "read 400 days written at once", f"{fresh * 1e3:.0f} CPU ms"),
        Row("lake", "read 400 days after 400 commits", f"{old * 1e3:.0f} CPU ms", old / fresh),
        at_most("lake", "the same after upkeep", f"{tended * 1e3:.0f} CPU ms", tended / fresh, 1.5),
        Row("lake", "upkeep after 400 commits", history["upkeep"]),
    ]  # fmt: skip
