"""How late each route (origin and destination) has been running lately."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from assets.authoring import AssetContext, feature_view, trailing
from assets.flights.delays import DAY, DAYS_OF_EVIDENCE, HOUR, delay_features, delay_statistics
from assets.flights.vocabulary import AIRPORT, ORIGINS
from assets.flights.year import YEAR
from flywheel.features import FeatureView, join_key

if TYPE_CHECKING:
    import pandas as pd

DEPARTED = (6 * HOUR, DAY)
LANDED = (DAY, 7 * DAY)

ROUTE_DELAYS = FeatureView(
    name="route_delays",
    join_keys=(join_key("origin", allowed=ORIGINS), join_key("dest", pattern=AIRPORT)),
    features=delay_features(DEPARTED, LANDED),
    ttl=timedelta(days=7),
    description="Trailing delay statistics of a route.",
    owner="team:flights",
)


@feature_view(ROUTE_DELAYS, calendar=YEAR, ins={"departures": trailing(DAYS_OF_EVIDENCE)})
def route_delays(context: AssetContext, departures: pd.DataFrame) -> pd.DataFrame:
    return delay_statistics(departures, ["origin", "dest"], DEPARTED, LANDED)
