"""January and February in one plain script: the yardstick of the benchmark `wheel`."""

from __future__ import annotations

from datetime import date, timedelta

from bench import without_dagster
from bench.measure import Stopwatch, report

AS_OF = date(2013, 3, 1)


def main() -> None:
    """Read, compute, join, fit, score; report the scores and where the CPU time went."""
    watch = Stopwatch()
    watch.watch_imports()
    without_dagster.pretend()
    from bench import plain
    from flywheel.trainers.tabular import TabularNetwork

    watch.watch(TabularNetwork, "fit", "fit")
    for baseline in plain.SPEC.baselines.values():
        watch.watch(type(baseline), "score", "baselines")
    world = plain.read_world(date(2013, 1, 1), AS_OF)
    start = AS_OF - timedelta(days=plain.SPEC.training_days)
    cases = world.labelled(start, AS_OF, AS_OF)
    rows = world.rows(cases, AS_OF)
    train, held_out = (plain.split_rows(rows, split) for split in ("train", "holdout"))
    scores = plain.contest(train, held_out)
    report(
        {
            "parts": watch.parts(),
            "scores": {name: one.as_dict() for name, one in scores.items()},
        }
    )


if __name__ == "__main__":
    main()
