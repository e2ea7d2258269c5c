"""The feature views hold what counting by hand gives, whatever partitions they were computed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from assets.flights import (
    aircraft_legs,
    carrier_delays,
    departures,
    dest_delays,
    origin_backlog,
    origin_delays,
    origin_weather,
    reference,
    route_delays,
    weather,
)
from assets.flights.delays import delay_statistics
from resources.io_manager import IcebergIOManager
from resources.lakehouse import Lakehouse

if TYPE_CHECKING:
    import pyarrow as pa

LATE = 15
SAMPLED = 40


@dataclass(frozen=True)
class Flight:
    """A flight as somebody counting by hand would note it; times in minutes, None if never."""

    keys: dict[str, str | None]
    due: int
    arrival_due: int
    departed: int | None
    landed: int | None
    dep_delay: int | None
    arr_delay: int | None


def minute_of(instant: Any) -> int | None:
    return None if pd.isna(instant) else int(pd.Timestamp(instant).timestamp()) // 60


def whole(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)


def as_flights(frame: pd.DataFrame) -> list[Flight]:
    return [
        Flight(
            {name: row[name] for name in ("carrier", "origin", "dest", "tailnum")},
            minute_of(row["scheduled_departure"]) or 0,
            minute_of(row["scheduled_arrival"]) or 0,
            minute_of(row["departed_at"]),
            minute_of(row["landed_at"]),
            whole(row["dep_delay"]),
            whole(row["arr_delay"]),
        )
        for row in frame.to_dict("records")
    ]


@pytest.fixture(scope="module")
def flights(two_weeks: pd.DataFrame) -> list[Flight]:
    return as_flights(two_weeks)


def sampled(rows: pd.DataFrame, seed: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Some rows, each with the last minute whose evidence it may use."""
    chosen = np.random.default_rng(seed).choice(len(rows), SAMPLED, replace=False)
    for row in rows.iloc[chosen].to_dict("records"):
        minute = minute_of(row["event_timestamp"])
        assert minute is not None
        yield row, minute - 1


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def agrees(found: float, wanted: float) -> bool:
    if math.isnan(wanted):
        return math.isnan(found)
    return found == pytest.approx(wanted, abs=1e-9)


def delays_by_hand(
    flights: list[Flight], minute: int, departed: dict[str, int], landed: dict[str, int]
) -> dict[str, float]:
    """The trailing statistics of some flights as they were known at a minute."""
    values: dict[str, float] = {}
    for name, hours in departed.items():
        gone = [
            f
            for f in flights
            if f.departed is not None and minute - hours * 60 < f.departed <= minute
        ]
        values[f"departed_{name}"] = len(gone)
        values[f"dep_delay_{name}"] = mean([f.dep_delay or 0 for f in gone])
        values[f"dep_late_{name}"] = mean([(f.dep_delay or 0) > LATE for f in gone])
    for name, hours in landed.items():
        down = [
            f for f in flights if f.landed is not None and minute - hours * 60 < f.landed <= minute
        ]
        values[f"arr_delay_{name}"] = mean([f.arr_delay or 0 for f in down])
        values[f"arr_late_{name}"] = mean([(f.arr_delay or 0) > LATE for f in down])
        values[f"enroute_{name}"] = mean([(f.arr_delay or 0) - (f.dep_delay or 0) for f in down])
    return values


# View, key columns, hours of the windows over departures and over landings.
DELAY_VIEWS: dict[str, tuple[Any, list[str], dict[str, int], dict[str, int]]] = {
    "carrier_delays": (
        carrier_delays,
        ["carrier"],
        {"1h": 1, "3h": 3, "24h": 24},
        {"3h": 3, "24h": 24, "7d": 168},
    ),
    "origin_delays": (
        origin_delays,
        ["origin"],
        {"1h": 1, "3h": 3, "24h": 24},
        {"3h": 3, "24h": 24, "7d": 168},
    ),
    "dest_delays": (
        dest_delays,
        ["dest"],
        {"1h": 1, "3h": 3, "24h": 24},
        {"1h": 1, "3h": 3, "24h": 24},
    ),
    "route_delays": (
        route_delays,
        ["origin", "dest"],
        {"6h": 6, "24h": 24},
        {"24h": 24, "7d": 168},
    ),
}


@pytest.mark.parametrize("view", DELAY_VIEWS)
def test_trailing_delays_are_those_counted_flight_by_flight(
    view: str, two_weeks: pd.DataFrame, flights: list[Flight]
) -> None:
    module, keys, departed, landed = DELAY_VIEWS[view]
    rows = delay_statistics(two_weeks, keys, module.DEPARTED, module.LANDED)
    assert not rows.duplicated([*keys, "event_timestamp"]).any()
    for row, minute in sampled(rows):
        mine = [f for f in flights if all(f.keys[key] == row[key] for key in keys)]
        wanted = delays_by_hand(mine, minute, departed, landed)
        assert set(wanted) == set(row) - {*keys, "event_timestamp", "created_timestamp"}
        for name, value in wanted.items():
            assert agrees(row[name], value), f"{name} of {row} must be {value}"
        # A row is written because something happened, and is usable from the minute after.
        assert any(minute in (f.departed, f.landed) for f in mine)
        assert row["created_timestamp"] == row["event_timestamp"]


def test_every_departure_and_landing_leaves_a_row(two_weeks: pd.DataFrame) -> None:
    rows = delay_statistics(two_weeks, ["origin"], (60,), (60,))
    happened = pd.concat(
        [
            two_weeks[["origin", column]].rename(columns={column: "at"})
            for column in ("departed_at", "landed_at")
        ]
    ).dropna()
    wanted = set(zip(happened["origin"], happened["at"] + pd.Timedelta(minutes=1), strict=True))
    assert set(zip(rows["origin"], rows["event_timestamp"], strict=True)) == wanted


def test_the_backlog_is_the_queue_counted_flight_by_flight(
    two_weeks: pd.DataFrame, flights: list[Flight]
) -> None:
    rows = origin_backlog.backlog(two_weeks)
    for row, minute in sampled(rows):
        for name, window in (("3h", 180), ("1h", 60)):
            due = [
                f
                for f in flights
                if f.keys["origin"] == row["origin"] and minute - window < f.due <= minute
            ]
            waiting = [f for f in due if f.departed is None or f.departed > minute]
            assert row[f"scheduled_{name}"] == len(due)
            assert row[f"waiting_{name}"] == len(waiting)
            assert row[f"waited_{name}"] == sum(minute - f.due for f in waiting)


def test_there_is_always_some_queue_to_be_counted(two_weeks: pd.DataFrame) -> None:
    rows = origin_backlog.backlog(two_weeks)
    assert rows["waiting_3h"].max() > 20
    assert (rows["waiting_3h"] >= rows["waiting_1h"]).all()
    assert rows.drop(columns=["origin"]).notna().all(axis=None)


def test_the_previous_leg_is_the_last_one_that_left(
    two_weeks: pd.DataFrame, flights: list[Flight]
) -> None:
    rows = aircraft_legs.legs(two_weeks)
    for row, minute in sampled(rows):
        mine = [f for f in flights if f.keys["tailnum"] == row["tailnum"]]
        left = [
            (max(f.departed, f.due), place)
            for place, f in enumerate(mine)
            if f.departed is not None and max(f.departed, f.due) <= minute
        ]
        if not left:
            # It has landed before its timetable says it should have left.
            assert math.isnan(row["dep_delay"])
            continue
        departed, place = max(left)
        leg = mine[place]
        landings = [
            (f.landed, n)
            for n, f in enumerate(mine)
            if f.landed is not None and f.landed <= minute and f.departed is not None
        ]
        landed, last = max(landings, default=(-1, -1))
        on_ground = landed >= departed
        assert leg.dep_delay is not None
        arrival = landed if on_ground else leg.arrival_due + leg.dep_delay
        block = leg.arrival_due - leg.due
        assert row["dep_delay"] == leg.dep_delay
        assert row["block_minutes"] == block
        assert row["back_in"] == arrival + 45 + block - minute
        assert agrees(row["arr_delay"], float(mine[last].arr_delay or 0) if on_ground else math.nan)


def test_aircraft_of_which_none_has_landed_yet_have_legs_too(two_weeks: pd.DataFrame) -> None:
    in_the_air = two_weeks[two_weeks["departed_at"].notna()].head(5).assign(landed_at=pd.NaT)
    in_the_air["landed_at"] = pd.to_datetime(in_the_air["landed_at"], utc=True)
    rows = aircraft_legs.legs(in_the_air)
    assert len(rows) == 5
    assert rows["arr_delay"].isna().all()
    assert rows["back_in"].notna().all()


def by_origin(frame: pd.DataFrame) -> pd.DataFrame:
    return delay_statistics(frame, ["origin"], origin_delays.DEPARTED, origin_delays.LANDED)


def by_route(frame: pd.DataFrame) -> pd.DataFrame:
    return delay_statistics(frame, ["origin", "dest"], route_delays.DEPARTED, route_delays.LANDED)


@pytest.mark.parametrize("at", ["2013-03-08 17:03", "2013-03-10 07:00", "2013-03-12 23:59"])
@pytest.mark.parametrize(
    "compute",
    [by_origin, by_route, origin_backlog.backlog, aircraft_legs.legs],
    ids=["origin_delays", "route_delays", "origin_backlog", "aircraft_legs"],
)
def test_what_happens_later_changes_no_row_of_before(
    compute: Callable[[pd.DataFrame], pd.DataFrame], at: str, two_weeks: pd.DataFrame
) -> None:
    now = pd.Timestamp(at, tz="UTC")
    before, after = (rows_until(compute(f), now) for f in (two_weeks, other_future(two_weeks, now)))
    assert len(before) > 100
    pd.testing.assert_frame_equal(before, after)


def rows_until(rows: pd.DataFrame, now: pd.Timestamp) -> pd.DataFrame:
    usable = rows[rows["event_timestamp"] <= now]
    return usable.sort_values([*usable.select_dtypes("object"), "event_timestamp"]).reset_index(
        drop=True
    )


def other_future(frame: pd.DataFrame, now: pd.Timestamp) -> pd.DataFrame:
    """The same flights up to `now`; whatever happened from then on goes another way."""
    random = np.random.default_rng(5)
    changed = frame.copy()
    gone, down = changed["departed_at"] >= now, changed["landed_at"] >= now
    # Some that left or landed later never do, the others do so later still.
    never = random.random(len(frame)) < 0.4
    more = random.integers(1, 300, len(frame))
    for column, delay, happened in (
        ("departed_at", "dep_delay", gone),
        ("landed_at", "arr_delay", gone | down),
    ):
        changed.loc[happened, column] += pd.to_timedelta(more, unit="min")[happened]
        changed.loc[happened, delay] += more[happened]
        changed.loc[happened & never, [column, delay]] = None
    assert ((gone | down) & never).any()
    return changed


# --- the assets, in the lakehouse ---

DOMAIN = [
    reference.airports,
    departures.departures,
    weather.weather,
    carrier_delays.carrier_delays,
    origin_delays.origin_delays,
    dest_delays.dest_delays,
    route_delays.route_delays,
    aircraft_legs.aircraft_legs,
    origin_backlog.origin_backlog,
    origin_weather.origin_weather,
]
VIEWS = [asset.key.path[-1] for asset in DOMAIN[3:]]
DAYS = ["2013-03-09", "2013-03-10", "2013-03-11"]


def materialize(
    lakehouse: Lakehouse, names: Sequence[str], first: str | None = None, last: str | None = None
) -> None:
    """Materialize assets of the domain, for a range of days in a single run."""
    tags = {
        "dagster/asset_partition_range_start": first or "",
        "dagster/asset_partition_range_end": last or first or "",
    }
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            DOMAIN,
            selection=dg.AssetSelection.assets(*(["flights", name] for name in names)),
            resources={
                "io_manager": IcebergIOManager(lakehouse=lakehouse),
                "lakehouse": lakehouse,
            },
            instance=instance,
            tags=tags if first else None,
        )
    assert result.success


@pytest.fixture(scope="module")
def by_range(tmp_path_factory: pytest.TempPathFactory) -> Lakehouse:
    """The views of three days, computed in a single run, with the evidence of ten days before."""
    lakehouse = new_lakehouse(tmp_path_factory.mktemp("range"))
    materialize(lakehouse, ["airports"])
    materialize(lakehouse, ["departures", "weather"], "2013-02-27", DAYS[-1])
    materialize(lakehouse, VIEWS, DAYS[0], DAYS[-1])
    return lakehouse


def new_lakehouse(folder: Path) -> Lakehouse:
    return Lakehouse(
        catalog_uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}/warehouse"
    )


@pytest.fixture(scope="module")
def range_tables(by_range: Lakehouse) -> dict[str, pa.Table]:
    return {name: by_range.read(f"flights.{name}") for name in VIEWS}


def test_a_view_holds_the_rows_of_its_days_and_no_others(
    range_tables: dict[str, pa.Table],
) -> None:
    for name, table in range_tables.items():
        local = pd.DatetimeIndex(table.column("event_timestamp").to_pandas()).tz_convert(
            "America/New_York"
        )
        assert {str(day) for day in local.date} == set(DAYS), name


def test_the_weather_is_the_latest_known_with_calm_instead_of_no_gust(
    range_tables: dict[str, pa.Table], by_range: Lakehouse
) -> None:
    rows = range_tables["origin_weather"].to_pandas()
    readings = by_range.read("flights.weather").to_pandas().set_index(["origin", "available_at"])
    assert len(rows) == 3 * (24 + 23 + 24)
    for row in rows.to_dict("records"):
        reading = readings.loc[(row["origin"], row["event_timestamp"])]
        assert row["event_timestamp"] - reading["observed_hour"] == pd.Timedelta(hours=1)
        assert row["created_timestamp"] == row["event_timestamp"]
        for name in set(origin_weather.READINGS) - {"wind_gust"}:
            assert agrees(row[name], reading[name])
        gust = reading["wind_gust"]
        assert row["wind_gust"] == (0.0 if math.isnan(gust) else gust)


def test_views_computed_from_the_lakehouse_are_those_counted_by_hand(
    range_tables: dict[str, pa.Table], by_range: Lakehouse
) -> None:
    """The partition mapping hands over enough days for the longest window."""
    flown = as_flights(by_range.read("flights.departures").to_pandas())
    rows = range_tables["carrier_delays"].to_pandas()
    _, _, departed, landed = DELAY_VIEWS["carrier_delays"]
    for row, minute in sampled(rows, seed=1):
        mine = [f for f in flown if f.keys["carrier"] == row["carrier"]]
        for name, value in delays_by_hand(mine, minute, departed, landed).items():
            assert agrees(row[name], value), f"{name} of {row} must be {value}"


def test_computing_day_by_day_gives_the_rows_of_computing_the_range(
    range_tables: dict[str, pa.Table], by_range: Lakehouse, tmp_path: Path
) -> None:
    """Days are computed out of order, into a lakehouse that has the same datasets."""
    daily = new_lakehouse(tmp_path)
    for name in ("airports", "departures", "weather"):
        copy(by_range, daily, f"flights.{name}")
    for day in (DAYS[1], DAYS[2], DAYS[0]):
        materialize(daily, VIEWS, day)
    for name, table in range_tables.items():
        assert daily.read(f"flights.{name}").equals(table), name


def test_computing_a_day_again_writes_nothing(by_range: Lakehouse) -> None:
    before = {name: by_range.current_snapshot(f"flights.{name}") for name in VIEWS}
    materialize(by_range, VIEWS, DAYS[1])
    assert {name: by_range.current_snapshot(f"flights.{name}") for name in VIEWS} == before


def copy(source: Lakehouse, target: Lakehouse, name: str) -> None:
    declared = {
        "flights.airports": reference.AIRPORTS,
        "flights.departures": departures.DEPARTURES,
        "flights.weather": weather.WEATHER,
    }[name]
    target.write(name, declared.conform(source.read(name)))
