"""`flywheel push`: rows go online as they happen, or not at all."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assets.flights.origin_weather import ORIGIN_WEATHER, READINGS
from flywheel.settings import Settings
from flywheel_serving.online_store import BlockingReader, KeyedView
from jobs.commands import app
from resources.online_view import online_view

VIEW = "flights.origin_weather"
NOON = "2013-03-01T12:00:00-05:00"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("jobs.commands.push.console.width", 300)


def row(**values: Any) -> dict[str, Any]:
    readings = dict.fromkeys(READINGS, 1.0) | {"humid": 50.0, "pressure": 1000.0}
    return {"origin": "EWR", **readings, "event_timestamp": NOON, **values}


def push(tmp_path: Path, *rows: Any, view: str = VIEW, code: int = 0) -> str:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(one if isinstance(one, str) else f"{json.dumps(one)}\n" for one in rows)
    )
    result = CliRunner().invoke(app, ["push", view, str(file)])
    assert result.exit_code == code, result.output
    return result.output


def online(origin: str) -> Any:
    """The row that the gateway would read."""
    lookup = KeyedView(online_view(ORIGIN_WEATHER)).lookup([origin])
    assert lookup is not None
    (found,) = BlockingReader(Settings().online_store_address).read("flights", [lookup])
    return found


def test_what_was_pushed_is_what_the_gateway_reads(tmp_path: Path) -> None:
    told = push(tmp_path, row(temp=41.5), row(origin="JFK", wind_gust=None))
    assert "2 rows of flights.origin_weather are online" in told
    assert online("EWR").values["temp"] == 41.5
    assert online("EWR").event_timestamp == datetime(2013, 3, 1, 17, tzinfo=UTC).timestamp()
    assert online("JFK").values["wind_gust"] is None


def test_an_older_row_replaces_nothing(tmp_path: Path) -> None:
    push(tmp_path, row(temp=41.5))
    told = push(tmp_path, row(temp=30.0, event_timestamp="2013-03-01T11:00:00-05:00"))
    assert "0 of 1 rows" in told
    assert online("EWR").values["temp"] == 41.5


def test_standard_input_is_a_file_too() -> None:
    result = CliRunner().invoke(app, ["push", VIEW, "-"], input=json.dumps(row(temp=7.0)))
    assert result.exit_code == 0, result.output
    assert online("EWR").values["temp"] == 7.0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(origin="BOS"), "1 of 2 rows break the contract"),
        (row(origin=None), "1 of 2 rows break the contract"),
        ({k: v for k, v in row().items() if k != "event_timestamp"}, "event_timestamp"),
        (row(event_timestamp="2013-03-01T12:00:00"), "event_timestamp"),
        (row(temp="warm"), "temp"),
        (row(snow=1.0), "snow"),
        ("[1, 2]\n", "line 2 is not a JSON object"),
        ("{\n", "line 2 is not a JSON object"),
    ],
)
def test_one_bad_line_keeps_all_of_them_out_and_says_why(
    tmp_path: Path, bad: Any, message: str
) -> None:
    assert message in push(tmp_path, row(origin="LGA"), bad, code=1)
    assert online("LGA") is None


def test_an_unknown_view_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    assert VIEW in push(tmp_path, row(), view="flights.weather", code=2)
