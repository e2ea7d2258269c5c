"""Chunk by chunk the point-in-time join answers what it answers over all rows at once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flywheel.pit import point_in_time_join
from flywheel.pit_stream import PointInTimeStream, answers_in_order, take_known
from tests.flywheel.pit_cases import (
    DAY_AND_NIGHT,
    EPOCH,
    QUESTIONS,
    ROWS,
    TIMES,
    TTLS,
    Question,
    Row,
    keyed_cases,
    tables,
)

THOROUGH = settings(max_examples=300, deadline=None)
CUTS = st.lists(st.integers(0, 25), max_size=6)


def chunked(features: pa.Table, cuts: list[int]) -> list[pa.Table]:
    """The rows in the order of their events, cut anywhere: also amid equal events."""
    in_order = features.take(
        np.argsort(features["event_timestamp"].cast(pa.int64()).to_numpy(), kind="stable")
    )
    bounds = sorted({0, *(min(cut, in_order.num_rows) for cut in cuts), in_order.num_rows})
    pieces = [in_order.slice(a, b - a) for a, b in pairwise(bounds)]
    # Within a chunk the order is free, except among rows that are equal in everything but payload.
    return [piece.sort_by([("created_timestamp", "descending")]) for piece in pieces]


def streamed(
    spine: pa.Table, chunks: list[pa.Table], schema: pa.Schema, names: list[str], ttl: int | None
) -> pa.Table:
    stream = PointInTimeStream(spine, schema, names, ttl_seconds=ttl)
    return answers_in_order(stream, chunks, spine.num_rows)


@THOROUGH
@given(case=keyed_cases(), cuts=CUTS, ttl=TTLS)
def test_the_answers_are_those_of_the_join_at_once(
    case: tuple[list[Question], list[Row], list[pa.DataType]], cuts: list[int], ttl: int | None
) -> None:
    spine, features, names = tables(*case)
    numbered = features.append_column("row", pa.array(range(features.num_rows), pa.int64()))
    chunks = chunked(numbered, cuts)
    whole = pa.concat_tables([numbered.schema.empty_table(), *chunks])
    wanted = take_known(whole, point_in_time_join(spine, whole, names, ttl_seconds=ttl))
    assert streamed(spine, chunks, numbered.schema, names, ttl).to_pylist() == wanted.to_pylist()


@settings(max_examples=1000, deadline=None)
@given(questions=QUESTIONS, rows=ROWS, cuts=CUTS, ttl=TTLS)
@example(questions=[(0, 5)], rows=[(0, 2, 2), (0, 5, 9)], cuts=[1], ttl=3)  # exactly its time
@example(questions=[(0, 8)], rows=[(0, 2, 7), (0, 1, 1), (0, 5, 9)], cuts=[1], ttl=None)
def test_few_entities_with_much_history_are_answered_as_at_once(
    questions: list[Question], rows: list[Row], cuts: list[int], ttl: int | None
) -> None:
    spine, features, names = tables(
        [((key,), at) for key, at in questions], [((key,), *times) for key, *times in rows],
        [pa.int64()],
    )  # fmt: skip
    numbered = features.append_column("row", pa.array(range(features.num_rows), pa.int64()))
    chunks = chunked(numbered, cuts)
    whole = pa.concat_tables([numbered.schema.empty_table(), *chunks])
    wanted = take_known(whole, point_in_time_join(spine, whole, names, ttl_seconds=ttl))
    assert streamed(spine, chunks, numbered.schema, names, ttl).equals(wanted)


@THOROUGH
@given(
    rows=st.lists(st.tuples(st.tuples(st.integers(0, 2)), TIMES, TIMES), max_size=25),
    cuts=CUTS,
    ttl=TTLS,
)
@example(rows=[((0,), 1, 9), ((0,), 2, 2), ((0,), 5, 5)], cuts=[1, 2], ttl=None)
def test_what_is_carried_is_one_known_row_an_entity_and_rows_whose_creation_lies_ahead(
    rows: list[Row], cuts: list[int], ttl: int | None
) -> None:
    spine, features, names = tables([((0,), 9)], rows, [pa.int64()])
    stream = PointInTimeStream(spine, features.schema, names, ttl_seconds=ttl)
    for chunk in chunked(features, cuts):
        stream.push(chunk)
        newest = max(chunk["event_timestamp"].to_pylist())
        carried = stream.carried.to_pylist()
        known = [row["key_0"] for row in carried if row["created_timestamp"] <= newest]
        assert len(known) == len(set(known))
        if ttl is not None:
            assert all((newest - row["event_timestamp"]).total_seconds() <= ttl for row in carried)


def test_memory_does_not_grow_with_history() -> None:
    """A hundred entities reporting for ever: never more than a row each between chunks."""
    spine, _, names = tables([((0,), 10**6)], [], [pa.int64()])
    stream = None
    for day in range(50):
        rows = [((key,), day * 100 + minute, day * 100 + minute)
                for key in range(100) for minute in range(10)]  # fmt: skip
        _, chunk, _ = tables([], rows, [pa.int64()])
        stream = stream or PointInTimeStream(spine, chunk.schema, names)
        stream.push(chunk)
        assert stream.carried.num_rows == 100


def test_a_row_of_january_that_was_created_in_june_counts_from_june() -> None:
    month = 30 * DAY_AND_NIGHT
    rows: list[Row] = [((1,), 0, 5 * month), ((2,), month, month), ((2,), 5 * month, 5 * month)]
    questions: list[Question] = [((1,), 5 * month), ((1,), 5 * month - 1), ((2,), 2 * month)]
    spine, features, names = tables(questions, rows, [pa.int64()])
    chunks = [features.slice(n, 1) for n in range(3)]
    found = streamed(spine, chunks, features.schema, names, None)["event_timestamp"].to_pylist()
    assert found[0] == EPOCH
    assert found[1] is None
    assert found[2] is not None


def test_no_chunk_is_read_once_every_question_is_answered() -> None:
    spine, features, names = tables([((1,), 3)], [((1,), n, n) for n in range(9)], [pa.int64()])
    read: list[int] = []

    def chunks() -> Any:
        for n in range(9):
            read.append(n)
            yield features.slice(n, 1)

    stream = PointInTimeStream(spine, features.schema, names)
    assert answers_in_order(stream, chunks(), 1)["event_timestamp"].to_pylist() != [None]
    assert read == [0, 1, 2, 3, 4]


def test_without_any_chunk_all_answers_are_null() -> None:
    spine, features, names = tables([((1,), 3), ((2,), 1)], [], [pa.int64()])
    answers = streamed(spine, [], features.schema, names, None)
    assert answers.num_rows == 2
    assert answers["event_timestamp"].null_count == 2


def test_without_any_question_there_are_no_answers() -> None:
    spine, features, names = tables([], [((1,), 1, 1)], [pa.int64()])
    assert streamed(spine, [features], features.schema, names, None).num_rows == 0


def test_chunks_out_of_order_are_refused() -> None:
    spine, features, names = tables([((1,), 9)], [((1,), 5, 5), ((1,), 4, 4)], [pa.int64()])
    stream = PointInTimeStream(spine, features.schema, names)
    stream.push(features.slice(0, 1))
    with pytest.raises(ValueError, match="order of event_timestamp"):
        stream.push(features.slice(1, 1))


def test_only_the_columns_asked_for_come_back() -> None:
    spine, features, names = tables([((1,), 3)], [((1,), 1, 1)], [pa.int64()])
    stream = PointInTimeStream(spine, features.schema, names, columns=["created_timestamp"])
    assert answers_in_order(stream, [features], 1).column_names == ["created_timestamp"]
