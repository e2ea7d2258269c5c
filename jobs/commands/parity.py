"""`flywheel parity`: would the gateway use what training would have used?"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from flywheel.settings import Settings
from jobs.commands.common import console, life_of, refuse


def parity(
    model: Annotated[str, typer.Argument(help="E.g. flight_delay.")],
    day: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Local day to replay.")],
    limit: Annotated[
        int | None, typer.Option(help="At most so many requests, evenly over the day.")
    ] = None,
    online_store: Annotated[
        str | None, typer.Option(help="redis://... of an EMPTY database; default a SQLite file.")
    ] = None,
    show: Annotated[int, typer.Option(help="Differences to show.")] = 20,
) -> None:
    """Replay a day of requests through the gateway's feature lookup and the offline join.

    Exit code 0 if no value differs, 1 if one does, 2 if the day cannot be replayed.
    """
    from assets.lifecycle.parity import replay_parity
    from resources.build import default_resources

    life = life_of(model)
    resources = default_resources(Settings())
    try:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("replaying", total=None)
            report = replay_parity(
                life,
                date(day.year, day.month, day.day),
                resources["lakehouse"],
                resources["feature_store"],
                limit=limit,
                online_store=online_store,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except LookupError as error:
        refuse(error, code=2)
    console.print(report.sentence, soft_wrap=True)
    if not report.differences:
        return
    lines = Table("input", "entity", "time", "online", "offline", "case", box=None)
    for one in report.differences[:show]:
        lines.add_row(
            one.source, one.entity, one.event_timestamp.isoformat(), str(one.online),
            str(one.offline), one.case,
        )  # fmt: skip
    console.print(lines)
    raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Make the command part of an application."""
    app.command(epilog="Example: `flywheel parity flight_delay --day 2013-03-05`")(parity)
