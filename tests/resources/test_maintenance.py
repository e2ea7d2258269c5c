"""Upkeep changes no row, keeps what is named, and removes only what nobody refers to."""

from __future__ import annotations

import os
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from flywheel.dataset import Dataset, columns, required
from resources.lakehouse import Lakehouse, Window
from resources.maintenance import Policy, figures, maintain, remove_orphans

NAME = "shop.sales"
FIRST = date(2024, 1, 20)
POLICY = Policy(keep_snapshots=5, max_files=3, grace=timedelta(0))


def declared(dtype: str) -> Dataset:
    return Dataset(
        name="sales",
        key=("item", "day"),
        partition_by="day",
        columns=columns(
            required("day", "date" if dtype == "date" else "timestamp", "Day."),
            required("item", "string", "Item."),
        ),
    )


def fill(lakehouse: Lakehouse, dtype: str, days: int = 20) -> None:
    """A commit a day, over the end of a month."""
    dataset = declared(dtype)
    for n in range(days):
        day: date | datetime = FIRST + timedelta(days=n)
        if dtype == "timestamp":
            day = datetime(day.year, day.month, day.day, tzinfo=UTC)
        rows = pa.Table.from_pylist(
            [{"day": day, "item": item} for item in ("b", "a")], schema=dataset.schema
        )
        lakehouse.write(NAME, dataset.conform(rows), Window("day", day, day + timedelta(days=1)))


@pytest.mark.parametrize("dtype", ["date", "timestamp"])
def test_upkeep_leaves_the_rows_and_takes_the_rest(lakehouse: Lakehouse, dtype: str) -> None:
    fill(lakehouse, dtype)
    lakehouse.tag(NAME, "as trained", lakehouse.table(NAME).snapshots()[2].snapshot_id)
    rows, tagged = lakehouse.read(NAME), lakehouse.read(NAME, at="as trained")
    done = maintain(lakehouse, NAME, POLICY)
    assert lakehouse.read(NAME).equals(rows)
    assert lakehouse.read(NAME, at="as trained").equals(tagged)
    assert (done.before.files, done.after.files) == (20, 2)
    assert done.compacted_partitions == 2
    assert done.after.snapshots <= 5 + 1
    assert done.removed_files > 20
    assert done.after.stored_files < done.before.stored_files
    # Whatever is left is needed: all of history can still be read.
    table = lakehouse.table(NAME)
    for snapshot in table.snapshots():
        table.scan(snapshot_id=snapshot.snapshot_id).to_arrow()


def test_a_second_upkeep_finds_nothing_to_do(lakehouse: Lakehouse) -> None:
    fill(lakehouse, "date")
    maintain(lakehouse, NAME, POLICY)
    again = maintain(lakehouse, NAME, POLICY)
    assert (again.compacted_partitions, again.expired_snapshots, again.removed_files) == (0, 0, 0)
    assert again.before == again.after


def test_a_young_orphan_stays_because_a_writer_may_be_about_to_commit_it(
    lakehouse: Lakehouse,
) -> None:
    fill(lakehouse, "date", days=1)
    table = lakehouse.table(NAME)
    folder = Path(table.location().removeprefix("file://")) / "data"
    for name, age in (("young", 0), ("old", 7200)):
        (folder / f"{name}.parquet").write_bytes(b"left by a killed writer")
        os.utime(folder / f"{name}.parquet", (time.time() - age,) * 2)
    removed = remove_orphans(table, timedelta(hours=1))
    assert removed == [str(folder / "old.parquet")]
    assert (folder / "young.parquet").exists()
    assert lakehouse.read(NAME).num_rows == 2


def test_a_day_that_is_written_again_after_upkeep_is_still_the_same_day(
    lakehouse: Lakehouse,
) -> None:
    fill(lakehouse, "date")
    maintain(lakehouse, NAME, POLICY)
    snapshots = figures(lakehouse.table(NAME)).snapshots
    fill(lakehouse, "date")
    assert figures(lakehouse.table(NAME)).snapshots == snapshots
