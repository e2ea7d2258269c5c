"""Trailing windows give what adding up event by event gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flywheel.trailing import (
    Evidence,
    change_points,
    last_value,
    means,
    running_sum,
    trailing_sums,
    trailing_windows,
)

# (key, minute, value); few keys and minutes, so that ties and window edges are met all the time.
Event = tuple[int, int, int]

MINUTES = st.integers(0, 15)
EVENTS = st.lists(st.tuples(st.integers(0, 3), MINUTES, st.integers(-50, 50)), max_size=30)
ASKED = st.lists(st.tuples(st.integers(0, 4), MINUTES), max_size=15)
WINDOWS = st.integers(1, 20)
THOROUGH = settings(max_examples=200, deadline=None)


def evidence(events: list[Event]) -> Evidence:
    return Evidence(column(events, 0), column(events, 1), {"value": column(events, 2)})


def column(values: list[Any], place: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([value[place] for value in values], dtype=np.int64)


def in_window(events: list[Event], key: int, minute: int, window: float) -> list[int]:
    """Values known in (minute - window, minute], in the order of the input."""
    return [v for k, at, v in events if k == key and minute - window < at <= minute]


@THOROUGH
@given(events=EVENTS, asked=ASKED, window=WINDOWS)
@example(events=[(0, 15, 1), (1, 0, 1)], asked=[(1, 0)], window=20)  # before minute 0 lies key 0
@example(events=[(0, 5, 1)], asked=[(0, 8)], window=3)  # the window's start does not belong to it
def test_sums_and_counts_are_those_of_the_events_in_the_window(
    events: list[Event], asked: list[tuple[int, int]], window: int
) -> None:
    count, sums = trailing_sums(evidence(events), column(asked, 0), column(asked, 1), window)
    for place, (key, minute) in enumerate(asked):
        values = in_window(events, key, minute, window)
        assert count[place] == len(values)
        assert sums["value"][place] == sum(values)


@THOROUGH
@given(events=EVENTS, asked=ASKED, windows=st.lists(WINDOWS, max_size=4))
def test_many_windows_at_once_are_those_one_by_one(
    events: list[Event], asked: list[tuple[int, int]], windows: list[int]
) -> None:
    answers = trailing_windows(evidence(events), column(asked, 0), column(asked, 1), windows)
    assert len(answers) == len(windows)
    for window, (count, sums) in zip(windows, answers, strict=True):
        for place, (key, minute) in enumerate(asked):
            values = in_window(events, key, minute, window)
            assert (count[place], sums["value"][place]) == (len(values), sum(values))


@THOROUGH
@given(events=EVENTS, asked=ASKED, window=WINDOWS)
def test_means_are_those_of_the_events_in_the_window_and_nan_without_any(
    events: list[Event], asked: list[tuple[int, int]], window: int
) -> None:
    count, sums = trailing_sums(evidence(events), column(asked, 0), column(asked, 1), window)
    mean = means(count, sums)["value"]
    for place, (key, minute) in enumerate(asked):
        values = in_window(events, key, minute, window)
        assert count[place] == len(values)
        if values:
            assert mean[place] == pytest.approx(sum(values) / len(values), abs=1e-12)
        else:
            assert math.isnan(mean[place])


@THOROUGH
@given(events=EVENTS, asked=ASKED)
def test_a_running_sum_holds_everything_known_so_far(
    events: list[Event], asked: list[tuple[int, int]]
) -> None:
    count, total = running_sum(
        column(events, 0), column(events, 1), column(events, 2), column(asked, 0), column(asked, 1)
    )
    for place, (key, minute) in enumerate(asked):
        values = in_window(events, key, minute, math.inf)
        assert (count[place], total[place]) == (len(values), sum(values))


@THOROUGH
@given(events=EVENTS, asked=ASKED)
@example(events=[], asked=[(0, 3)])
@example(events=[(0, 3, 1), (0, 3, 2)], asked=[(0, 3)])  # of equal minutes the last one given
def test_the_last_value_is_the_newest_one_known(
    events: list[Event], asked: list[tuple[int, int]]
) -> None:
    known_at, values = last_value(evidence(events), column(asked, 0), column(asked, 1))
    for place, (key, minute) in enumerate(asked):
        newest = None
        for k, at, value in events:
            if k == key and at <= minute and (newest is None or at >= newest[0]):
                newest = (at, value)
        if newest is None:
            assert known_at[place] == -1
            assert math.isnan(values["value"][place])
        else:
            assert (known_at[place], values["value"][place]) == newest


@THOROUGH
@given(one=EVENTS, other=EVENTS)
def test_change_points_are_the_distinct_moments_of_all_streams_in_order(
    one: list[Event], other: list[Event]
) -> None:
    key, minute = change_points(evidence(one), evidence(other))
    wanted = sorted({(k, at) for k, at, _ in [*one, *other]})
    assert list(zip(key.tolist(), minute.tolist(), strict=True)) == wanted


def test_minutes_of_today_and_many_keys_do_not_run_into_each_other() -> None:
    now = 29_000_000  # minutes since the epoch in 2025
    events = [(2**31 - 1, now, 7), (2**31 - 2, now, 5)]
    count, sums = trailing_sums(
        evidence(events), np.array([2**31 - 1, 2**31 - 2]), np.array([now, now]), 60
    )
    assert count.tolist() == [1, 1]
    assert sums["value"].tolist() == [7, 5]
