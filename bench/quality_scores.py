"""Trains on January and February, scores March; a process without Dagster."""

from __future__ import annotations

import sys
from datetime import date

from bench import without_dagster
from bench.measure import report

JANUARY, MARCH, APRIL = date(2013, 1, 1), date(2013, 3, 1), date(2013, 4, 1)
# Long after the last flight of March has landed.
ALL_KNOWN = date(2013, 4, 8)

WITHHELD = "withheld"


def main() -> None:
    """Fit network and baselines; report their scores by name."""
    without_dagster.pretend()
    from bench import plain

    world = plain.read_world(JANUARY, APRIL, withhold_own_departure=WITHHELD in sys.argv[1:])
    train = world.rows(world.labelled(JANUARY, MARCH, MARCH), MARCH)
    cases = world.rows(world.labelled(MARCH, APRIL, ALL_KNOWN), APRIL)
    scores = plain.contest(train, cases)
    report(
        {"rows": train.num_rows, "scores": {name: one.as_dict() for name, one in scores.items()}}
    )


if __name__ == "__main__":
    main()
