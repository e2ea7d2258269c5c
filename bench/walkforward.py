"""What a walk-forward backtest of the year costs: one command, from an empty home.

Ingests 2013, trains a version on the first of each month from March on, and scores every day.
"""

from __future__ import annotations

from bench.measure import child, temporary_home
from bench.report import Row, Step

MODEL = "flight_delay"
PERIOD = ("--start", "2013-03-01", "--end", "2014-01-01", "--every", "month")


def measure(repeat: int, step: Step) -> list[Row]:
    """Once: what it says does not change, and it takes many minutes."""
    del repeat
    from assets.lifecycle.backtest import measures_of
    from flywheel.backtest import AUC, AUC_GAIN
    from resources.build import default_resources

    step("ingest, train and score (many minutes)")
    with temporary_home() as settings:
        run = child("-m", "jobs.commands", "backtest", MODEL, *PERIOD)
        found = measures_of(default_resources(settings)["lakehouse"], MODEL)
    whole = {(one.policy, one.metric): one for one in found if one.month is None}
    rows = [Row("walkforward", "from an empty home", f"{run.cpu:.0f} CPU s")]
    for (policy, metric), one in whole.items():
        if metric == AUC:
            gain = whole.get((policy, AUC_GAIN))
            beyond = f", gain {gain.low:+.4f} to {gain.high:+.4f}" if gain else ""
            rows.append(Row("walkforward", policy, f"AUC {one.value:.4f}{beyond}"))
    return rows
