"""The difference of two tables is what a loop over their rows finds."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.diff import diff

SCHEMA = pa.schema(
    [
        ("day", pa.int64()),
        ("item", pa.string()),
        ("amount", pa.float64()),
        ("words", pa.list_(pa.string())),
    ]
)

ROWS = st.dictionaries(
    st.tuples(st.integers(0, 2), st.sampled_from(["a", "b"]) | st.none()),
    st.tuples(
        st.sampled_from([None, 0.0, 1.5, math.nan]),
        st.sampled_from([None, [], ["x"], ["x", None]]),
    ),
    max_size=5,
)


def table(rows: dict[Any, Any]) -> pa.Table:
    columns = [
        [key[0] for key in rows], [key[1] for key in rows],
        [value[0] for value in rows.values()], [value[1] for value in rows.values()],
    ]  # fmt: skip
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def keys(rows: pa.Table) -> set[Any]:
    return {(row["day"], row["item"]) for row in rows.to_pylist()}


def same(a: Any, b: Any) -> bool:
    return a == b or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)


@settings(deadline=None)
@given(ROWS, ROWS)
def test_the_difference_is_what_a_loop_finds(before: dict[Any, Any], after: dict[Any, Any]) -> None:
    found = diff(table(before), table(after), ["day", "item"])
    assert keys(found.added) == set(after) - set(before)
    assert keys(found.removed) == set(before) - set(after)
    both = set(before) & set(after)
    columns = {
        name: {key for key in both if not same(before[key][n], after[key][n])}
        for n, name in enumerate(("amount", "words"))
    }
    assert keys(found.changed) == columns["amount"] | columns["words"]
    assert found.columns == {name: len(rows) for name, rows in columns.items() if rows}
    assert found.empty == (not (columns["amount"] | columns["words"] or set(before) ^ set(after)))


def test_columns_that_came_and_went_are_named() -> None:
    before = pa.table({"k": [1], "old": [1], "v": [1]})
    after = pa.table({"k": [1], "v": [1], "new": [1]})
    found = diff(before, after, ["k"])
    assert (found.new_columns, found.lost_columns) == (("new",), ("old",))
    assert found.changed.num_rows == 0
    assert not found.empty


@pytest.mark.parametrize("rows", [[], [1, 2]])
def test_a_table_of_keys_only_can_be_compared(rows: list[int]) -> None:
    before = pa.table({'a "quoted" key': pa.array([1, 3], pa.int64())})
    after = pa.table({'a "quoted" key': pa.array(rows, pa.int64())})
    found = diff(before, after, ['a "quoted" key'])
    assert found.added.column(0).to_pylist() == [n for n in rows if n == 2]
    assert found.removed.num_rows == (1 if rows else 2)
