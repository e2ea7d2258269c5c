"""A replayed day finds no difference; and a difference, if there is one, is found and named."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from assets.discovery import domains
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.parity import replay_parity
from flywheel.gates import Contest, Parity, ParityCount
from flywheel.parity import ParityReport
from flywheel.settings import ROOT, Settings
from jobs.commands import app
from resources.feature_store import FeatureStore
from resources.lakehouse import Lakehouse
from tests.assets.test_features import DAYS, VIEWS, materialize
from tests.serving.redis_server import RedisServer

LIFE = Lifecycle("flights", next(d for d in domains() if d.name == "flights").models[0])
DAY = date.fromisoformat(DAYS[1])  # 10 March, when clocks went forward
SOME = 120


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with three days of features in its lake."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLYWHEEL_HOME", str(folder))
        settings = Settings()
        lakehouse = Lakehouse(
            catalog_uri=settings.lake_catalog_uri, warehouse=settings.lake_warehouse
        )
        materialize(lakehouse, ["airports"])
        materialize(lakehouse, ["departures", "weather"], "2013-02-27", DAYS[-1])
        materialize(lakehouse, VIEWS, DAYS[0], DAYS[-1])
        yield folder


@pytest.fixture
def lakehouse(home: Path) -> Lakehouse:
    settings = Settings(home=home)
    return Lakehouse(catalog_uri=settings.lake_catalog_uri, warehouse=settings.lake_warehouse)


@pytest.fixture
def store(home: Path, lakehouse: Lakehouse, tmp_path: Path) -> FeatureStore:
    return FeatureStore(
        registry=f"sqlite:///{tmp_path}/registry.db",
        online_store=str(tmp_path / "online.db"),
        catalog_uri=lakehouse.catalog_uri,
        warehouse=lakehouse.warehouse,
    )


def replay(lakehouse: Lakehouse, store: FeatureStore, **options: Any) -> ParityReport:
    return replay_parity(LIFE, DAY, lakehouse, store, limit=SOME, **options)


def test_a_day_on_which_clocks_change_has_no_difference(
    lakehouse: Lakehouse, store: FeatureStore
) -> None:
    steps: list[tuple[int, int]] = []
    report = replay(lakehouse, store, progress=lambda done, total: steps.append((done, total)))
    assert report.differences == ()
    assert report.requests == SOME
    assert report.values == SOME * len(LIFE.spec.inputs)
    assert steps[-1] == (SOME, SOME)
    assert "none differs" in report.sentence
    with sqlite3.connect(store.online_store) as serving:  # it is left alone
        assert serving.execute("SELECT count(*) FROM flights_carrier_delays").fetchone() == (0,)


def test_redis_gives_the_same_values(
    lakehouse: Lakehouse, store: FeatureStore, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path)
    try:
        report = replay(lakehouse, store, online_store=server.url)
    finally:
        server.kill()
    assert report.differences == ()
    assert report.requests == SOME


def test_a_value_that_differs_is_named_with_view_entity_time_and_both_values(
    lakehouse: Lakehouse, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that rounds: the kind of second implementation that parity is there to find."""
    push = FeatureStore.push

    def rounding(self: FeatureStore, domain: str, view: Any, rows: list[dict[str, Any]]) -> int:
        if view.name == "carrier_delays":
            rows = [
                row | {"arr_delay_24h": round(row["arr_delay_24h"], 1)}
                if row["arr_delay_24h"] is not None
                else row
                for row in rows
            ]
        return push(self, domain, view, rows)

    monkeypatch.setattr(FeatureStore, "push", rounding)
    report = replay(lakehouse, store)
    assert len(report.differences) > SOME / 2
    assert {one.source for one in report.differences} == {"view:carrier_delays:arr_delay_24h"}
    for one in report.differences:
        assert one.entity.startswith("carrier=")
        assert isinstance(one.offline, float)
        assert one.online == round(one.offline, 1) != one.offline
        assert one.event_timestamp.date() in (DAY, DAY + timedelta(days=1))  # UTC
        assert one.case.startswith("20130310-")
    assert "carrier_delays:arr_delay_24h" in report.sentence


def test_rows_that_became_known_late_are_late_on_both_sides(
    lakehouse: Lakehouse, store: FeatureStore, home: Path
) -> None:
    """Half of the backlog's rows are created an hour after their event."""
    name = "flights.origin_backlog"
    tag = "as computed"
    lakehouse.tag(name, tag)
    rows = lakehouse.read(name)
    created = [
        row["created_timestamp"] + timedelta(hours=1 if n % 2 else 0)
        for n, row in enumerate(rows.to_pylist())
    ]
    place = rows.schema.get_field_index("created_timestamp")
    field = rows.schema.field(place)
    lakehouse.write(name, rows.set_column(place, field, pa.array(created, field.type)))
    try:
        assert replay(lakehouse, store).differences == ()
    finally:
        lakehouse.rollback(name, tag)


def test_the_command_says_so_and_ends_with_zero(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(home))
    command = f"flywheel parity flight_delay --day {DAYS[1]}"
    assert f"\n{command}\n" in (ROOT / "docs" / "features.md").read_text()
    result = CliRunner().invoke(app, command.split()[1:])
    assert result.exit_code == 0, result.output
    assert "none differs" in result.output


def test_the_command_shows_differences_and_ends_with_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(home))
    push = FeatureStore.push

    def forgetting(self: FeatureStore, domain: str, view: Any, rows: Any) -> int:
        return 0 if view.name == "origin_weather" else push(self, domain, view, rows)

    monkeypatch.setattr(FeatureStore, "push", forgetting)
    words = ["parity", "flight_delay", "--day", DAYS[1], "--limit", "5", "--show", "3"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1, result.output
    assert "view:origin_weather" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["flight", "--day", DAYS[1]], "no model is called flight: there are flight_delay"),
        (["flight_delay", "--day", "2013-05-01"], "has no case on 2013-05-01"),
    ],
)
def test_what_cannot_be_replayed_is_said_and_ends_with_two(
    home: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(home))
    result = CliRunner().invoke(app, ["parity", *words])
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("found", "passed"),
    [(ParityCount(10, 0), True), (ParityCount(10, 1), False), (ParityCount(0, 0), False),
     (None, False)],
)  # fmt: skip
def test_the_gate_passes_only_what_was_compared_and_is_equal(
    found: ParityCount | None, passed: bool
) -> None:
    scores: Any = None
    assert Parity().judge(Contest(scores, None, found)).passed is passed
