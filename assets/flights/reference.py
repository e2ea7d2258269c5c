"""The small tables that hardly ever change: aircraft, airlines and airports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.authoring import dataset
from assets.flights import source
from assets.flights.vocabulary import AIRPORT, CARRIER, TAILNUM
from flywheel.dataset import Dataset, columns, optional, required

if TYPE_CHECKING:
    import pyarrow as pa

PLANES = Dataset(
    name="planes",
    min_rows=1000,
    key=("tailnum",),
    columns=columns(
        required("tailnum", "string", "Tail number.", pattern=TAILNUM, classification="sensitive"),
        optional("year", "int32", "Year of manufacture.", minimum=1903, maximum=2013),
        ("type", "string", "Kind of aircraft."),
        ("manufacturer", "string", "Manufacturer."),
        ("model", "string", "Model."),
        optional("engines", "int32", "Number of engines.", minimum=1, maximum=8),
        optional("seats", "int32", "Number of seats.", minimum=1, maximum=900),
        optional("speed", "int32", "Cruising speed, mph.", minimum=1, maximum=1500),
        ("engine", "string", "Kind of engine."),
    ),
)

AIRLINES = Dataset(
    name="airlines",
    min_rows=10,
    key=("carrier",),
    columns=columns(
        required("carrier", "string", "Two-letter code.", pattern=CARRIER),
        required("name", "string", "Full name."),
    ),
)

AIRPORTS = Dataset(
    name="airports",
    min_rows=1000,
    key=("faa",),
    columns=columns(
        required("faa", "string", "FAA code.", pattern=AIRPORT),
        required("name", "string", "Name."),
        required("lat", "float64", "Latitude, degrees.", minimum=-90, maximum=90),
        required("lon", "float64", "Longitude, degrees.", minimum=-180, maximum=180),
        optional("alt", "int32", "Altitude, feet.", minimum=-1500, maximum=20_000),
        optional("tz", "int32", "Hours from UTC, standard time.", minimum=-12, maximum=14),
        optional(
            "dst",
            "string",
            "Rule of daylight saving: A (US), U (unknown) or N (none).",
            allowed=("A", "N", "U"),
        ),
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
