"""The queue at each New York airport: flights whose time has come and that have not left.

A flight that has not left three hours after its time no longer counts: nothing in the data says
when a cancellation was announced.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from assets.authoring import AssetContext, feature_view, trailing
from assets.flights.delays import HOUR, feature_rows, key_codes, minutes, window_name
from assets.flights.vocabulary import ORIGINS
from assets.flights.year import YEAR
from flywheel.features import FeatureView, join_key, number
from flywheel.trailing import Evidence, change_points, running_sum, trailing_sums

if TYPE_CHECKING:
    import pandas as pd

WINDOWS = (3 * HOUR, HOUR)

ORIGIN_BACKLOG = FeatureView(
    name="origin_backlog",
    join_keys=(join_key("origin", allowed=ORIGINS),),
    features=(
        number("scheduled_3h", "Flights scheduled to depart in the last 3 hours.", minimum=0),
        number("waiting_3h", "Those of them that have not departed.", minimum=0),
        number("waited_3h", "Minutes that those have been waiting, summed.", minimum=0),
        number("scheduled_1h", "Flights scheduled to depart in the last hour.", minimum=0),
        number("waiting_1h", "Those of them that have not departed.", minimum=0),
        number("waited_1h", "Minutes that those have been waiting, summed.", minimum=0),
    ),
    ttl=timedelta(days=1),
    description="Flights waiting at an airport of departure.",
    owner="team:flights",
    # Flights fall due all day, even when none of them leaves.
    freshness=timedelta(hours=3),
)


@feature_view(ORIGIN_BACKLOG, calendar=YEAR, ins={"departures": trailing(2)})
def origin_backlog(context: AssetContext, departures: pd.DataFrame) -> pd.DataFrame:
    return backlog(departures)


def backlog(departures: pd.DataFrame) -> pd.DataFrame:
    """Rows of `ORIGIN_BACKLOG`, one whenever a flight falls due or departs.

    A flight due at d that leaves at l is waiting from d until l, or until d + window if that is
    earlier. So the queue is a running sum: each flight joins at d and quits at the earlier of the
    two; and the minutes waited by minute m are m times the queue less the sum of its due minutes.
    """
    import numpy as np

    code, keys = key_codes(departures, ["origin"])
    due = minutes(departures["scheduled_departure"])
    gone = departures["departed_at"].notna().to_numpy()
    left = np.full(len(departures), np.iinfo(np.int64).max)
    # A departure ahead of schedule quits the queue at the moment it would have joined it.
    left[gone] = np.maximum(minutes(departures["departed_at"][gone]), due[gone])
    scheduled = Evidence(code, due, {})
    key, minute = change_points(scheduled, Evidence(code[gone], left[gone], {}))
    features = {}
    for window in WINDOWS:
        name = window_name(window)
        joined, joined_due = running_sum(code, due, due, key, minute)
        quit_at = np.minimum(left, due + window)
        quitted, quitted_due = running_sum(code, quit_at, due, key, minute)
        waiting = joined - quitted
        count, _ = trailing_sums(scheduled, key, minute, window)
        features[f"scheduled_{name}"] = count.astype(np.float64)
        features[f"waiting_{name}"] = waiting.astype(np.float64)
        waited = minute * waiting - (joined_due - quitted_due)
        features[f"waited_{name}"] = waited.astype(np.float64)
    return feature_rows(keys, key, minute, features)
