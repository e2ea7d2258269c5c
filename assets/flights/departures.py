"""Every flight that was to leave New York: schedule, what became of it, and when that was known.

One row per flight, partitioned by the local date of its scheduled departure. All instants are UTC.
A cancelled flight has no departure and no landing, a diverted one no landing; neither has a label.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from assets.authoring import AssetContext, dataset
from assets.flights import source
from assets.flights.clocks import ZONES_NOT_IN_FILE, scheduled_arrival
from assets.flights.vocabulary import AIRPORT, CARRIER, FLIGHT_ID, ORIGINS, TAILNUM
from assets.flights.year import YEAR
from flywheel.dataset import Dataset, columns, optional, required

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

LATE_MINUTES = 15

# Of the whole year: -43 to 1,301 minutes at departure, -86 to 1,272 at arrival.
EARLIEST, LATEST = -180, 2880

DEPARTURES = Dataset(
    name="departures",
    key=("flight_id",),
    partition_by="flight_date",
    freshness=timedelta(days=1),  # flights leave every day, so the last day of a batch has some
    tolerance=0.01,
    min_rows=500,  # the quietest day of the year, Thanksgiving, has 634
    columns=columns(
        required(
            "flight_id", "string", "yyyymmdd-carrier-flight-origin, unique.", pattern=FLIGHT_ID
        ),
        required("flight_date", "date", "Local date of the scheduled departure."),
        required("carrier", "string", "Two-letter airline code.", pattern=CARRIER),
        required("flight", "int32", "Flight number.", minimum=1, maximum=9999),
        optional(
            "tailnum",
            "string",
            "Tail number; null for some cancelled flights.",
            pattern=TAILNUM,
            classification="sensitive",
        ),
        required("origin", "string", "Airport left.", allowed=ORIGINS),
        required("dest", "string", "Airport flown to (FAA code).", pattern=AIRPORT),
        required("distance", "float64", "Miles between the two.", minimum=1, maximum=12_500),
        required("scheduled_departure", "timestamp", "Timetable departure."),
        required("scheduled_arrival", "timestamp", "Timetable arrival."),
        ("departed_at", "timestamp", "Actual departure; null if cancelled."),
        ("landed_at", "timestamp", "Actual arrival; null if cancelled or diverted."),
        optional(
            "dep_delay",
            "int32",
            "Minutes behind schedule at departure; negative is early.",
            minimum=EARLIEST,
            maximum=LATEST,
        ),
        optional(
            "arr_delay",
            "int32",
            "Minutes behind schedule at arrival; negative is early.",
            minimum=EARLIEST,
            maximum=LATEST,
        ),
        ("late", "bool", "Label: arrived more than 15 minutes late; null if it never landed."),
        required("cancelled", "bool", "Never departed."),
        required("diverted", "bool", "Departed, but did not arrive where it was to."),
    ),
)


@dataset(DEPARTURES, calendar=YEAR, owner="team:flights", kinds={"csv"})
def departures(context: AssetContext, airports: pd.DataFrame) -> pa.Table:
    import pandas as pd

    start, end = context.dates
    raw = source.read("flights").to_pandas(date_as_object=False)
    date = pd.to_datetime(raw[["year", "month", "day"]])
    wanted = (date >= pd.Timestamp(start)) & (date < pd.Timestamp(end))
    return clean(raw[wanted], airports)


def clean(raw: pd.DataFrame, airports: pd.DataFrame) -> pa.Table:
    """Turn raw flights into rows of `DEPARTURES`.

    Args:
        raw: Rows of the flights file.
        airports: Rows of `flights.airports`, for the time zones of the destinations.
    """
    import pandas as pd
    import pyarrow as pa

    date = pd.to_datetime(raw[["year", "month", "day"]])
    zones = dict(zip(airports["faa"], airports["tzone"], strict=True)) | ZONES_NOT_IN_FILE
    departure = pd.to_datetime(raw["time_hour"], utc=True) + pd.to_timedelta(
        raw["minute"], unit="min"
    )
    arrival = scheduled_arrival(
        date, raw["sched_arr_time"], raw["dest"].map(zones), departure, raw["distance"]
    )
    departed = raw["dep_time"].notna()
    landed = raw["arr_delay"].notna()
    frame = pd.DataFrame(
        {
            "flight_id": (raw["year"] * 10_000 + raw["month"] * 100 + raw["day"]).astype(str)
            + "-" + raw["carrier"] + "-" + raw["flight"].astype(str) + "-" + raw["origin"],
            "flight_date": date,
            **{name: raw[name] for name in ("carrier", "flight", "tailnum", "origin", "dest")},
            "distance": raw["distance"].astype("float64"),
            "scheduled_departure": departure,
            "scheduled_arrival": arrival,
            "departed_at": departure + pd.to_timedelta(raw["dep_delay"], unit="min"),
            "landed_at": arrival + pd.to_timedelta(raw["arr_delay"], unit="min"),
            "dep_delay": raw["dep_delay"].astype("Int32"),
            "arr_delay": raw["arr_delay"].astype("Int32"),
            "late": (raw["arr_delay"] > LATE_MINUTES).astype("boolean").where(landed),
            "cancelled": ~departed,
            "diverted": departed & ~landed,
        }
    )  # fmt: skip
    return pa.Table.from_pandas(frame, preserve_index=False)
