"""`flywheel reproduce`: train a version again from what is on record, and compare."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flywheel.settings import ROOT, Settings
from jobs.commands.common import console, life_of, readable_errors, refuse

DIRTY = "-dirty"


def reproduce(
    model: Annotated[str, typer.Argument(help="E.g. flight_delay.")],
    version: Annotated[str, typer.Argument(help="E.g. 2.")],
    here: Annotated[
        bool, typer.Option("--here", help="With the code at hand, whatever was recorded.")
    ] = False,
) -> None:
    """Train a version again: recorded snapshots, seed, parameters and commit; compare the results.

    If the code has moved on, the recorded commit is checked out into a temporary folder and used
    there. Exit code 0 if the ONNX file and all metrics are identical, 1 if not.
    """
    from resources.build import default_resources
    from resources.registry import git_commit

    settings = Settings()
    with readable_errors():
        life = life_of(model)
        resources = default_resources(settings)
        recorded = resources["registry"].version(model, version).tags["git_commit"]
    if not here and recorded != git_commit():
        with _checkout(recorded) as folder:
            raise typer.Exit(_in(folder, settings, model, version))
    from assets.lifecycle.reproduction import CIRCUMSTANCES
    from assets.lifecycle.reproduction import reproduce as train_again

    with readable_errors(), console.status("...") as status:
        found = train_again(
            life, version, resources["lakehouse"], resources["registry"],
            resources["feature_store"], told=lambda words: status.update(f"{words} ..."),
        )  # fmt: skip
    table = Table("", "recorded", "now", "", box=None)
    for check in found.checks:
        odd = "differs" if check.what not in CIRCUMSTANCES else "note: differs"
        table.add_row(check.what, check.recorded, check.found, "" if check.same else odd)
    console.print(table)
    if found.identical:
        console.print(f"version {version} of {model} is [green]identical[/green]")
        return
    first = found.first_difference
    assert first is not None
    detail = f" ({first.detail})" if first.detail else ""
    refuse(
        f"version {version} of {model} came out otherwise; first difference: {first.what}{detail}"
    )


def add_to(app: typer.Typer) -> None:
    """Make the command part of an application."""
    app.command(epilog="Example: `flywheel reproduce flight_delay 2`")(reproduce)


@contextmanager
def _checkout(recorded: str) -> Iterator[Path]:
    """The recorded commit in a folder of its own, without touching the one at hand."""
    commit = recorded.removesuffix(DIRTY)
    if commit == "unknown":
        refuse("the version was trained outside of git: use --here to try the code at hand")
    if recorded.endswith(DIRTY):
        console.print(
            f"The version was trained with files that differed from commit {commit[:12]}; what "
            "they were is not on record. The commit itself is used.",
            style="yellow", soft_wrap=True,
        )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="reproduce-") as parent:
        folder = Path(parent) / "checkout"
        done = _git("worktree", "add", "--detach", str(folder), commit)
        if done.returncode:
            refuse(
                f"commit {commit[:12]} cannot be checked out ({done.stderr.strip()}): fetch it, or "
                "use --here to try the code at hand"
            )
        try:
            console.print(f"using commit {commit[:12]}")
            yield folder
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _in(folder: Path, settings: Settings, model: str, version: str) -> int:
    """Run the command with the code of a folder; its exit code."""
    environment = {
        **os.environ,
        "FLYWHEEL_HOME": str(settings.home.absolute()),
        "PYTHONPATH": os.pathsep.join([str(folder), str(folder / "serving" / "src")]),
        "PYTHONSAFEPATH": "1",
    }
    command = [sys.executable, "-m", "jobs.commands", "reproduce", model, version, "--here"]
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
