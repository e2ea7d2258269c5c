"""The flights of 2013 become clean departures and weather, on awkward days too."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from assets.flights import departures, reference, source, weather
from assets.flights.clocks import NEW_YORK, ZONES_NOT_IN_FILE
from assets.flights.departures import DEPARTURES
from assets.flights.weather import WEATHER
from flywheel.contract.rules import Window
from flywheel.contract.sql import audit_history
from flywheel.contract.validation import validate

if TYPE_CHECKING:
    import pyarrow as pa

# New Year, the winter storm Nemo, the storm after it, clocks forward, a plain day, clocks back.
DAYS = ["2013-01-01", "2013-02-08", "2013-02-09", "2013-03-10", "2013-07-15", "2013-11-03"]


@pytest.fixture(scope="module")
def raw(raw_flights: pd.DataFrame) -> pd.DataFrame:
    return raw_flights[raw_flights["date"].isin(pd.to_datetime(DAYS))].reset_index(drop=True)


@pytest.fixture(scope="module")
def cleaned(raw: pd.DataFrame, raw_airports: pd.DataFrame) -> pa.Table:
    return departures.clean(raw, raw_airports)


@pytest.fixture(scope="module")
def flown(cleaned: pa.Table) -> pd.DataFrame:
    """The cleaned departures, in the order of the raw ones."""
    return cleaned.to_pandas()


def test_every_flight_of_the_file_is_kept_on_its_own_day(
    raw: pd.DataFrame, flown: pd.DataFrame
) -> None:
    counts = pd.to_datetime(flown["flight_date"]).value_counts().sort_index()
    assert counts.to_dict() == raw["date"].value_counts().sort_index().to_dict()
    assert counts[pd.Timestamp("2013-01-01")] == 842


def test_the_table_keeps_its_contract(cleaned: pa.Table) -> None:
    rows = DEPARTURES.conform(cleaned)
    validation = validate(DEPARTURES, rows)
    assert validation.violations == ()
    assert validation.clean is rows
    assert len(set(rows.column("flight_id").to_pylist())) == rows.num_rows


def test_a_flight_belongs_to_the_local_day_of_its_timetable(flown: pd.DataFrame) -> None:
    local = flown["scheduled_departure"].dt.tz_convert(NEW_YORK)
    assert (local.dt.date == pd.to_datetime(flown["flight_date"]).dt.date).all()


def test_the_timetables_clock_is_the_one_of_the_file(
    raw: pd.DataFrame, flown: pd.DataFrame
) -> None:
    local = flown["scheduled_departure"].dt.tz_convert(NEW_YORK)
    assert (local.dt.hour * 100 + local.dt.minute == raw["sched_dep_time"]).all()


def test_a_day_on_which_clocks_change_has_its_flights_an_hour_apart_in_utc(
    flown: pd.DataFrame,
) -> None:
    noon = {}
    for day in (date(2013, 3, 10), date(2013, 2, 9)):
        of_day = flown[pd.to_datetime(flown["flight_date"]).dt.date == day]
        local = of_day["scheduled_departure"].dt.tz_convert(NEW_YORK)
        at_noon = of_day.loc[local.dt.hour == 12, "scheduled_departure"]
        noon[day] = at_noon.dt.hour.unique().tolist()
    assert noon == {date(2013, 3, 10): [16], date(2013, 2, 9): [17]}


def test_actual_times_are_the_files_clocks_in_the_zone_where_they_were_read(
    raw: pd.DataFrame, flown: pd.DataFrame, raw_airports: pd.DataFrame
) -> None:
    """Over the whole year 327,325 of 327,346 landings agree.

    The rest lie in the nights in which clocks change: there the file contradicts its own delays.
    """
    zones = dict(zip(raw_airports["faa"], raw_airports["tzone"], strict=True)) | ZONES_NOT_IN_FILE
    landed = flown["landed_at"].notna()
    clock = pd.Series(0, index=flown.index)
    for zone, rows in flown[landed].groupby(flown["dest"].map(zones)):
        local = rows["landed_at"].dt.tz_convert(zone)
        clock[rows.index] = local.dt.hour * 100 + local.dt.minute
    off = landed & (clock != raw["arr_time"] % 2400)
    assert raw.loc[off, "date"].astype(str).value_counts().to_dict() == {
        "2013-03-10": 13,
        "2013-11-03": 7,
    }

    gone = flown["departed_at"].notna()
    local = flown.loc[gone, "departed_at"].dt.tz_convert(NEW_YORK)
    assert (local.dt.hour * 100 + local.dt.minute == raw.loc[gone, "dep_time"] % 2400).all()


def test_flights_take_as_long_as_their_distance_needs(flown: pd.DataFrame) -> None:
    """The day of the arrival is inferred: a wrong one would show as a flight a day too long."""
    scheduled = flown["scheduled_arrival"] - flown["scheduled_departure"]
    strange = ~scheduled.between(pd.Timedelta(minutes=20), pd.Timedelta(hours=13))
    # Two flights of the night in which clocks go back, by the file's own timetable.
    assert flown.loc[strange, "flight_id"].tolist() == [
        "20131103-B6-486-JFK",
        "20131103-B6-2002-JFK",
    ]
    landed = flown["landed_at"].notna() & ~strange
    actual = (flown["landed_at"] - flown["departed_at"])[landed]
    assert actual.between(pd.Timedelta(minutes=15), pd.Timedelta(hours=14)).all()


def test_delays_join_the_timetable_and_what_happened(flown: pd.DataFrame) -> None:
    minute = pd.Timedelta(minutes=1)
    landed = flown[flown["landed_at"].notna()]
    late = (landed["landed_at"] - landed["scheduled_arrival"]) / minute
    assert (late == landed["arr_delay"].astype(float)).all()
    assert (landed["late"].astype(bool) == (late > 15)).all()


def test_cancelled_and_diverted_flights_have_no_label(
    raw: pd.DataFrame, flown: pd.DataFrame
) -> None:
    assert (flown["cancelled"] == raw["dep_time"].isna()).all()
    nowhere = flown["cancelled"] | flown["diverted"]
    assert flown["diverted"].any()
    assert flown.loc[nowhere, ["late", "landed_at", "arr_delay"]].isna().all(axis=None)
    assert flown.loc[~nowhere, ["late", "landed_at", "arr_delay"]].notna().all(axis=None)
    assert flown.loc[flown["cancelled"], ["departed_at", "dep_delay"]].isna().all(axis=None)
    assert flown.loc[flown["diverted"], "departed_at"].notna().all()


def test_the_storm_of_february_8_cancelled_half_of_the_flights(flown: pd.DataFrame) -> None:
    by_day = flown["cancelled"].groupby(pd.to_datetime(flown["flight_date"]))
    assert by_day.sum()[pd.Timestamp("2013-02-08")] == 472
    assert by_day.mean()[pd.Timestamp("2013-02-09")] > 0.5
    assert by_day.mean()[pd.Timestamp("2013-07-15")] < 0.05


@pytest.fixture(scope="module")
def raw_weather() -> pd.DataFrame:
    return source.read("weather").to_pandas()


def test_weather_keeps_its_contract_and_is_known_an_hour_later(raw_weather: pd.DataFrame) -> None:
    rows = WEATHER.conform(weather.clean(raw_weather))
    assert rows.num_rows == len(raw_weather)
    validation = validate(WEATHER, rows)
    assert validation.clean.num_rows == len(raw_weather) - 1
    assert validation.failures == ()
    frame = rows.to_pandas()
    assert (frame["available_at"] - frame["observed_hour"] == pd.Timedelta(hours=1)).all()


def test_the_one_broken_wind_reading_is_put_aside_as_it_was_read(raw_weather: pd.DataFrame) -> None:
    validation = validate(WEATHER, WEATHER.conform(weather.clean(raw_weather)))
    (broken,) = validation.quarantined.to_pylist()
    assert broken["quarantine_reason"] == ["wind_speed: 1048.36 is above 254"]
    assert broken["wind_speed"] == raw_weather["wind_speed"].max()
    assert validation.clean.to_pandas()["wind_speed"].max() < 50


def test_every_file_of_the_year_keeps_its_contract(
    raw_flights: pd.DataFrame, raw_airports: pd.DataFrame
) -> None:
    year = Window(date(2013, 1, 1), date(2014, 1, 1))
    rows = DEPARTURES.conform(departures.clean(raw_flights, raw_airports))
    assert validate(DEPARTURES, rows, year).violations == ()
    assert audit_history(DEPARTURES, rows.to_reader()) == []
    for declared in (reference.PLANES, reference.AIRLINES, reference.AIRPORTS):
        rows = declared.conform(source.read(declared.name))
        assert validate(declared, rows).violations == ()


def test_a_quiet_day_is_enough_and_a_day_cut_short_is_not(
    raw_flights: pd.DataFrame, raw_airports: pd.DataFrame
) -> None:
    day = Window(date(2013, 11, 28), date(2013, 11, 29))
    thanksgiving = raw_flights[raw_flights["date"] == "2013-11-28"]
    rows = DEPARTURES.conform(departures.clean(thanksgiving, raw_airports))
    assert validate(DEPARTURES, rows, day).failures == ()
    cut = validate(DEPARTURES, rows.slice(0, 499), day).failures
    assert [str(failure) for failure in cut] == ["row count: 499 rows, at least 500 are needed"]
