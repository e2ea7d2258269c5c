"""How late flights have been running lately, by any key: the shared part of four feature views.

What counts as evidence at minute m: flights that departed at or before m, and flights that landed
at or before m. The row written for m may be used from m + 1 on: strictly after its evidence.

Half of all flights leave a few minutes early, and have then departed when their own scheduled
minute comes: that is known strictly before it, and so it counts, here as it would in production.
`docs/features.md` says what this is worth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.flights.departures import LATE_MINUTES
from flywheel.dataset import Column
from flywheel.features import number
from flywheel.trailing import Evidence, change_points, means, trailing_windows

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

# Longest window plus the longest flight that can still land inside it.
DAYS_OF_EVIDENCE = 9

HOUR = 60
DAY = 24 * HOUR


def minutes(instants: pd.Series) -> np.ndarray:
    """Instants as int64 minutes since the epoch (UTC)."""
    return instants.astype("datetime64[ns, UTC]").astype("int64").to_numpy() // 60_000_000_000


def instants(minute: np.ndarray) -> pd.DatetimeIndex:
    """Minutes since the epoch as UTC instants."""
    import pandas as pd

    return pd.DatetimeIndex(minute.astype("datetime64[m]").astype("datetime64[us]"), tz="UTC")


def window_name(window: int) -> str:
    """`3h` or `7d` for a number of minutes."""
    return f"{window // DAY}d" if window % DAY == 0 and window > DAY else f"{window // HOUR}h"


def delay_features(departed: tuple[int, ...], landed: tuple[int, ...]) -> tuple[Column, ...]:
    """The columns `delay_statistics` makes for these windows (minutes)."""
    columns = []
    for window in departed:
        last = f"over flights departed in the last {window_name(window)}"
        columns += [
            number(f"departed_{window_name(window)}", f"Count of flights {last[5:]}.", minimum=0),
            number(f"dep_delay_{window_name(window)}", f"Mean departure delay in minutes {last}."),
            number(
                f"dep_late_{window_name(window)}",
                f"Share of late departures {last}.",
                minimum=0,
                maximum=1,
            ),
        ]
    for window in landed:
        last = f"over flights landed in the last {window_name(window)}"
        columns += [
            number(f"arr_delay_{window_name(window)}", f"Mean arrival delay in minutes {last}."),
            number(
                f"arr_late_{window_name(window)}",
                f"Share of late arrivals {last}.",
                minimum=0,
                maximum=1,
            ),
            number(f"enroute_{window_name(window)}", f"Mean minutes lost on the way {last}."),
        ]
    return tuple(columns)


def delay_statistics(
    departures: pd.DataFrame, by: list[str], departed: tuple[int, ...], landed: tuple[int, ...]
) -> pd.DataFrame:
    """Trailing delay statistics of each key, one row whenever its evidence changes.

    Args:
        departures: Rows of `flights.departures`.
        by: Key columns.
        departed: Windows in minutes over departures.
        landed: Windows in minutes over landings.

    Returns:
        Key columns, the columns of `delay_features`, event and created timestamp.
    """
    import numpy as np

    code, keys = key_codes(departures, by)
    gone = departures["departed_at"].notna().to_numpy()
    down = departures["landed_at"].notna().to_numpy()
    dep_delay = departures["dep_delay"].to_numpy(dtype=np.float64, na_value=np.nan)
    arr_delay = departures["arr_delay"].to_numpy(dtype=np.float64, na_value=np.nan)
    departure = Evidence(
        code[gone],
        minutes(departures["departed_at"][gone]),
        {
            "dep_delay": dep_delay[gone].astype(np.int64),
            "dep_late": (dep_delay[gone] > LATE_MINUTES).astype(np.int64),
        },
    )
    landing = Evidence(
        code[down],
        minutes(departures["landed_at"][down]),
        {
            "arr_delay": arr_delay[down].astype(np.int64),
            "arr_late": (arr_delay[down] > LATE_MINUTES).astype(np.int64),
            "enroute": (arr_delay[down] - dep_delay[down]).astype(np.int64),
        },
    )
    key, minute = change_points(departure, landing)
    features: dict[str, np.ndarray] = {}
    departures_in = trailing_windows(departure, key, minute, departed)
    for window, (count, sums) in zip(departed, departures_in, strict=True):
        features[f"departed_{window_name(window)}"] = count.astype(np.float64)
        features |= _named(means(count, sums), window)
    landings_in = trailing_windows(landing, key, minute, landed)
    for window, (count, sums) in zip(landed, landings_in, strict=True):
        features |= _named(means(count, sums), window)
    return feature_rows(keys, key, minute, features)


def _named(values: dict[str, np.ndarray], window: int) -> dict[str, np.ndarray]:
    """Features by their names in a window."""
    return {f"{name}_{window_name(window)}": value for name, value in values.items()}


def key_codes(frame: pd.DataFrame, by: list[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """Number the distinct keys.

    Returns:
        int64 codes per row, and the key columns by code.
    """
    import numpy as np

    grouped = frame.groupby(by, sort=True, observed=True)
    keys = grouped.size().reset_index()[by]
    return grouped.ngroup().to_numpy(dtype=np.int64), keys


def feature_rows(
    keys: pd.DataFrame, key: np.ndarray, minute: np.ndarray, features: dict[str, np.ndarray]
) -> pd.DataFrame:
    """Put keys, features and times together; usable from the minute after the evidence."""
    usable = instants(minute + 1)
    return (
        keys.iloc[key]
        .reset_index(drop=True)
        .assign(**features, event_timestamp=usable, created_timestamp=usable)
    )
