"""The small tables that hardly ever change: aircraft, airlines and airports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.authoring import dataset
from assets.flights import source
from flywheel.dataset import Dataset, columns, required

if TYPE_CHECKING:
    import pyarrow as pa

PLANES = Dataset(
    name="planes",
    key=("tailnum",),
    columns=columns(
        required("tailnum", "string", "Tail number."),
        ("year", "int32", "Year of manufacture."),
        ("type", "string", "Kind of aircraft."),
        ("manufacturer", "string", "Manufacturer."),
        ("model", "string", "Model."),
        ("engines", "int32", "Number of engines."),
        ("seats", "int32", "Number of seats."),
        ("speed", "int32", "Cruising speed, mph."),
        ("engine", "string", "Kind of engine."),
    ),
)

AIRLINES = Dataset(
    name="airlines",
    key=("carrier",),
    columns=columns(
        required("carrier", "string", "Two-letter code."),
        required("name", "string", "Full name."),
    ),
)

AIRPORTS = Dataset(
    name="airports",
    key=("faa",),
    columns=columns(
        required("faa", "string", "FAA code."),
        required("name", "string", "Name."),
        required("lat", "float64", "Latitude, degrees."),
        required("lon", "float64", "Longitude, degrees."),
        ("alt", "int32", "Altitude, feet."),
        ("tz", "int32", "Hours from UTC, standard time."),
        ("dst", "string", "Rule of daylight saving: A (US), U (unknown) or N (none)."),
        ("tzone", "string", "IANA time zone."),
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
