"""A dataset's declaration makes tables conform, and counts the rows that break it."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from flywheel.dataset import (
    Dataset,
    Rule,
    SchemaError,
    Violation,
    arrow_type,
    columns,
    required,
)

READINGS = Dataset(
    name="readings",
    key=("station", "hour"),
    partition_by="hour",
    columns=columns(
        required("station", "string", "Where."),
        required("hour", "timestamp", "When."),
        ("wind", "float64", "Speed, mph."),
        ("count", "int32", "How many."),
    ),
)

NOON = datetime(2013, 3, 10, 12, tzinfo=UTC)
ONE = datetime(2013, 3, 10, 13, tzinfo=UTC)


def table(**changes: list[object]) -> pa.Table:
    values = {"station": ["JFK", "EWR"], "hour": [NOON, NOON], "wind": [1.0, None], "count": [3, 4]}
    return pa.table(values | changes)


def test_a_conforming_table_has_the_declared_order_and_types() -> None:
    rows = READINGS.conform(table().select(["count", "wind", "hour", "station"]))
    assert rows.column_names == ["station", "hour", "wind", "count"]
    assert rows.schema.field("count").type == pa.int32()
    assert rows.schema.field("hour").type == arrow_type("timestamp")
    assert rows.schema.equals(READINGS.schema, check_metadata=True)


def test_rows_are_sorted_by_the_key() -> None:
    rows = READINGS.conform(
        table(
            station=["JFK", "EWR", "EWR"], hour=[NOON, ONE, NOON], wind=[1, 2, 3], count=[1, 2, 3]
        )
    )
    assert rows.column("count").to_pylist() == [3, 2, 1]


def test_a_table_says_of_itself_how_it_is_to_be_stored() -> None:
    schema = READINGS.schema
    assert schema.metadata == {
        b"flywheel.key": b"station,hour",
        b"flywheel.partition_by": b"hour",
    }
    assert schema.field("wind").metadata == {b"doc": b"Speed, mph."}
    assert schema.field("wind").nullable
    assert not schema.field("station").nullable


def test_a_table_that_is_replaced_whole_has_no_partition_column() -> None:
    whole = Dataset("airlines", columns(required("carrier", "string", "Code.")), ("carrier",))
    assert whole.schema.metadata == {b"flywheel.key": b"carrier"}


def test_a_missing_column_is_named() -> None:
    with pytest.raises(SchemaError, match=r"readings: missing columns \['wind'\]"):
        READINGS.conform(table().drop_columns(["wind"]))


def test_an_undeclared_column_is_named() -> None:
    with pytest.raises(SchemaError, match=r"undeclared columns \['gust'\].*declare it"):
        READINGS.conform(table(gust=[1.0, 2.0]))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("count", ["many", "few"]),
        ("count", [1.5, 2.5]),
        ("count", [2**40, 1]),
        ("wind", ["strong", "weak"]),
        ("hour", [True, False]),
    ],
)
def test_a_value_that_cannot_be_cast_without_loss_is_refused_by_its_columns_name(
    column: str, values: list[object]
) -> None:
    with pytest.raises(SchemaError, match=rf"readings\.{column}: .* cannot become"):
        READINGS.conform(table(**{column: values}))


def test_a_column_of_nulls_takes_the_declared_type() -> None:
    rows = READINGS.conform(table(wind=[None, None]))
    assert rows.column("wind").type == pa.float64()
    assert rows.column("wind").null_count == 2


def test_a_table_that_keeps_its_promises_has_no_violation() -> None:
    assert READINGS.violations(READINGS.conform(table())) == []


def test_an_empty_table_keeps_every_promise() -> None:
    assert READINGS.violations(READINGS.conform(table().slice(0, 0))) == []


def test_missing_required_values_and_repeated_keys_are_counted() -> None:
    rows = READINGS.conform(
        table(station=["JFK", "JFK", "JFK", None], hour=[NOON] * 4, wind=[1] * 4, count=[1] * 4)
    )
    assert READINGS.violations(rows) == [
        Violation("station", Rule.NOT_NULL, 1),
        Violation("station, hour", Rule.UNIQUE, 2),
    ]


def test_a_key_or_partition_column_must_be_declared() -> None:
    declared = columns(required("a", "int64", "A."))
    with pytest.raises(SchemaError, match=r"\['b'\] are not among the columns \['a'\]"):
        Dataset("t", declared, key=("a", "b"))
    with pytest.raises(SchemaError, match=r"\['day'\]"):
        Dataset("t", declared, key=("a",), partition_by="day")
