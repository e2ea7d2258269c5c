"""Days begin at local midnight, on the days clocks change too."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from flywheel.calendar import Calendar

NEW_YORK = Calendar(date(2013, 1, 1), "America/New_York", date(2014, 1, 1))
SAO_PAULO = Calendar(date(2013, 1, 1), "America/Sao_Paulo")  # clocks change at midnight


def utc(*moment: int) -> datetime:
    return datetime(*moment, tzinfo=UTC)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("day", "begins", "hours"),
    [
        (date(2013, 1, 15), utc(2013, 1, 15, 5), 24),
        (date(2013, 3, 10), utc(2013, 3, 10, 5), 23),
        (date(2013, 3, 11), utc(2013, 3, 11, 4), 24),
        (date(2013, 11, 3), utc(2013, 11, 3, 4), 25),
        (date(2013, 11, 4), utc(2013, 11, 4, 5), 24),
    ],
)
def test_a_day_begins_at_its_midnight_and_is_as_long_as_its_clock_says(
    day: date, begins: datetime, hours: int
) -> None:
    assert NEW_YORK.midnight(day) == begins
    ends = NEW_YORK.midnight(day + timedelta(days=1))
    assert ends.astimezone(UTC) - begins == timedelta(hours=hours)


@pytest.mark.parametrize("calendar", [NEW_YORK, SAO_PAULO], ids=lambda c: c.timezone)
def test_every_day_of_the_year_begins_in_itself_and_ends_the_one_before(calendar: Calendar) -> None:
    for day in calendar.days(date(2013, 1, 1), date(2014, 1, 1)):
        begins = calendar.midnight(day).astimezone(UTC)
        assert calendar.day_of(begins) == day
        assert calendar.day_of(begins - timedelta(microseconds=1)) == day - timedelta(days=1)


def test_a_midnight_that_the_clock_jumps_over_is_the_moment_of_the_jump() -> None:
    begins = SAO_PAULO.midnight(date(2013, 10, 20)).astimezone(UTC)
    assert begins == utc(2013, 10, 20, 3)


def test_the_day_of_an_instant_is_the_local_one() -> None:
    assert NEW_YORK.day_of(utc(2013, 3, 11, 3, 59)) == date(2013, 3, 10)
    assert NEW_YORK.day_of(utc(2013, 3, 11, 4)) == date(2013, 3, 11)


def test_days_reach_from_the_first_up_to_the_last_exclusively() -> None:
    assert NEW_YORK.days(date(2013, 2, 27), date(2013, 3, 2)) == [
        date(2013, 2, 27),
        date(2013, 2, 28),
        date(2013, 3, 1),
    ]
    assert NEW_YORK.days(date(2013, 3, 2), date(2013, 3, 2)) == []
