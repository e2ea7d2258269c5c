"""The latest weather known at each New York airport."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from assets.authoring import AssetContext, feature_view, trailing
from assets.flights.vocabulary import ORIGINS
from assets.flights.year import YEAR
from flywheel.features import FeatureView, join_key, number

if TYPE_CHECKING:
    import pandas as pd

READINGS = {
    "temp": "Temperature, degrees Fahrenheit.",
    "humid": "Relative humidity, percent.",
    "wind_speed": "Wind speed, mph.",
    "wind_gust": "Gust speed, mph; 0 when there was none.",
    "precip": "Precipitation of the hour, inches.",
    "pressure": "Sea level pressure, millibars.",
    "visib": "Visibility, miles.",
}

ORIGIN_WEATHER = FeatureView(
    name="origin_weather",
    join_keys=(join_key("origin", allowed=ORIGINS),),
    features=tuple(number(name, description) for name, description in READINGS.items()),
    ttl=timedelta(hours=6),
    description="Latest known weather at an airport of departure.",
    owner="team:flights",
    # There is no weather on 31 December, and that day the check rightly says so.
    freshness=timedelta(hours=6),
)


@feature_view(ORIGIN_WEATHER, calendar=YEAR, ins={"weather": trailing(1)})
def origin_weather(context: AssetContext, weather: pd.DataFrame) -> pd.DataFrame:
    return weather[["origin", *READINGS]].assign(
        wind_gust=weather["wind_gust"].fillna(0.0),
        event_timestamp=weather["available_at"],
        created_timestamp=weather["available_at"],
    )
