"""How late each New York airport has been running lately."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from assets.authoring import AssetContext, feature_view, trailing
from assets.flights.delays import DAY, DAYS_OF_EVIDENCE, HOUR, delay_features, delay_statistics
from assets.flights.vocabulary import ORIGINS
from assets.flights.year import YEAR
from flywheel.features import FeatureView, join_key

if TYPE_CHECKING:
    import pandas as pd

DEPARTED = (HOUR, 3 * HOUR, DAY)
LANDED = (3 * HOUR, DAY, 7 * DAY)

ORIGIN_DELAYS = FeatureView(
    name="origin_delays",
    join_keys=(join_key("origin", allowed=ORIGINS),),
    features=delay_features(DEPARTED, LANDED),
    ttl=timedelta(days=1),
    description="Trailing delay statistics of an airport of departure.",
    owner="team:flights",
)


@feature_view(ORIGIN_DELAYS, calendar=YEAR, ins={"departures": trailing(DAYS_OF_EVIDENCE)})
def origin_delays(context: AssetContext, departures: pd.DataFrame) -> pd.DataFrame:
    return delay_statistics(departures, ["origin"], DEPARTED, LANDED)
