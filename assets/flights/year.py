"""The days the flights data covers, by the clock of New York."""

from __future__ import annotations

from datetime import date

from flywheel.calendar import Calendar

YEAR = Calendar(start=date(2013, 1, 1), end=date(2014, 1, 1), timezone="America/New_York")
