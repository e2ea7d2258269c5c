"""`flywheel up`, `down` and `status`: the laptop's servers."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flywheel.services import ServiceError, Services, plans
from flywheel.settings import Settings

console = Console()

Names = Annotated[
    list[str] | None, typer.Argument(help="serving, mlflow, dagster; all if none is given.")
]


def up(names: Names = None) -> None:
    """Start servers in the background and wait until they answer."""
    services = Services(Settings())
    try:
        started = [services.start(name) for name in _checked(names)]
        with console.status("starting ..."):
            for service in started:
                services.wait(service)
    except ServiceError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    status()


def down(names: Names = None) -> None:
    """Stop servers that `up` started."""
    services = Services(Settings())
    for name in reversed(_checked(names)):
        console.print(f"{name}: {'stopped' if services.stop(name) else 'was not running'}")


def status() -> None:
    """Show which servers run, and where. Exit code 1 if one of them does not answer."""
    services = Services(Settings())
    running = services.known()
    table = Table("server", "state", "address", "log", box=None)
    for name in plans(Settings()):
        service = running.get(name)
        state = "down" if service is None else "up" if service.healthy else "starting"
        table.add_row(
            name, state, service.url if service else "", str(services.logs / f"{name}.log")
        )
    console.print(table)
    if any(not service.healthy for service in running.values()):
        raise typer.Exit(1)


def _checked(names: list[str] | None) -> list[str]:
    known = list(plans(Settings()))
    if unknown := sorted(set(names or []) - set(known)):
        console.print(f"[red]no server is called {unknown[0]}: there are {', '.join(known)}[/red]")
        raise typer.Exit(2)
    return [name for name in known if not names or name in names]


def add_to(app: typer.Typer) -> None:
    """Make the commands part of an application."""
    app.command(epilog="Example: `flywheel up serving mlflow`")(up)
    app.command(epilog="Example: `flywheel down dagster`")(down)
    app.command()(status)
