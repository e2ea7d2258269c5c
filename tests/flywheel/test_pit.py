"""The point-in-time join answers what a slow, obviously correct search answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flywheel.pit import ABSENT, entity_codes, latest_known, point_in_time_join, ticks
from tests.flywheel.pit_cases import (
    EPOCH,
    QUESTIONS,
    ROWS,
    TTLS,
    Question,
    Row,
    assert_answers,
    instants,
    keyed_cases,
    known,
    tables,
)

THOROUGH = settings(max_examples=400, deadline=None)
NEW_YORK = ZoneInfo("America/New_York")

# Moments so far apart that entity and time do not fit one number side by side.
FAR_APART = 2**59


def column(values: Sequence[Any], place: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([value[place] for value in values], dtype=np.int64)


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


@THOROUGH
@given(questions=QUESTIONS, rows=ROWS, ttl=TTLS)
def test_moments_may_lie_as_far_apart_as_numbers_allow(
    questions: list[Question], rows: list[Row], ttl: int | None
) -> None:
    ttl = None if ttl is None else ttl * FAR_APART
    questions = [(key, at * FAR_APART) for key, at in questions]
    rows = [(key, event * FAR_APART, created * FAR_APART) for key, event, created in rows]
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


UNITS = st.sampled_from(["s", "ms", "us", "ns"])
ZONES = st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Auckland"])


@THOROUGH
@given(
    case=keyed_cases(),
    ttl=TTLS,
    units=st.tuples(UNITS, UNITS, UNITS),
    zones=st.tuples(ZONES, ZONES, ZONES),
)
def test_time_zones_and_units_do_not_matter(
    case: tuple[list[Question], list[Row], list[pa.DataType]],
    ttl: int | None,
    units: tuple[str, str, str],
    zones: tuple[str, str, str],
) -> None:
    questions, rows, types = case
    spine, features, names = tables(questions, rows, types)
    wanted = point_in_time_join(spine, features, names, ttl_seconds=ttl)
    spine = spine.drop(["event_timestamp"]).append_column(
        "event_timestamp", instants([q[1] for q in questions], units[0], zones[0])
    )
    features = pa.table(
        {
            **{name: features[name] for name in names},
            "event_timestamp": instants([r[1] for r in rows], units[1], zones[1]),
            "created_timestamp": instants([r[2] for r in rows], units[2], zones[2]),
        }
    )
    assert np.array_equal(point_in_time_join(spine, features, names, ttl_seconds=ttl), wanted)


def test_a_fraction_of_a_microsecond_counts() -> None:
    after = pa.array([1_000_000_000_001], pa.timestamp("ns", tz="UTC"))
    at = pa.array([1_000_000_000_000], pa.timestamp("ns", tz="UTC"))
    row = {"k": [1], "created_timestamp": at}
    spine = pa.table({"k": [1], "event_timestamp": at})
    features = pa.table({**row, "event_timestamp": after})
    assert point_in_time_join(spine, features, ["k"]).tolist() == [ABSENT]
    spine = pa.table({"k": [1], "event_timestamp": after})
    assert point_in_time_join(spine, features, ["k"]).tolist() == [0]
    known_before = pa.table({**row, "event_timestamp": at.cast(pa.timestamp("us", tz="UTC"))})
    assert point_in_time_join(spine, known_before, ["k"], ttl_seconds=0).tolist() == [ABSENT]


@pytest.mark.parametrize("change", [datetime(2013, 3, 10), datetime(2013, 11, 3)])  # noqa: DTZ001
def test_days_on_which_clocks_change_are_as_long_as_they_are(change: datetime) -> None:
    """Every quarter of an hour is asked about, by local clocks that jump or repeat an hour."""
    start = change.replace(tzinfo=NEW_YORK).astimezone(UTC)
    local = [(start + timedelta(minutes=15 * n)).astimezone(NEW_YORK) for n in range(26 * 4)]
    offset = round((start - EPOCH).total_seconds())
    rows: list[Row] = [
        ((1,), offset + hour * 3600, offset + hour * 3600 + 600) for hour in range(26)
    ]
    spine, features, names = tables([], rows, [pa.int64()])
    spine = pa.table(
        {
            "key_0": pa.array([1] * len(local), pa.int64()),
            "event_timestamp": pa.array(local, pa.timestamp("ms", tz="America/New_York")),
        }
    )
    questions: list[Question] = [
        ((1,), round((moment - EPOCH).total_seconds())) for moment in local
    ]
    positions = point_in_time_join(spine, features, names, ttl_seconds=3600)
    assert_answers(positions.tolist(), questions, rows, 3600)
    assert any(known(question, rows, 3600) is None for question in questions)


@pytest.mark.parametrize(("age", "found"), [(59, 0), (60, 0), (60.000001, ABSENT)])
def test_a_row_as_old_as_its_time_to_live_still_counts(age: float, found: int) -> None:
    _, features, names = tables([], [((1,), 0, 0)], [pa.int64()])
    spine = pa.table(
        {
            "key_0": pa.array([1], pa.int64()),
            "event_timestamp": pa.array(
                [EPOCH + timedelta(seconds=age)], pa.timestamp("us", tz="UTC")
            ),
        }
    )
    assert point_in_time_join(spine, features, names, ttl_seconds=60).tolist() == [found]


def test_questions_without_rows_and_rows_without_questions() -> None:
    spine, features, names = tables([((1,), 1)], [((1,), 1, 1)], [pa.int64()])
    assert point_in_time_join(spine, features.slice(0, 0), names).tolist() == [ABSENT]
    assert point_in_time_join(spine.slice(0, 0), features, names).tolist() == []


@pytest.mark.parametrize(
    ("side", "name"),
    [("spine", "event_timestamp"), ("row", "event_timestamp"), ("row", "created_timestamp")],
)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: pa.nulls(len(v), v.type), "{name} holds 1 nulls"),
        (lambda v: v.cast(pa.timestamp("us")), "{name} is timestamp.us.; .* time zone is required"),
        (lambda v: v.cast(pa.int64()), "{name} is int64"),
        (None, "no column '{name}'"),
    ],
)
def test_a_moment_that_is_none_is_refused_by_name(
    side: str, name: str, spoil: Any, message: str
) -> None:
    spine, features, names = tables([((1,), 1)], [((1,), 1, 1)], [pa.int64()])
    table = spine if side == "spine" else features
    spoiled = table.drop([name])
    if spoil is not None:
        spoiled = spoiled.append_column(name, spoil(table[name].combine_chunks()))
    spine, features = (spoiled, features) if side == "spine" else (spine, spoiled)
    with pytest.raises(ValueError, match=message.format(name=name)):
        point_in_time_join(spine, features, names)


def test_a_moment_that_a_unit_cannot_express_is_refused() -> None:
    far = pa.table({"t": pa.array([2**62], pa.timestamp("us", tz="UTC"))})
    with pytest.raises(ValueError, match="t cannot be measured in ns"):
        ticks(far, "t", "ns")


def test_keys_of_many_columns_stay_apart() -> None:
    """Numbering the distinct values of each column would overflow at this many columns."""
    types = [pa.int64()] * 12
    keys = [tuple(row) for row in np.random.default_rng(3).integers(0, 99, (200, 12)).tolist()]
    questions: list[Question] = [(key, 5) for key in keys]
    rows: list[Row] = [(key, 3, 3) for key in keys[::2]]
    spine, features, names = tables(questions, rows, types)
    positions = point_in_time_join(spine, features, names)
    assert_answers(positions.tolist(), questions, rows, None)
