"""Local clocks to instants: `hhmm` in some time zone to UTC, over midnight and daylight saving."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

NEW_YORK = "America/New_York"

# Four destinations are missing from the airports file; all four lie on Puerto Rico.
ZONES_NOT_IN_FILE = dict.fromkeys(("SJU", "BQN", "PSE", "STT"), "America/Puerto_Rico")

# Block time of a flight, fitted on 2013: taxi and climb, then cruise.
TAXI = timedelta(minutes=45)
MILES_PER_MINUTE = 7.3


def scheduled_arrival(
    flight_date: pd.Series,
    clock: pd.Series,
    zone: pd.Series,
    scheduled_departure: pd.Series,
    distance: pd.Series,
) -> pd.Series:
    """The instant at which a flight should land.

    The timetable gives only a clock at the destination, so the day is the one (of the day before,
    the same and the next) that brings the flight's duration closest to what its distance needs.

    Args:
        flight_date: datetime64 local date of departure.
        clock: int `hhmm` at the destination; 2400 is midnight.
        zone: str time zone of the destination.
        scheduled_departure: datetime64[UTC].
        distance: Miles.

    Returns:
        datetime64[UTC] of the same index.
    """
    import pandas as pd

    wall = flight_date + pd.to_timedelta(clock // 100 * 60 + clock % 100, unit="min")
    expected = TAXI + pd.to_timedelta(distance / MILES_PER_MINUTE, unit="min")
    arrival = pd.Series(pd.NaT, index=clock.index, dtype="datetime64[ns, UTC]")
    for name, rows in wall.groupby(zone):
        local = rows.dt.tz_localize(str(name), ambiguous=True, nonexistent="shift_forward")
        arrival.loc[rows.index] = local.dt.tz_convert("UTC")
    off_by = arrival - scheduled_departure - expected
    return arrival - pd.to_timedelta((off_by / pd.Timedelta(days=1)).round(), unit="D")
