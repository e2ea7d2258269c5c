"""The small tables that hardly ever change: aircraft, airlines and airports."""

from __future__ import annotations

import pyarrow as pa

from assets.authoring import dataset
from assets.flights import source
from flywheel.dataset import Dataset, columns, required

PLANES = Dataset(
    name="planes",
    key=("tailnum",),
    columns=columns(
        required("tailnum", pa.string(), "Tail number."),
        ("year", pa.int32(), "Year of manufacture."),
        ("type", pa.string(), "Kind of aircraft."),
        ("manufacturer", pa.string(), "Manufacturer."),
        ("model", pa.string(), "Model."),
        ("engines", pa.int32(), "Number of engines."),
        ("seats", pa.int32(), "Number of seats."),
        ("speed", pa.int32(), "Cruising speed, mph."),
        ("engine", pa.string(), "Kind of engine."),
    ),
)

AIRLINES = Dataset(
    name="airlines",
    key=("carrier",),
    columns=columns(
        required("carrier", pa.string(), "Two-letter code."),
        required("name", pa.string(), "Full name."),
    ),
)

AIRPORTS = Dataset(
    name="airports",
    key=("faa",),
    columns=columns(
        required("faa", pa.string(), "FAA code."),
        required("name", pa.string(), "Name."),
        required("lat", pa.float64(), "Latitude, degrees."),
        required("lon", pa.float64(), "Longitude, degrees."),
        ("alt", pa.int32(), "Altitude, feet."),
        ("tz", pa.int32(), "Hours from UTC, standard time."),
        ("dst", pa.string(), "Rule of daylight saving: A (US), U (unknown) or N (none)."),
        ("tzone", pa.string(), "IANA time zone."),
    ),
)


@dataset(PLANES, owner="team:flights", kinds={"csv"})
def planes() -> pa.Table:
    """Aircraft by tail number; American and Envoy file fleet numbers, which are not in it."""
    return source.read("planes")


@dataset(AIRLINES, owner="team:flights", kinds={"csv"})
def airlines() -> pa.Table:
    """Airlines by code."""
    return source.read("airlines")


@dataset(AIRPORTS, owner="team:flights", kinds={"csv"})
def airports() -> pa.Table:
    """Airports by FAA code; four destinations on Puerto Rico are missing from the file."""
    return source.read("airports")
