"""Hourly weather at the three New York airports, with its gaps.

A station's reading labelled hour h may have been taken as late as h:51, so it is known from the
next hour on (`available_at`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.authoring import AssetContext, dataset
from assets.flights import source
from assets.flights.year import YEAR
from flywheel.dataset import Dataset, columns, required

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# A hurricane's record is 254 mph: the file's one reading of 1,048 mph is a broken instrument.
GREATEST_WIND_MPH = 254.0

READINGS = {
    "temp": "Temperature, degrees Fahrenheit.",
    "dewp": "Dew point, degrees Fahrenheit.",
    "humid": "Relative humidity, percent.",
    "wind_dir": "Wind direction, degrees.",
    "wind_speed": "Wind speed, mph.",
    "wind_gust": "Gust speed, mph; null when there was none.",
    "precip": "Precipitation, inches.",
    "pressure": "Sea level pressure, millibars.",
    "visib": "Visibility, miles.",
}

WEATHER = Dataset(
    name="weather",
    key=("origin", "observed_hour"),
    partition_by="observed_hour",
    columns=columns(
        required("origin", "string", "Airport: EWR, JFK or LGA."),
        required("observed_hour", "timestamp", "Hour the reading is labelled with."),
        required("available_at", "timestamp", "From when on the reading was known."),
        *((name, "float64", description) for name, description in READINGS.items()),
    ),
)


@dataset(WEATHER, calendar=YEAR, owner="team:flights", kinds={"csv"})
def weather(context: AssetContext) -> pa.Table:
    import pandas as pd

    start, end = context.instants
    raw = source.read("weather").to_pandas()
    hour = pd.to_datetime(raw["time_hour"], utc=True)
    return clean(raw[(hour >= start) & (hour < end)])


def clean(raw: pd.DataFrame) -> pa.Table:
    """Turn rows of the weather file into rows of `WEATHER`."""
    import pandas as pd
    import pyarrow as pa

    hour = pd.to_datetime(raw["time_hour"], utc=True)
    readings = raw[list(READINGS)].astype("float64")
    broken = readings["wind_speed"] > GREATEST_WIND_MPH
    readings.loc[broken, "wind_speed"] = float("nan")
    frame = pd.DataFrame(
        {
            "origin": raw["origin"],
            "observed_hour": hour,
            "available_at": hour + pd.Timedelta(hours=1),
        }
    ).join(readings)
    return pa.Table.from_pandas(frame, preserve_index=False)
