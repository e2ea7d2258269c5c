"""The tables of the benchmark `pit`: four feature views and the questions, over the whole year.

Airlines and airports: the state every quarter of an hour, by the trailing windows of the library.
Aircraft: a row for every landing. Weather: a row for every reading. Run as a process it writes the
views to the lakehouse and the questions to a file, in the home of the environment.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench import without_dagster
from flywheel.features import FeatureView, join_keys, number
from flywheel.settings import Settings
from flywheel.trailing import Evidence, means, trailing_windows

DOMAIN = "bench"
QUARTER = 15
HOUR = 60


def _view(name: str, key: str, features: tuple[str, ...], ttl: timedelta) -> FeatureView:
    return FeatureView(
        name=name,
        join_keys=join_keys(key),
        features=tuple(number(feature, f"{feature}.") for feature in features),
        ttl=ttl,
        description=f"{name} of the benchmark.",
        owner="team:bench",
    )


VIEWS = (
    _view(
        "carrier_grid", "carrier", ("landed_3h", "delay_3h", "landed_24h", "delay_24h"),
        timedelta(days=2),
    ),
    _view("origin_grid", "origin", ("landed_1h", "delay_1h", "delay_3h"), timedelta(days=2)),
    _view("aircraft", "tailnum", ("arr_delay", "air_time"), timedelta(days=3)),
    _view("readings", "origin", ("temp", "wind_speed", "visib"), timedelta(hours=6)),
)  # fmt: skip
WINDOWS = {"carrier_grid": (3 * HOUR, 24 * HOUR), "origin_grid": (HOUR, 3 * HOUR)}


def spine_file(settings: Settings) -> Path:
    """Where the questions lie."""
    return settings.home / "spine.parquet"


def main() -> None:
    """Compute and store."""
    without_dagster.pretend()
    from assets.flights import source
    from assets.flights import weather as stations
    from assets.flights.departures import DEPARTURES, clean

    raw = source.read("flights").to_pandas(date_as_object=False)
    flights = DEPARTURES.conform(clean(raw, source.read("airports").to_pandas())).to_pandas()
    weather = stations.clean(source.read("weather").to_pandas()).to_pandas()
    known = flights[flights["tailnum"].notna()]
    settings = Settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    spine = known[["flight_id", "carrier", "origin", "tailnum", "scheduled_departure"]].rename(
        columns={"scheduled_departure": "event_timestamp"}
    )
    pq.write_table(pa.Table.from_pandas(spine, preserve_index=False), spine_file(settings))
    rows = {
        "carrier_grid": _grid(flights, "carrier", WINDOWS["carrier_grid"]),
        "origin_grid": _grid(flights, "origin", WINDOWS["origin_grid"]).drop(columns="landed_3h"),
        "aircraft": _landings(known),
        "readings": _usable(weather, weather["available_at"]),
    }
    _store(settings, rows)


def _grid(flights: pd.DataFrame, key: str, windows: tuple[int, ...]) -> pd.DataFrame:
    """Landings and their mean delay in the windows, for every key and quarter of an hour."""
    landed = flights[flights["landed_at"].notna()]
    keys = np.sort(flights[key].unique())
    minute = _minutes(landed["landed_at"])
    evidence = Evidence(
        np.searchsorted(keys, landed[key]).astype(np.int64),
        minute,
        {"delay": landed["arr_delay"].to_numpy(np.int64)},
    )
    moments = np.arange(minute.min() // QUARTER * QUARTER, minute.max(), QUARTER)
    asked_key = np.repeat(np.arange(len(keys)), len(moments))
    asked = np.tile(moments, len(keys))
    columns: dict[str, Any] = {key: keys[asked_key]}
    answers = trailing_windows(evidence, asked_key, asked, windows)
    for window, (count, sums) in zip(windows, answers, strict=True):
        columns[f"landed_{window // HOUR}h"] = count.astype(np.float64)
        columns[f"delay_{window // HOUR}h"] = means(count, sums)["delay"]
    # Evidence of the moment itself counts from the next minute.
    usable = pd.DatetimeIndex((asked + 1).astype("datetime64[m]").astype("datetime64[us]"))
    return _usable(pd.DataFrame(columns), pd.Series(usable.tz_localize("UTC")))


def _landings(flights: pd.DataFrame) -> pd.DataFrame:
    """The newest landing of each aircraft minute, usable from the next minute."""
    landed = flights[flights["landed_at"].notna()].sort_values(["tailnum", "landed_at"])
    landed = landed.drop_duplicates(["tailnum", "landed_at"], keep="last")
    air_time = (landed["landed_at"] - landed["departed_at"]) / pd.Timedelta(minutes=1)
    return _usable(landed.assign(air_time=air_time), landed["landed_at"] + pd.Timedelta(minutes=1))


def _usable(rows: pd.DataFrame, moment: pd.Series) -> pd.DataFrame:
    return rows.assign(event_timestamp=moment, created_timestamp=moment)


def _minutes(instants: pd.Series) -> np.ndarray[Any, np.dtype[np.int64]]:
    return instants.astype("datetime64[ns, UTC]").astype("int64").to_numpy() // 60_000_000_000


def _store(settings: Settings, rows: dict[str, pd.DataFrame]) -> None:
    from resources.lakehouse import Lakehouse

    lakehouse = Lakehouse(catalog_uri=settings.lake_catalog_uri, warehouse=settings.lake_warehouse)
    for view in VIEWS:
        wanted = [column.name for column in view.dataset.columns]
        table = pa.Table.from_pandas(rows[view.name][wanted], preserve_index=False)
        lakehouse.write(f"{DOMAIN}.{view.name}", view.dataset.conform(table))


if __name__ == "__main__":
    main()
