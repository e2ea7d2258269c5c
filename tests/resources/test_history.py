"""A table's history: reading the past, naming it, going back to it, and changing the schema."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.exceptions import CommitFailedException

from flywheel.dataset import Column, Dataset, SchemaError, required
from resources.lakehouse import PARTITION, Lakehouse, Window
from tests.resources.shop import NAME, sales_with

SALES = sales_with(Column("pieces", "int32", "Pieces."))
DAY = date(2024, 1, 31)
OF_DAY = Window("day", DAY, DAY + timedelta(days=1))


def sales(*pieces: int, day: date = DAY) -> pa.Table:
    rows = [{"day": day, "item": f"item {n}", "pieces": p} for n, p in enumerate(pieces)]
    return SALES.conform(pa.Table.from_pylist(rows, schema=SALES.schema))


def pieces(lakehouse: Lakehouse, at: Any = None) -> list[int]:
    return lakehouse.read(NAME, at=at).column("pieces").to_pylist()


# --- time travel ---


def test_the_past_is_read_by_snapshot_by_tag_and_by_moment(lakehouse: Lakehouse) -> None:
    before = datetime.now(UTC)
    first = lakehouse.write(NAME, sales(1, 2)).snapshot_id
    assert lakehouse.tag(NAME, "as trained") == first
    time.sleep(0.01)
    between = datetime.now(UTC)
    time.sleep(0.01)
    lakehouse.write(NAME, sales(3))
    assert pieces(lakehouse) == [3]
    assert pieces(lakehouse, first) == [1, 2]
    assert pieces(lakehouse, "as trained") == [1, 2]
    assert pieces(lakehouse, between) == [1, 2]
    assert lakehouse.scan(NAME, OF_DAY, "as trained").to_arrow().num_rows == 2
    with pytest.raises(LookupError, match="no snapshot yet"):
        pieces(lakehouse, before - timedelta(days=1))
    with pytest.raises(LookupError, match=r"no tag or branch 'sold'; it has .*as trained"):
        pieces(lakehouse, "sold")
    with pytest.raises(LookupError, match=f"no snapshot 17; the newest ones are .*{first}"):
        pieces(lakehouse, 17)
    with pytest.raises(LookupError, match="no time zone"):
        pieces(lakehouse, between.replace(tzinfo=None))


def test_a_tag_moves_when_it_is_given_again(lakehouse: Lakehouse) -> None:
    lakehouse.write(NAME, sales(1))
    lakehouse.tag(NAME, "newest")
    second = lakehouse.write(NAME, sales(2)).snapshot_id
    assert lakehouse.tag(NAME, "newest") == second
    metadata = lakehouse.table(NAME).metadata_location
    lakehouse.tag(NAME, "newest")
    assert lakehouse.table(NAME).metadata_location == metadata  # no commit for nothing
    assert pieces(lakehouse, "newest") == [2]


def test_a_table_without_rows_cannot_be_tagged_and_that_is_no_error(lakehouse: Lakehouse) -> None:
    lakehouse.write(NAME, sales())
    assert lakehouse.tag(NAME, "nothing") == 0


def test_a_rollback_loses_nothing_and_can_be_undone(lakehouse: Lakehouse) -> None:
    first = lakehouse.write(NAME, sales(1)).snapshot_id
    second = lakehouse.write(NAME, sales(2)).snapshot_id
    assert lakehouse.rollback(NAME, first) == first
    assert pieces(lakehouse) == [1]
    lakehouse.rollback(NAME, second)
    assert pieces(lakehouse) == [2]


# --- schema evolution ---


def declare(*declared: Column, **renamed: str) -> Dataset:
    """SALES with columns in place of `pieces`; renamed: new name to old name."""
    changed = dataclasses.replace(SALES, columns=(*SALES.columns[:2], *declared))
    return dataclasses.replace(
        changed,
        columns=tuple(
            dataclasses.replace(c, renamed_from=renamed[c.name]) if c.name in renamed else c
            for c in changed.columns
        ),
    )


def write(lakehouse: Lakehouse, declared: Dataset, **values: Any) -> None:
    """Write one more day under another declaration."""
    day = DAY + timedelta(days=1)
    row = {"day": day, "item": "new", **values}
    rows = declared.conform(pa.Table.from_pylist([row], schema=declared.schema))
    lakehouse.write(NAME, rows, Window("day", day, day + timedelta(days=1)))


def test_an_added_column_is_null_in_older_rows(lakehouse: Lakehouse) -> None:
    lakehouse.write(NAME, sales(1))
    declared = declare(SALES.columns[2], Column("price", "float64", "Price, euros."))
    write(lakehouse, declared, pieces=2, price=9.5)
    assert lakehouse.read(NAME).column("price").to_pylist() == [None, 9.5]
    assert lakehouse.table(NAME).schema().find_field("price").doc == "Price, euros."


def test_a_widened_column_holds_old_and_new_values(lakehouse: Lakehouse) -> None:
    first = lakehouse.write(NAME, sales(1)).snapshot_id
    write(lakehouse, declare(Column("pieces", "int64", "Pieces.")), pieces=2**40)
    assert pieces(lakehouse) == [1, 2**40]
    assert pieces(lakehouse, first) == [1]


def test_a_renamed_column_keeps_its_values_and_old_snapshots_their_name(
    lakehouse: Lakehouse,
) -> None:
    first = lakehouse.write(NAME, sales(1)).snapshot_id
    declared = declare(Column("units", "int32", "Units."), units="pieces")
    write(lakehouse, declared, units=2)
    assert lakehouse.read(NAME).column("units").to_pylist() == [1, 2]
    assert lakehouse.read(NAME, at=first).column("pieces").to_pylist() == [1]
    write(lakehouse, declared, units=3)  # the declaration may say so for ever
    assert lakehouse.read(NAME).column("units").to_pylist() == [1, 3]


def test_a_column_that_is_declared_no_longer_stays_for_its_readers(lakehouse: Lakehouse) -> None:
    lakehouse.write(NAME, sales(1))
    write(lakehouse, declare())
    assert pieces(lakehouse) == [1, None]
    metadata = lakehouse.table(NAME).metadata_location
    write(lakehouse, declare())
    assert lakehouse.table(NAME).metadata_location == metadata  # the same again is no change


def test_a_required_column_may_become_optional(lakehouse: Lakehouse) -> None:
    declared = declare(required("pieces", "int32", "Pieces."))
    write(lakehouse, declared, pieces=1)
    write(lakehouse, SALES, pieces=None)
    assert pieces(lakehouse) == [None]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (Column("pieces", "string", "Pieces."), r"pieces is int32 and cannot become string"),
        (required("price", "float64", "Price."), r"new column price may not be required"),
    ],
)
def test_what_would_break_readers_is_refused_and_changes_nothing(
    lakehouse: Lakehouse, column: Column, message: str
) -> None:
    lakehouse.write(NAME, sales(1))
    metadata = lakehouse.table(NAME).metadata_location
    with pytest.raises(SchemaError, match=message):
        write(lakehouse, declare(column), **{column.name: 1.0 if column.name == "price" else "1"})
    assert lakehouse.table(NAME).metadata_location == metadata
    assert pieces(lakehouse) == [1]


# --- write, audit, publish ---


def test_what_passes_its_audit_is_published_and_its_branch_is_gone(lakehouse: Lakehouse) -> None:
    lakehouse.write(NAME, sales(1))
    seen = []
    for amount in (5, 6):
        written = lakehouse.write(
            NAME, sales(amount), OF_DAY, audit=lambda scan: seen.append(scan.to_arrow())
        )
        assert written.changed
        assert pieces(lakehouse) == [amount]
    assert [table.column("pieces").to_pylist() for table in seen] == [[5], [6]]
    assert set(lakehouse.table(NAME).refs()) == {"main"}


def test_the_first_batch_of_a_table_is_audited_too(lakehouse: Lakehouse) -> None:
    with pytest.raises(ValueError, match="no good"):
        lakehouse.write(NAME, sales(1), OF_DAY, audit=refuse)
    assert pieces(lakehouse) == []
    lakehouse.write(NAME, sales(2), OF_DAY, audit=lambda scan: None)
    assert pieces(lakehouse) == [2]


def refuse(scan: Any) -> None:
    raise ValueError("no good")


def test_what_fails_its_audit_is_seen_by_no_reader_and_kept_on_its_branch(
    lakehouse: Lakehouse,
) -> None:
    first = lakehouse.write(NAME, sales(1)).snapshot_id
    properties = {PARTITION: "2024-01-31"}
    for amount in (7, 8):  # the second attempt takes the place of the first
        with pytest.raises(ValueError, match="no good"):
            lakehouse.write(NAME, sales(amount), OF_DAY, properties, audit=refuse)
        assert lakehouse.current_snapshot(NAME) == first
        assert pieces(lakehouse, "audit/2024-01-31") == [amount]
    lakehouse.write(NAME, sales(9), OF_DAY, properties, audit=lambda scan: None)
    assert pieces(lakehouse) == [9]
    assert set(lakehouse.table(NAME).refs()) == {"main"}


def test_publishing_drops_nothing_that_another_writer_added_meanwhile(
    lakehouse: Lakehouse,
) -> None:
    lakehouse.write(NAME, sales(1))
    tomorrow = DAY + timedelta(days=1)
    audits = []

    def audit(scan: Any) -> None:
        audits.append(scan.to_arrow().num_rows)
        if len(audits) == 1:  # somebody else is quicker
            lakehouse.write(
                NAME, sales(4, day=tomorrow), Window("day", tomorrow, tomorrow + timedelta(days=1))
            )

    lakehouse.write(NAME, sales(3), OF_DAY, audit=audit)
    assert pieces(lakehouse) == [3, 4]
    assert audits == [1, 2]  # the second attempt saw what the other had written


def test_a_writer_that_always_loses_says_so(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    lakehouse.write(NAME, sales(1))
    day = iter(range(2, 1000))

    def audit(scan: Any) -> None:
        moved = DAY + timedelta(days=next(day))
        lakehouse.write(NAME, sales(4, day=moved), Window("day", moved, moved + timedelta(days=1)))

    monkeypatch.setattr("resources.lakehouse.ATTEMPTS", 3)
    with pytest.raises(CommitFailedException, match="main moved"):
        lakehouse.write(NAME, sales(3), OF_DAY, audit=audit)
    assert 3 not in pieces(lakehouse)
