"""`flywheel backtest`, from an empty home and again; and what it refuses."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from flywheel.services import environment
from flywheel.settings import ROOT, Settings
from jobs.commands import app


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty home, and the environment as it was afterwards."""
    before = dict(os.environ)
    os.environ.pop("DAGSTER_HOME", None)
    os.environ["FLYWHEEL_HOME"] = str(tmp_path)
    os.environ.update(environment(Settings(home=tmp_path)))
    try:
        yield tmp_path
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.slow
def test_the_page_s_small_walk_runs_from_nothing_and_goes_on_where_it_was(
    home: Path, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "backtest.md").read_text()
    small = re.search(r"^flywheel (backtest flight_delay --start 2013-01-.*)$", page, re.MULTILINE)
    assert small
    words = [*shlex.split(small[1], comments=True), "--plot", str(tmp_path / "small.png")]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    assert "every 3 days gains" in first.output
    assert (tmp_path / "small.png").read_bytes().startswith(b"\x89PNG")
    with dg.DagsterInstance.get() as instance:
        runs = instance.get_runs_count()
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0, again.output
    assert "2 of 2 versions are there already" in again.output
    with dg.DagsterInstance.get() as instance:
        assert instance.get_runs_count() == runs + 1  # the backtest alone
        tags = [run.tags for run in instance.get_runs()]
    assert all(one["flywheel/trigger"] == "backtest" for one in tags)
    assert not any("flywheel/as_of" in one for one in tags)  # no trigger takes them for its own


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["flight"], "no model is called flight: there are flight_delay"),
        (["flight_delay", "--every", "fortnight"], "'fortnight' is no cadence"),
        (["flight_delay", "--every", "week", "--every", "7 days", "--end", "2013-03-02"],
         "no policy retrains"),
        (["flight_delay", "--every", "week", "--every", "week"], "asked for twice"),
        (["flight_delay", "--start", "2013-01-02"], "--start 2013-01-09 is the earliest"),
        (["flight_delay", "--end", "2014-02-01"], "--end 2014-01-01 is the last"),
        (["flight_delay", "--start", "2013-05-01", "--end", "2013-04-01"], "--end must be later"),
        (["flight_delay", "--plot", "/nowhere/figure.png"], "there is no such folder"),
    ],
)  # fmt: skip
def test_what_the_command_cannot_do_it_refuses_at_once(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["backtest", *words])
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
