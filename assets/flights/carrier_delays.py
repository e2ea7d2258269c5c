"""How late each airline has been running lately, over all of its flights out of New York."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from assets.authoring import AssetContext, feature_view, trailing
from assets.flights.delays import DAY, DAYS_OF_EVIDENCE, HOUR, delay_features, delay_statistics
from assets.flights.vocabulary import CARRIER
from assets.flights.year import YEAR
from flywheel.features import FeatureView, join_key

if TYPE_CHECKING:
    import pandas as pd

DEPARTED = (HOUR, 3 * HOUR, DAY)
LANDED = (3 * HOUR, DAY, 7 * DAY)

CARRIER_DELAYS = FeatureView(
    name="carrier_delays",
    join_keys=(join_key("carrier", pattern=CARRIER),),
    features=delay_features(DEPARTED, LANDED),
    ttl=timedelta(days=2),
    description="Trailing delay statistics of an airline.",
    owner="team:flights",
)


@feature_view(CARRIER_DELAYS, calendar=YEAR, ins={"departures": trailing(DAYS_OF_EVIDENCE)})
def carrier_delays(context: AssetContext, departures: pd.DataFrame) -> pd.DataFrame:
    return delay_statistics(departures, ["carrier"], DEPARTED, LANDED)
