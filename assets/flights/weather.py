"""Hourly weather at the three New York airports, with its gaps.

A station's reading labelled hour h may have been taken as late as h:51, so it is known from the
next hour on (`available_at`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.authoring import AssetContext, dataset
from assets.flights import source
from assets.flights.vocabulary import ORIGINS
from assets.flights.year import YEAR
from flywheel.dataset import Dataset, columns, optional, required

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# No wind faster than 254 mph was ever measured.
FASTEST_WIND = 254

READINGS = (
    optional("temp", "float64", "Temperature, degrees Fahrenheit.", minimum=-60, maximum=140),
    optional("dewp", "float64", "Dew point, degrees Fahrenheit.", minimum=-80, maximum=100),
    optional("humid", "float64", "Relative humidity, percent.", minimum=0, maximum=100),
    optional("wind_dir", "float64", "Wind direction, degrees.", minimum=0, maximum=360),
    optional("wind_speed", "float64", "Wind speed, mph.", minimum=0, maximum=FASTEST_WIND),
    optional(
        "wind_gust",
        "float64",
        "Gust speed, mph; null when there was none.",
        minimum=0,
        maximum=FASTEST_WIND,
    ),
    optional("precip", "float64", "Precipitation, inches.", minimum=0, maximum=20),
    optional("pressure", "float64", "Sea level pressure, millibars.", minimum=850, maximum=1100),
    optional("visib", "float64", "Visibility, miles.", minimum=0, maximum=100),
)

# No freshness and no least number of rows: stations are silent for hours, and the file ends in the
# evening of 30 December, so that the last day of the year has no row at all.
WEATHER = Dataset(
    name="weather",
    key=("origin", "observed_hour"),
    partition_by="observed_hour",
    tolerance=0.05,  # of a day's 72 readings three may be broken
    columns=columns(
        required("origin", "string", "Airport.", allowed=ORIGINS),
        required("observed_hour", "timestamp", "Hour the reading is labelled with."),
        required("available_at", "timestamp", "From when on the reading was known."),
        *READINGS,
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
    """Turn rows of the weather file into rows of `WEATHER`, readings as they are."""
    import pandas as pd
    import pyarrow as pa

    hour = pd.to_datetime(raw["time_hour"], utc=True)
    readings = raw[[column.name for column in READINGS]].astype("float64")
    frame = pd.DataFrame(
        {
            "origin": raw["origin"],
            "observed_hour": hour,
            "available_at": hour + pd.Timedelta(hours=1),
        }
    ).join(readings)
    return pa.Table.from_pandas(frame, preserve_index=False)
