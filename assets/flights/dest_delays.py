"""How late flights to each destination have been running lately, from all New York airports."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from assets.authoring import AssetContext, feature_view, trailing
from assets.flights.delays import DAY, DAYS_OF_EVIDENCE, HOUR, delay_features, delay_statistics
from assets.flights.vocabulary import AIRPORT
from assets.flights.year import YEAR
from flywheel.features import FeatureView, join_key

if TYPE_CHECKING:
    import pandas as pd

DEPARTED = (HOUR, 3 * HOUR, DAY)
LANDED = (HOUR, 3 * HOUR, DAY)

DEST_DELAYS = FeatureView(
    name="dest_delays",
    join_keys=(join_key("dest", pattern=AIRPORT),),
    features=delay_features(DEPARTED, LANDED),
    ttl=timedelta(days=2),
    description="Trailing delay statistics of a destination.",
    owner="team:flights",
)


@feature_view(DEST_DELAYS, calendar=YEAR, ins={"departures": trailing(DAYS_OF_EVIDENCE)})
def dest_delays(context: AssetContext, departures: pd.DataFrame) -> pd.DataFrame:
    return delay_statistics(departures, ["dest"], DEPARTED, LANDED)
