"""Push by push the trailing windows give what they give over everything at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flywheel.trailing import Evidence, trailing_windows
from flywheel.trailing_stream import TrailingStream

MINUTES = st.integers(0, 30)
EVENTS = st.lists(st.tuples(st.integers(0, 2), MINUTES, st.integers(-50, 50)), max_size=40)
ASKED = st.lists(st.tuples(st.integers(0, 3), MINUTES), max_size=20)
WINDOWS = st.lists(st.integers(1, 12), min_size=1, max_size=3)
CUTS = st.lists(MINUTES, max_size=6)

Event = tuple[int, int, int]


def evidence(events: list[Event]) -> Evidence:
    columns = np.array(events, dtype=np.int64).reshape(-1, 3)
    return Evidence(columns[:, 0], columns[:, 1], {"value": columns[:, 2]})


def pairs(asked: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    columns = np.array(asked, dtype=np.int64).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


@settings(max_examples=500, deadline=None)
@given(events=EVENTS, asked=ASKED, windows=WINDOWS, cuts=CUTS)
@example(events=[(0, 5, 1)], asked=[(0, 7), (0, 8)], windows=[3], cuts=[8])  # at the window's edge
@example(events=[(0, 5, 1)], asked=[(0, 6), (0, 7)], windows=[3], cuts=[7])  # just within it
def test_the_answers_are_those_of_all_at_once(
    events: list[Event], asked: list[tuple[int, int]], windows: list[int], cuts: list[int]
) -> None:
    stream = TrailingStream(windows)
    bounds = [*sorted({0, *cuts}), 31]
    answers: dict[int, list[tuple[int, int]]] = {}
    for start, end in pairwise(bounds):
        mine = [n for n, (_, minute) in enumerate(asked) if start <= minute < end]
        given_now = stream.push(
            evidence([event for event in events if start <= event[1] < end]),
            *pairs([asked[n] for n in mine]),
        )
        for place, n in enumerate(mine):
            answers[n] = [
                (int(count[place]), int(sums["value"][place])) for count, sums in given_now
            ]
    at_once = trailing_windows(evidence(events), *pairs(asked), windows)
    for n in range(len(asked)):
        assert answers[n] == [(int(c[n]), int(s["value"][n])) for c, s in at_once]


def test_only_what_the_longest_window_reaches_is_carried() -> None:
    stream = TrailingStream([10, 60])
    for hour in range(0, 6000, 60):
        minutes = np.arange(hour, hour + 60)
        here = np.zeros(60, dtype=np.int64)
        stream.push(Evidence(here, minutes, {"value": minutes}), here, minutes)
        assert stream.carried is not None
        assert len(stream.carried.key) == 60


def test_what_comes_too_late_is_refused() -> None:
    stream = TrailingStream([5])
    stream.push(evidence([(0, 3, 1)]), *pairs([(0, 7)]))
    with pytest.raises(ValueError, match="evidence of minute 7 came after"):
        stream.push(evidence([(0, 7, 1)]), *pairs([]))
    with pytest.raises(ValueError, match="question of minute 6 came after"):
        stream.push(evidence([]), *pairs([(0, 6)]))
    stream.push(evidence([(0, 8, 1)]), *pairs([(0, 7), (0, 8)]))
