"""The point-in-time join answers what a slow, obviously correct search answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flywheel.pit import ABSENT, entity_codes, latest_known, point_in_time_join, ticks

# (key, event, created) of a feature row; (key, asked_at) of a question.
Row = tuple[Any, int, int]
Question = tuple[Any, int]

# So few keys and moments that most examples hold ties, duplicates and late corrections.
TIMES = st.integers(0, 9)
CODES = st.integers(ABSENT, 2)
ROWS = st.lists(st.tuples(CODES, TIMES, TIMES), max_size=25)
QUESTIONS = st.lists(st.tuples(CODES, TIMES), max_size=15)
TTLS = st.none() | st.integers(0, 6)

EPOCH = datetime(2013, 1, 1, tzinfo=UTC)
THOROUGH = settings(max_examples=400, deadline=None)


def known(question: Question, rows: Sequence[Row], ttl: int | None) -> tuple[int, int] | None:
    """(event, created) of the row that was known to a question, found by looking at every row."""
    key, asked_at = question
    best = None
    for row_key, event, created in rows:
        if key is None or row_key != key:
            continue
        if event > asked_at or created > asked_at:
            continue
        if ttl is not None and asked_at - event > ttl:
            continue
        if best is None or (event, created) > best:
            best = (event, created)
    return best


def column(values: Sequence[Any], place: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([value[place] for value in values], dtype=np.int64)


def assert_answers(
    positions: Sequence[int], questions: Sequence[Question], rows: Sequence[Row], ttl: int | None
) -> None:
    """Every position must be a row of the asked key, as good as the oracle's."""
    assert len(positions) == len(questions)
    for position, question in zip(positions, questions, strict=True):
        wanted = known(question, rows, ttl)
        if wanted is None:
            assert position == ABSENT, f"{question} must find nothing, found {rows[position]}"
        else:
            assert position != ABSENT, f"{question} must find {wanted}, found nothing"
            assert rows[position] == (question[0], *wanted)


@THOROUGH
@given(questions=QUESTIONS, rows=ROWS, ttl=TTLS)
@example(questions=[(0, 5)], rows=[(0, 3, 3), (0, 1, 5)], ttl=None)  # late correction of old news
@example(questions=[(0, 5)], rows=[(0, 3, 5), (0, 3, 3)], ttl=None)  # correction of the same event
@example(questions=[(0, 5), (0, 4)], rows=[(0, 6, 2), (0, 2, 6)], ttl=None)  # nothing known yet
@example(questions=[(0, 5)], rows=[(0, 2, 5)], ttl=3)  # just within its time to live
@example(questions=[(0, 5)], rows=[(0, 2, 5)], ttl=2)  # just beyond it
@example(questions=[(1, 9)], rows=[(0, 1, 1), (2, 1, 1)], ttl=None)  # only the neighbours exist
def test_latest_known_finds_what_a_search_through_all_rows_finds(
    questions: list[Question], rows: list[Row], ttl: int | None
) -> None:
    positions = latest_known(
        column(questions, 0), column(questions, 1),
        column(rows, 0), column(rows, 1), column(rows, 2), ttl,
    )  # fmt: skip
    nulls = [(None if key == ABSENT else key, asked_at) for key, asked_at in questions]
    assert_answers(positions.tolist(), nulls, rows, ttl)


@settings(max_examples=100, deadline=None)
@given(questions=QUESTIONS, rows=ROWS, ttl=TTLS, seed=st.integers(0, 2**32 - 1))
def test_the_order_in_which_rows_arrive_does_not_matter(
    questions: list[Question], rows: list[Row], ttl: int | None, seed: int
) -> None:
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    answers = []
    for stored in (rows, shuffled):
        positions = latest_known(
            column(questions, 0), column(questions, 1),
            column(stored, 0), column(stored, 1), column(stored, 2), ttl,
        )  # fmt: skip
        answers.append([None if p == ABSENT else stored[p] for p in positions])
    assert answers[0] == answers[1]


KEYS = {
    "string": (st.none() | st.sampled_from(["AA", "B6", ""]), pa.string()),
    "int": (st.none() | st.integers(-1, 1), pa.int64()),
}


def instants(seconds: Sequence[int]) -> pa.Array:
    return pa.array([EPOCH + timedelta(seconds=s) for s in seconds], pa.timestamp("us", tz="UTC"))


def tables(
    questions: Sequence[Question], rows: Sequence[Row], types: Sequence[pa.DataType]
) -> tuple[pa.Table, pa.Table, list[str]]:
    """Spine, features and the names of their join keys; composite keys come as tuples."""
    names = [f"key_{n}" for n in range(len(types))]

    def keys(of: Sequence[Any]) -> dict[str, pa.Array]:
        return {
            name: pa.array([one[0][n] for one in of], dtype)
            for n, (name, dtype) in enumerate(zip(names, types, strict=True))
        }

    spine = pa.table({**keys(questions), "event_timestamp": instants([q[1] for q in questions])})
    features = pa.table(
        {
            **keys(rows),
            "event_timestamp": instants([r[1] for r in rows]),
            "created_timestamp": instants([r[2] for r in rows]),
        }
    )
    return spine, features, names


@st.composite
def keyed_cases(draw: st.DrawFn) -> tuple[list[Question], list[Row], list[pa.DataType]]:
    """Questions and rows under one to three join keys of any type."""
    kinds = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3))
    key = st.tuples(*(KEYS[kind][0] for kind in kinds))
    questions = draw(st.lists(st.tuples(key, TIMES), max_size=15))
    rows = draw(st.lists(st.tuples(key, TIMES, TIMES), max_size=25))
    return questions, rows, [KEYS[kind][1] for kind in kinds]


@THOROUGH
@given(case=keyed_cases(), ttl=TTLS)
def test_the_join_of_tables_finds_what_a_search_through_all_rows_finds(
    case: tuple[list[Question], list[Row], list[pa.DataType]], ttl: int | None
) -> None:
    questions, rows, types = case
    spine, features, names = tables(questions, rows, types)
    positions = point_in_time_join(spine, features, names, ttl_seconds=ttl)
    nulls = [(None if None in key else key, asked_at) for key, asked_at in questions]
    assert_answers(positions.tolist(), nulls, rows, ttl)


@settings(max_examples=100, deadline=None)
@given(case=keyed_cases(), pieces=st.integers(1, 4))
def test_how_a_table_is_chunked_does_not_matter(
    case: tuple[list[Question], list[Row], list[pa.DataType]], pieces: int
) -> None:
    spine, features, names = tables(*case)
    size = max(1, features.num_rows // pieces)
    chunked = pa.concat_tables(
        [features.slice(at, size) for at in range(0, features.num_rows, size)] or [features]
    )
    whole = point_in_time_join(spine, features, names)
    assert point_in_time_join(spine, chunked, names).tolist() == whole.tolist()


def test_equal_codes_mean_equal_keys_over_both_tables() -> None:
    left = pa.table({"a": ["x", "y", None, "x"], "b": [1, 1, 1, 2]})
    right = pa.table({"a": ["y", "x", "x"], "b": [1, 2, None]})
    left_codes, right_codes = entity_codes(left, right, ["a", "b"])
    assert left_codes[1] == right_codes[0]
    assert left_codes[3] == right_codes[1]
    assert left_codes[0] not in right_codes
    assert left_codes[2] == right_codes[2] == ABSENT


def test_the_spine_may_name_its_moment_otherwise_and_measure_it_otherwise() -> None:
    spine = pa.table(
        {
            "k": pa.array([1], pa.int32()),
            "asked": pa.array([EPOCH + timedelta(seconds=5)], pa.timestamp("ms", tz="UTC")),
        }
    )
    _, features, _ = tables([], [((1,), 5, 5), ((1,), 6, 6)], [pa.int64()])
    features = features.rename_columns(["k", "event_timestamp", "created_timestamp"])
    assert point_in_time_join(spine, features, ["k"], spine_timestamp="asked").tolist() == [0]


def test_a_question_without_a_moment_is_refused() -> None:
    times = pa.table({"event_timestamp": pa.array([EPOCH, None], pa.timestamp("us", tz="UTC"))})
    with pytest.raises(ValueError, match="event_timestamp holds 1 nulls"):
        ticks(times, "event_timestamp")
