"""The real flights of 2013, read once."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest

from assets.flights import departures, source

if TYPE_CHECKING:
    import pandas as pd


@pytest.fixture(scope="session")
def raw_flights() -> pd.DataFrame:
    """The flights file, and the local date of each flight as `date`."""
    import pandas as pd

    raw = source.read("flights").to_pandas(date_as_object=False)
    return raw.assign(date=pd.to_datetime(raw[["year", "month", "day"]]))


@pytest.fixture(scope="session")
def raw_airports() -> pd.DataFrame:
    """The airports file."""
    return source.read("airports").to_pandas()


@pytest.fixture(scope="session")
def two_weeks(raw_flights: pd.DataFrame, raw_airports: pd.DataFrame) -> pd.DataFrame:
    """Rows of `flights.departures`, 1 to 14 March: clocks change in the middle."""
    march = raw_flights["date"].between(str(date(2013, 3, 1)), str(date(2013, 3, 14)))
    return departures.clean(raw_flights[march], raw_airports).to_pandas()
