"""The command line: what a person launches by hand.

A command here parses, asks and prints; what it does is done by the rooms below.
"""

from __future__ import annotations

import os
import warnings

import typer

from jobs.commands import backtest, data, parity, push, registry, reproduce, servers

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)


@app.callback()
def quietly() -> None:
    """The wheel that keeps a model up to date."""
    # Libraries warn about one another, not about what a person typed.
    warnings.simplefilter("ignore")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


servers.add_to(app)
app.add_typer(data.app, name="data")
parity.add_to(app)
push.add_to(app)
registry.add_to(app)
reproduce.add_to(app)
backtest.add_to(app)
