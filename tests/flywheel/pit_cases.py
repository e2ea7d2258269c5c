"""Cases for the point-in-time join, and the search through all rows that it is tested against."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from flywheel.pit import ABSENT

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
DAY_AND_NIGHT = 24 * 3600

KEYS = {
    "string": (st.none() | st.sampled_from(["AA", "B6", ""]), pa.string()),
    "int": (st.none() | st.integers(-1, 1), pa.int64()),
}


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


def instants(seconds: Sequence[int], unit: str = "us", zone: str = "UTC") -> pa.Array:
    moments = [EPOCH + timedelta(seconds=s) for s in seconds]
    return pa.array(moments, pa.timestamp("us", tz="UTC")).cast(pa.timestamp(unit, tz=zone))


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
