"""The days a domain lives through, and the instants at which they begin."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo


@dataclass(frozen=True)
class Calendar:
    """Days in one time zone.

    Attributes:
        start: First day with data.
        end: First day without data any more; None for a source that is still alive.
        timezone: IANA name; a day begins at its local midnight.
    """

    start: date
    timezone: str
    end: date | None = None

    def midnight(self, day: date) -> datetime:
        """The instant at which `day` begins, in the calendar's time zone."""
        return datetime.combine(day, time(), tzinfo=ZoneInfo(self.timezone))

    def day_of(self, instant: datetime) -> date:
        """The local day of an aware instant."""
        return instant.astimezone(ZoneInfo(self.timezone)).date()

    def days(self, start: date, end: date) -> list[date]:
        """All days from `start` up to, not including, `end`."""
        return [start + timedelta(days=n) for n in range((end - start).days)]
