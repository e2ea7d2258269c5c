"""The documentation keeps its word: links lead somewhere, commands and names exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from assets.flights import departures, source, weather
from flywheel import gates
from flywheel.settings import ROOT, Settings
from jobs.commands import app
from resources.lakehouse import Lakehouse

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "serving" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_make_target_exists(page: Path) -> None:
    declared = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", page.read_text(), flags=re.MULTILINE)
    assert {name for pair in commands for name in pair if name} <= declared


def test_help_names_every_target_with_a_sentence() -> None:
    told = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True)
    for target in ("demo", "dev", "down", "test", "bench", "lint"):
        assert re.search(rf"^  {target}\s+\S.*", told.stdout, flags=re.MULTILINE)


def test_the_example_environment_names_every_setting() -> None:
    named = set(re.findall(r"FLYWHEEL_([A-Z_]+)=", (ROOT / ".env.example").read_text()))
    assert named == {name.upper() for name in Settings.model_fields}


def test_an_unknown_server_is_refused_with_the_known_ones() -> None:
    result = CliRunner().invoke(app, ["up", "tritn"])
    assert result.exit_code == 2
    assert "serving, mlflow, dagster" in result.output.replace("\n", " ")


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lakehouse:
    """A home with what the pages talk of: flights in two states, weather and its quarantine."""
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    lakehouse = Lakehouse(catalog_uri=settings.lake_catalog_uri, warehouse=settings.lake_warehouse)
    raw = source.read("flights").slice(0, 500).to_pandas(date_as_object=False)
    flights = departures.clean(raw, source.read("airports").to_pandas())
    rows = departures.DEPARTURES.conform(flights)
    lakehouse.write("flights.departures", rows)
    for tag in ("flight_delay/2013-03-01", "before-the-correction"):
        lakehouse.tag("flights.departures", tag)
    lakehouse.write("flights.departures", rows.slice(0, 400))
    readings = weather.clean(source.read("weather").slice(0, 50).to_pandas())
    lakehouse.write("flights.weather", weather.WEATHER.conform(readings))
    lakehouse.write("flights.weather__quarantine", weather.WEATHER.conform(readings.slice(0, 0)))
    return lakehouse


@pytest.mark.parametrize("page", ["data.md", "contracts.md"])
def test_every_command_of_the_pages_about_data_runs(lake: Lakehouse, page: str) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)
    commands = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    assert len(commands) >= 2
    for command in commands:
        assert command[0] == "flywheel"
        result = CliRunner().invoke(app, command[1:])
        assert result.exit_code == 0, f"{command}: {result.output}"


def test_stopping_what_does_not_run_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["down"])
    assert result.exit_code == 0
    assert result.output.count("was not running") == 3


def test_the_page_about_gates_names_every_gate_and_its_example_runs() -> None:
    page = (ROOT / "docs" / "gates.md").read_text()
    every = {name for name in gates.__all__ if hasattr(getattr(gates, name), "judge")} - {"Gate"}
    assert set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)) == every
    example = re.search(r"```python\n(from flywheel.gates.*?)```", page, flags=re.DOTALL)
    assert example
    declared: dict[str, tuple[gates.Gate, ...]] = {}
    exec(example[1], declared)
    assert {type(gate).__name__ for gate in declared["gates"]} == every
