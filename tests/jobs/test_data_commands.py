"""`flywheel data`, as a person types it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from assets.discovery import domains
from flywheel.dataset import Dataset, columns, required
from flywheel.settings import Settings
from jobs.commands import app
from resources.access import CLASSIFIED, LOG
from resources.lakehouse import Lakehouse, Window

NAME = "shop.orders"
ORDERS = Dataset(
    name="orders",
    key=("day", "order"),
    partition_by="day",
    columns=columns(
        required("day", "date", "Day."),
        required("order", "string", "Order."),
        ("amount", "float64", "Euros."),
        ("mail", "string", "Mail address."),
        ("street", "string", "Street."),
    ),
)
DAY = date(2024, 1, 1)


def orders(*amounts: float) -> pa.Table:
    rows = [
        {"day": DAY, "order": f"order {n}", "amount": a, "mail": "ada@lovelace", "street": "Long"}
        for n, a in enumerate(amounts)
    ]
    table = ORDERS.conform(pa.Table.from_pylist(rows, schema=ORDERS.schema))
    classified = json.dumps({"mail": "pii", "street": "sensitive"})
    return table.replace_schema_metadata({**table.schema.metadata, CLASSIFIED: classified})


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lakehouse:
    """A home with one table of two commits; the first is tagged."""
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("jobs.commands.data.console", Console(width=250))
    settings = Settings()
    lakehouse = Lakehouse(catalog_uri=settings.lake_catalog_uri, warehouse=settings.lake_warehouse)
    window = Window("day", DAY, DAY + timedelta(days=1))
    lakehouse.write(NAME, orders(1.0, 2.0, 3.0), window)
    lakehouse.tag(NAME, "before")
    lakehouse.write(NAME, orders(1.0, 2.5, 3.0, 4.0), window)
    return lakehouse


def flywheel(*words: str, code: int = 0) -> str:
    result: Result = CliRunner().invoke(app, ["data", *words])
    assert result.exit_code == code, result.output
    return result.output


def test_list_counts(lake: Lakehouse) -> None:
    assert "shop.orders  4" in flywheel("list").replace("   ", "  ")
    assert "there is no table in else" in flywheel("list", "else", code=1)


def test_show_masks_what_the_role_may_not_see_and_leaves_a_trace(
    lake: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_ACTOR", "charles")
    shown = flywheel("show", NAME, "--reason", "looking for streets")
    assert "Long" in shown
    assert "ada@lovelace" not in shown
    monkeypatch.setenv("FLYWHEEL_ROLE", "steward")
    assert "ada@lovelace" in flywheel("show", f"{NAME}@before", "--rows", "1")
    monkeypatch.setenv("FLYWHEEL_ROLE", "viewer")
    seen = flywheel("show", NAME)
    assert "Long" not in seen
    assert "order 3" in seen
    assert "Mail address." in seen
    trace = lake.read(LOG).to_pylist()
    assert [(t["actor"], t["role"], t["shown"], t["masked"]) for t in trace] == [
        ("charles", "engineer", ["street"], ["mail"]),
        ("charles", "steward", ["mail", "street"], []),
        ("charles", "viewer", [], ["mail", "street"]),
    ]
    assert trace[0]["purpose"] == "show: looking for streets"
    assert trace[1]["snapshot_id"] == lake.resolve(NAME, "before")
    assert "looking for streets" in flywheel("access")


def test_an_unknown_role_sees_nothing(lake: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_ROLE", "root")
    assert "FLYWHEEL_ROLE is one of viewer, engineer, steward" in flywheel("show", NAME, code=1)


def test_nothing_is_handed_out_that_cannot_be_recorded(
    lake: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Lakehouse, name: str, rows: pa.Table) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Lakehouse, "append", broken)
    result = CliRunner().invoke(app, ["data", "show", NAME])
    assert result.exit_code == 1
    assert "Long" not in result.output


def test_the_log_names_tags(lake: Lakehouse) -> None:
    told = flywheel("log", NAME)
    assert "before" in told
    assert "main" in told
    assert "older ones" in flywheel("log", NAME, "--limit", "1")


def test_diff_says_what_changed(lake: Lakehouse) -> None:
    told = flywheel("diff", f"{NAME}@before")
    assert "1 rows added, 0 rows removed, 1 rows changed" in told
    assert "amount (1)" in told
    assert "order 3" in told
    flywheel("diff", f"{NAME}@before", "--exit-code", code=1)
    flywheel("diff", f"{NAME}@before", "@before", "--exit-code")


def test_checkout_writes_the_past_and_where_it_came_from(lake: Lakehouse, tmp_path: Path) -> None:
    flywheel("checkout", f"{NAME}@before", "--to", str(tmp_path / "out"))
    rows = pq.read_table(tmp_path / "out" / f"{NAME}.parquet")
    assert rows.column("amount").to_pylist() == [1.0, 2.0, 3.0]
    assert rows.column("mail").to_pylist() == [None] * 3  # the role is engineer
    note = json.loads((tmp_path / "out" / f"{NAME}.json").read_text())
    assert note["snapshot_id"] == lake.resolve(NAME, "before")
    assert note["rows"] == 3


def test_a_rollback_asks_and_can_be_undone_as_it_says(lake: Lakehouse) -> None:
    now = lake.current_snapshot(NAME)
    assert CliRunner().invoke(app, ["data", "rollback", f"{NAME}@before"], input="n\n").exit_code
    assert lake.current_snapshot(NAME) == now
    told = flywheel("rollback", f"{NAME}@before", "--yes")
    assert lake.read(NAME).num_rows == 3
    undo = told.split("flywheel data ")[1].split()
    flywheel(*undo, "--yes")
    assert lake.current_snapshot(NAME) == now
    assert "say which state" in flywheel("rollback", NAME, "--yes", code=1)


def test_a_tag_names_a_state(lake: Lakehouse) -> None:
    flywheel("tag", NAME, "after")
    assert lake.resolve(NAME, "after") == lake.current_snapshot(NAME)


def test_upkeep_reports_before_and_after(lake: Lakehouse) -> None:
    told = flywheel("maintain", NAME, "--keep", "1", "--grace-hours", "0")
    assert "→" in told
    assert lake.read(NAME, at="before").num_rows == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "orders"), "write domain.table"),
        (("show", "shop.order"), "There is no table shop.order yet"),
        (("show", f"{NAME}@yesterday"), "it has ['before', 'main']"),
        (("show", f"{NAME}@17"), "has no snapshot 17"),
        (("show", f"{NAME}@2024-01-01T00:00:00"), "no time zone"),
        (("show", f"{NAME}@2024-01-01T00:00:00Z"), "had no snapshot yet"),
    ],
)
def test_a_place_that_is_not_there_says_what_is(
    lake: Lakehouse, words: tuple[str, ...], message: str
) -> None:
    assert message in flywheel(*words, code=1)


def test_check_counts_what_breaks_todays_contract(
    lake: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    weather = next(d for d in domains() if d.name == "flights").datasets["flights.weather"]
    hour = datetime(2013, 1, 1, 6, tzinfo=UTC)
    row = {"origin": "EWR", "observed_hour": hour, "available_at": hour, "wind_speed": 1048.4}
    rows = [row | {name: None for name in weather.schema.names if name not in row}]
    table = pa.Table.from_pylist(rows, schema=weather.schema)
    lake.write("flights.weather", weather.conform(table))
    told = flywheel("check", code=1)
    assert "wind_speed: range: 1 rows" in told
    lake.tag("flights.weather", "broken")
    lake.write("flights.weather", weather.conform(table.slice(0, 0)))
    assert "kept" in flywheel("check", "flights.weather")
    assert "wind_speed" in flywheel("check", "flights.weather@broken", code=1)
    assert "no dataset is called shop.orders" in flywheel("check", NAME, code=1)
