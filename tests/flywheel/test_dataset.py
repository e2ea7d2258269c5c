"""A dataset's declaration makes tables conform, says what it means, and refuses nonsense."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from flywheel.dataset import (
    Column,
    Dataset,
    SchemaError,
    arrow_type,
    columns,
    optional,
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


def test_a_key_or_partition_column_must_be_declared() -> None:
    declared = columns(required("a", "int64", "A."))
    with pytest.raises(SchemaError, match=r"\['b'\] are not among the columns \['a'\]"):
        Dataset("t", declared, key=("a", "b"))
    with pytest.raises(SchemaError, match=r"\['day'\]"):
        Dataset("t", declared, key=("a",), partition_by="day")


def test_a_renamed_column_is_recognised_by_its_name() -> None:
    renamed = table().rename_columns({"wind": "wind_mph"})
    with pytest.raises(SchemaError) as raised:
        READINGS.conform(renamed)
    assert "Was wind renamed to wind_mph?" in str(raised.value)
    assert "renamed_from='wind'" in str(raised.value)


def test_a_renamed_column_of_another_name_is_recognised_by_its_type() -> None:
    with pytest.raises(SchemaError, match="Was wind renamed to gust"):
        READINGS.conform(table().rename_columns({"wind": "gust"}))


def test_a_column_of_another_name_and_type_is_not_taken_for_the_missing_one() -> None:
    other = table(remark=["a", "b"]).drop_columns(["wind"])
    with pytest.raises(SchemaError) as raised:
        READINGS.conform(other)
    assert "renamed" not in str(raised.value)
    assert "Compute wind in the asset" in str(raised.value)
    assert "Drop remark in the asset" in str(raised.value)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    wrong = table(count=["many", "few"], remark=["a", "b"]).drop_columns(["wind"])
    with pytest.raises(SchemaError) as raised:
        READINGS.conform(wrong)
    for what in ("Compute wind", "Drop remark", "readings.count: string cannot become int32"):
        assert what in str(raised.value)


NUMBERED = Column("n", "int32", "N.", minimum=0, maximum=5)


@pytest.mark.parametrize(
    ("dtype", "rules", "problem"),
    [
        ("float32", {}, "there is no type 'float32'"),
        ("string", {"minimum": 1}, "minimum and maximum are not for string"),
        ("int32", {"minimum": "1"}, "give a number"),
        ("int32", {"minimum": True}, "give a number"),
        ("int64", {"maximum": 2**53}, "cannot be told from its neighbours"),
        ("float64", {"maximum": float("nan")}, "give a number"),
        ("int32", {"minimum": 2, "maximum": 1}, "minimum 2 is above maximum 1"),
        ("date", {"minimum": "2013-13-01"}, "is no ISO 8601 date"),
        ("date", {"minimum": 2013}, "is no ISO 8601 date"),
        ("timestamp", {"maximum": "2013-01-01T00:00"}, "has no offset"),
        ("int32", {"allowed": ("1",)}, "allowed and pattern are for strings"),
        ("bool", {"pattern": "a"}, "allowed and pattern are for strings"),
        ("string", {"allowed": ()}, "one or more different values"),
        ("string", {"allowed": ("a", "a")}, "one or more different values"),
        ("string", {"pattern": "("}, "is no regular expression"),
        ("string", {"pattern": "(?!a)b"}, "means something in Python only"),
        ("string", {"pattern": r"(a)\1"}, "means something in Python only"),
        ("string", {"classification": "secret"}, "classification is one of"),
        ("string", {"renamed_from": "c"}, "renamed_from is its own name"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_by_its_columns_name(
    dtype: Any, rules: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SchemaError, match=problem) as raised:
        Column("c", dtype, "C.", **rules)
    assert str(raised.value).startswith("column c: ")


def test_bounds_are_values_of_the_columns_type() -> None:
    day = Column("d", "date", "D.", minimum="2013-01-01")
    moment = Column("t", "timestamp", "T.", maximum="2013-01-01T00:00:00-05:00")
    assert day.bounds == (date(2013, 1, 1), None)
    assert moment.bounds == (None, datetime(2013, 1, 1, 5, tzinfo=UTC))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tolerance": 1.5}, "tolerance 1.5 is a share"),
        ({"min_rows": -1}, "min_rows -1"),
        ({"audit": "always"}, "audit is 'batch' or 'history'"),
        ({"freshness": timedelta(days=1)}, "freshness needs partition_by"),
        ({"freshness": timedelta(0), "partition_by": "d"}, "must be positive"),
        ({"partition_by": "n"}, "must be a date or a timestamp"),
    ],
)
def test_a_dataset_that_promises_nonsense_is_refused_by_its_name(
    changes: dict[str, Any], problem: str
) -> None:
    declared = columns(required("n", "int32", "N."), ("d", "date", "D."))
    with pytest.raises(SchemaError, match=problem) as raised:
        Dataset("t", declared, key=("n",), **changes)
    assert str(raised.value).startswith("dataset t: ")


def test_a_column_declared_twice_or_renamed_from_another_one_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"\['n'\] are declared twice"):
        Dataset("t", (NUMBERED, NUMBERED), key=("n",))
    renamed = optional("m", "int32", "M.", renamed_from="n")
    with pytest.raises(SchemaError, match=r"\['n'\] are columns, so no other can be renamed"):
        Dataset("t", (NUMBERED, renamed), key=("n",))
    twice = [optional(name, "int32", "X.", renamed_from="n") for name in ("a", "b")]
    with pytest.raises(SchemaError, match="two columns are renamed from one"):
        Dataset("t", tuple(twice), key=("a",))


def test_a_table_says_of_itself_what_is_classified_renamed_and_kept() -> None:
    declared = Dataset(
        "people",
        columns(
            required("id", "int64", "Id."),
            optional("mail", "string", "Address.", classification="pii", renamed_from="email"),
        ),
        key=("id",),
        audit="history",
    )
    assert declared.schema.metadata == {
        b"flywheel.key": b"id",
        b"flywheel.classified": b'{"mail": "pii"}',
        b"flywheel.renamed": b'{"mail": "email"}',
        b"flywheel.audit": b"history",
    }


def test_a_quarantine_takes_any_row_of_its_dataset() -> None:
    quarantine = READINGS.quarantine
    assert quarantine.name == "readings__quarantine"
    assert quarantine.partition_by == "quarantine_batch"
    assert all(column.nullable for column in quarantine.columns)
    assert [c.name for c in quarantine.columns] == [
        *(c.name for c in READINGS.columns),
        "quarantine_reason", "quarantine_batch", "quarantined_at", "quarantine_run",
    ]  # fmt: skip
    assert quarantine.key[:2] == READINGS.key
    whole = Dataset("t", (NUMBERED,), ("n",)).quarantine
    assert whole.partition_by is None
    assert whole.column("n").bounds == (None, None)


def test_a_column_of_the_quarantines_name_is_refused() -> None:
    taken = columns(required("quarantine_run", "string", "Run."))
    with pytest.raises(SchemaError, match="rename them"):
        _ = Dataset("t", taken, key=("quarantine_run",)).quarantine
