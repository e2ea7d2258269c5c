"""What each aircraft did last: its latest departure from New York and its latest landing."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from assets.authoring import AssetContext, feature_view, trailing
from assets.flights.delays import feature_rows, key_codes, minutes
from assets.flights.vocabulary import TAILNUM
from assets.flights.year import YEAR
from flywheel.features import FeatureView, join_key, number
from flywheel.trailing import Evidence, change_points, last_value

if TYPE_CHECKING:
    import pandas as pd

# Between landing and leaving again for New York.
TURN_ROUND = 45

AIRCRAFT_LEGS = FeatureView(
    name="aircraft_legs",
    join_keys=(join_key("tailnum", pattern=TAILNUM, classification="sensitive"),),
    features=(
        number("dep_delay", "Departure delay of its previous leg, minutes."),
        number("arr_delay", "Arrival delay of that leg, minutes; null until it has landed."),
        number("block_minutes", "Scheduled duration of that leg, minutes."),
        number("back_in", "Minutes from this row until it could be back in New York."),
    ),
    ttl=timedelta(days=2),
    description="Previous leg of an aircraft.",
    owner="team:flights",
)


@feature_view(AIRCRAFT_LEGS, calendar=YEAR, ins={"departures": trailing(4)})
def aircraft_legs(context: AssetContext, departures: pd.DataFrame) -> pd.DataFrame:
    return legs(departures)


def legs(departures: pd.DataFrame) -> pd.DataFrame:
    """Rows of `AIRCRAFT_LEGS`, one whenever an aircraft departs or lands.

    A leg counts from its scheduled departure at the earliest: until then it is the leg that is
    asked about, not the previous one.
    """
    import numpy as np

    flown = departures[departures["tailnum"].notna() & departures["departed_at"].notna()]
    code, keys = key_codes(flown, ["tailnum"])
    due = minutes(flown["scheduled_departure"])
    arrival_due = minutes(flown["scheduled_arrival"])
    down = flown["landed_at"].notna().to_numpy()
    departure = Evidence(
        code,
        np.maximum(minutes(flown["departed_at"]), due),
        {
            "dep_delay": flown["dep_delay"].to_numpy(dtype=np.int64),
            "arrival_due": arrival_due,
            "block_minutes": arrival_due - due,
        },
    )
    landing = Evidence(
        code[down],
        minutes(flown["landed_at"][down]),
        {"arr_delay": flown["arr_delay"][down].to_numpy(dtype=np.int64)},
    )
    key, minute = change_points(departure, landing)
    departed_at, leg = last_value(departure, key, minute)
    landed_at, landed = last_value(landing, key, minute)
    on_ground = landed_at >= departed_at
    arrival = np.where(on_ground, landed_at, leg["arrival_due"] + leg["dep_delay"])
    return feature_rows(
        keys,
        key,
        minute,
        {
            "dep_delay": leg["dep_delay"],
            "arr_delay": np.where(on_ground, landed["arr_delay"], np.nan),
            "block_minutes": leg["block_minutes"],
            "back_in": arrival + TURN_ROUND + leg["block_minutes"] - minute,
        },
    )
