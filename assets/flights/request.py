"""What is worked out from a request itself, in training and in the gateway by this same function.

Only the standard library may be used here: the file travels in the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")


def request_features(request: Mapping[str, Any]) -> dict[str, float | str | None]:
    """Clock of departure by New York time, and how the schedule fits the distance.

    Args:
        request: Decoded request; timestamps are aware datetimes.
    """
    departure = request["scheduled_departure"].astimezone(NEW_YORK)
    block = request["scheduled_arrival"] - request["scheduled_departure"]
    return {
        "hour": departure.hour + departure.minute / 60.0,
        "weekday": str(departure.isoweekday()),
        "block_minutes": block.total_seconds() / 60.0,
    }
