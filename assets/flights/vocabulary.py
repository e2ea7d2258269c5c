"""What codes look like in the flights data, and the airports that all of it is about."""

from __future__ import annotations

ORIGINS = ("EWR", "JFK", "LGA")

CARRIER = "[0-9A-Z]{2}"
AIRPORT = "[0-9A-Z]{3}"
# Most begin with N; one of the year is filed as D942DN.
TAILNUM = "[A-Z][0-9A-Z]{4,5}"
FLIGHT_ID = f"[0-9]{{8}}-{CARRIER}-[0-9]{{1,4}}-({'|'.join(ORIGINS)})"
