"""`flywheel backtest`: what would retraining have been worth?"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from flywheel.settings import Settings
from flywheel.story import cpu_seconds
from jobs.commands.common import console, life_of, refuse

if TYPE_CHECKING:
    from flywheel.backtest import Measure
    from jobs.walk_forward import WalkForward

EXAMPLES = """Examples:

`flywheel backtest flight_delay --every month --every week`

`flywheel backtest flight_delay --start 2013-06-01 --end 2013-09-01 --every "10 days"
 --plot summer.png`
"""


def backtest(
    model: Annotated[str, typer.Argument(help="E.g. flight_delay.")],
    start: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="First day; default two months into the data."),
    ] = None,
    end: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Day after the last; default the end of the data."),
    ] = None,
    every: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CADENCE",
            help="Retrain every `month`, `week` or e.g. `10 days`; may be repeated. Default month.",
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the figure there, a PNG.")] = None,
) -> None:
    """Live through a past period again, retrained and not, and compare what it was worth.

    Ingests the days that are missing, trains the versions that are missing, and scores every day
    with the version that would have served on it. Killed, it goes on where it was. All of it are
    runs that the Dagster UI shows.

    Exit code 1 if a run failed, 2 if what was asked for cannot be done.
    """
    began = time.monotonic()
    from flywheel.backtest import FROZEN, BacktestError, plan_of, policy_of
    from flywheel.services import environment, prepare_dagster_home
    from jobs.walk_forward import WalkForward, WalkForwardError, period_of

    cadences = every or ["month"]
    life = life_of(model)
    try:
        first, after = period_of(life, _date(start), _date(end))
        policies = [FROZEN, *map(policy_of, cadences)]
        wanted = {m for policy in policies for m in policy.mornings(first, after)}
        plan_of(policies, wanted, first, after)
        if len(wanted) < 2:
            raise BacktestError(  # noqa: TRY301 - said like every other refusal
                f"from {first} up to {after} no policy retrains: ask for a longer period or a "
                "shorter --every"
            )
        if plot and not plot.absolute().parent.is_dir():
            raise BacktestError(f"--plot {plot}: there is no such folder")  # noqa: TRY301
    except BacktestError as error:
        refuse(error, code=2)
    settings = Settings()
    os.environ.update({"MLFLOW_LOGGING_LEVEL": "WARNING"} | environment(settings))
    prepare_dagster_home(settings)
    try:
        with console.status("loading the code location"):
            walk = WalkForward(life, first, after, policies)
        measures = _walk(walk, cadences)
    except (WalkForwardError, BacktestError) as error:
        refuse(error)
    _show(measures)
    if plot:
        _draw(measures, f"{model}, {first} up to {after}", plot)
    console.print(f"\n{_minutes(time.monotonic() - began)}, {cpu_seconds():.0f} CPU s")


def add_to(app: typer.Typer) -> None:
    """Make the command part of an application."""
    app.command(epilog=EXAMPLES)(backtest)


def _walk(walk: WalkForward, cadences: Sequence[str]) -> list[Measure]:
    """Do what is missing; a bar shows how much of it there is."""
    batches, mornings = walk.lacking(), walk.untrained()
    there = len(walk.mornings) - len(mornings)
    if there:
        console.print(f"{there} of {len(walk.mornings)} versions are there already")
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=len(batches) + len(mornings) + 1)

        def done(what: str, began: float) -> None:
            bar.advance(task)
            took = time.monotonic() - began
            bar.console.print(f"  [green]✓[/green] {what} [dim]({took:.0f} s)[/dim]")

        for batch in batches:
            bar.update(task, description=f"ingesting {batch.what}")
            began = time.monotonic()
            walk.ingest(batch)
            done(batch.what, began)
        for morning in mornings:
            bar.update(task, description=f"training as of {morning}")
            began = time.monotonic()
            walk.train(morning)
            done(f"version as of {morning}", began)
        bar.update(task, description="scoring")
        began = time.monotonic()
        measures = walk.score(cadences)
        done("every day scored by the version that served", began)
    return measures


def _show(measures: Sequence[Measure]) -> None:
    """The figures by month, and what each policy gains over the frozen version."""
    from flywheel.backtest import AUC, AUC_GAIN, CALIBRATION_GAP, ECE, LOG_LOSS, LOG_LOSS_GAIN

    figures = {(one.policy, one.month, one.metric): one for one in measures}
    policies = list(dict.fromkeys(one.policy for one in measures))
    for metric, name in (
        (AUC, "AUC"), (LOG_LOSS, "log-loss"), (ECE, "calibration error"),
        (CALIBRATION_GAP, "mean probability minus share of positives"),
    ):  # fmt: skip
        lines = Table("month", "rows", *policies, title=name, title_justify="left", box=None)
        for month in dict.fromkeys(one.month for one in measures):
            found = [figures[policy, month, metric] for policy in policies]
            lines.add_row(
                f"{month:%Y-%m}" if month else "all", f"{found[0].rows:,}",
                *("" if one.value is None else f"{one.value:.4f}" for one in found),
                style=None if month else "bold",
            )  # fmt: skip
        console.print(lines)
        console.print()
    for policy in policies[1:]:
        for metric, name in ((AUC_GAIN, "AUC"), (LOG_LOSS_GAIN, "log-loss")):
            one = figures[policy, None, metric]
            gain = "not defined" if one.value is None else f"{one.value:+.4f}"
            console.print(
                f"{policy} gains {gain} {name} over frozen (95 % of resampled days: "
                f"{_interval(one)})",
                soft_wrap=True,
            )


def _interval(one: Measure) -> str:
    from assets.lifecycle.backtest import interval

    return interval(one)


def _draw(measures: Sequence[Measure], title: str, file: Path) -> None:
    from flywheel.plots import walk_forward

    aside = file.with_suffix(".tmp")
    aside.write_bytes(walk_forward(measures, title=title))
    aside.replace(file)
    console.print(f"figure: {file}", soft_wrap=True)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds"


def _date(moment: datetime | None) -> date | None:
    return moment.date() if moment else None
