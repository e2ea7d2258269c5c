"""Writing is overwriting: twice is once, a day is a day, a killed writer leaves a whole table."""

# No `from __future__ import annotations` here: Dagster reads the annotation of a context.
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from flywheel.dataset import Column, Dataset, columns, required
from resources.io_manager import IcebergIOManager
from resources.lakehouse import Lakehouse, Window, fingerprint
from tests.resources.shop import NAME, sales_with

SALES = sales_with(
    Column("amount", "float64", "Amount."),
    Column("tags", "list<string>", "Tags."),
    Column("seen_at", "timestamp", "Seen."),
)
MONDAY = date(2024, 1, 29)  # the week reaches into the next month, and so the next partition
WEEK = [MONDAY + timedelta(days=n) for n in range(7)]


def sales(days: list[date], amount: float = 1.0, items: tuple[str, ...] = ("a", "b")) -> pa.Table:
    rows = [
        {
            "day": day,
            "item": item,
            "amount": amount if item == "a" else None,
            "tags": ["new", None] if item == "a" else [],
            "seen_at": datetime(2024, 1, 1, tzinfo=UTC),
        }
        for day in days
        for item in items
    ]
    return SALES.conform(pa.Table.from_pylist(rows, schema=SALES.schema))


def of_day(day: date) -> Window:
    return Window("day", day, day + timedelta(days=1))


def test_a_table_is_made_on_first_use_with_its_key_and_partitions(lakehouse: Lakehouse) -> None:
    assert not lakehouse.exists(NAME)
    written = lakehouse.write(NAME, sales(WEEK))
    assert (written.rows, written.total_rows, written.changed) == (14, 14, True)
    assert lakehouse.exists(NAME)
    table = lakehouse.table(NAME)
    assert table.properties["flywheel.key"] == "day,item"
    assert [field.name for field in table.spec().fields] == ["day_month"]
    assert table.schema().find_field("amount").doc == "Amount."
    assert lakehouse.read(NAME).select(["day", "item", "amount"]) == sales(WEEK).select(
        ["day", "item", "amount"]
    )


def test_a_table_that_does_not_exist_says_which_asset_makes_it(lakehouse: Lakehouse) -> None:
    with pytest.raises(LookupError, match="materialize the asset shop/sales first"):
        lakehouse.read(NAME)


@pytest.mark.parametrize("window", [None, Window("day", WEEK[0], WEEK[-1] + timedelta(days=1))])
def test_writing_what_is_there_makes_no_snapshot(
    lakehouse: Lakehouse, window: Window | None
) -> None:
    first = lakehouse.write(NAME, sales(WEEK), window)
    again = lakehouse.write(NAME, sales(WEEK), window)
    assert (first.changed, again.changed) == (True, False)
    assert again.snapshot_id == first.snapshot_id
    assert again.total_rows == first.total_rows == 14
    assert lakehouse.current_snapshot(NAME) == first.snapshot_id


def test_a_changed_value_replaces_and_does_not_add(lakehouse: Lakehouse) -> None:
    first = lakehouse.write(NAME, sales(WEEK))
    second = lakehouse.write(NAME, sales(WEEK, amount=2.0))
    assert second.snapshot_id != first.snapshot_id
    assert second.total_rows == 14
    assert set(lakehouse.read(NAME).column("amount").to_pylist()) == {2.0, None}


def test_overwriting_a_day_leaves_the_other_days_alone(lakehouse: Lakehouse) -> None:
    lakehouse.write(NAME, sales(WEEK))
    for day in (WEEK[2], WEEK[3]):  # the last of January, the first of February
        written = lakehouse.write(NAME, sales([day], amount=9.0, items=("a",)), of_day(day))
        assert written.rows == 1
    rows = lakehouse.read(NAME).to_pylist()
    assert len(rows) == 12
    changed = {row["day"] for row in rows if row["amount"] == 9.0}
    assert changed == {WEEK[2], WEEK[3]}
    for day in set(WEEK) - changed:
        assert lakehouse.read(NAME, of_day(day)).equals(sales([day]).cast(rows_schema(lakehouse)))


def rows_schema(lakehouse: Lakehouse) -> pa.Schema:
    return lakehouse.read(NAME).schema


def test_an_empty_day_empties_it(lakehouse: Lakehouse) -> None:
    lakehouse.write(NAME, sales(WEEK))
    lakehouse.write(NAME, sales([]), of_day(WEEK[0]))
    assert lakehouse.read(NAME).num_rows == 12
    assert lakehouse.read(NAME, of_day(WEEK[0])).num_rows == 0


def test_an_empty_table_can_be_written_and_read(lakehouse: Lakehouse) -> None:
    written = lakehouse.write(NAME, sales([]))
    assert (written.snapshot_id, written.total_rows, written.changed) == (0, 0, False)
    assert lakehouse.read(NAME).num_rows == 0


def test_rows_outside_of_the_window_are_refused_before_anything_is_written(
    lakehouse: Lakehouse,
) -> None:
    first = lakehouse.write(NAME, sales(WEEK))
    with pytest.raises(ValueError, match="2 rows have day outside of"):
        lakehouse.write(NAME, sales([WEEK[0], WEEK[1]], 5.0), of_day(WEEK[0]))
    assert lakehouse.current_snapshot(NAME) == first.snapshot_id


def test_a_window_of_instants_begins_at_its_start_and_ends_before_its_end(
    lakehouse: Lakehouse,
) -> None:
    ticks = Dataset(
        "ticks", columns(required("at", "timestamp", "When.")), ("at",), partition_by="at"
    )
    start = datetime(2024, 3, 10, 5, tzinfo=UTC)
    end = start + timedelta(hours=23)
    moments = [start - timedelta(microseconds=1), start, end - timedelta(microseconds=1), end]
    lakehouse.write("shop.ticks", ticks.conform(pa.table({"at": moments})))
    inside = lakehouse.read("shop.ticks", Window("at", start, end))
    assert inside.column("at").to_pylist() == moments[1:3]


def test_a_scan_is_lazy_and_reads_the_window(lakehouse: Lakehouse) -> None:
    lakehouse.write(NAME, sales(WEEK))
    assert lakehouse.scan(NAME).to_arrow().num_rows == 14
    assert lakehouse.scan(NAME, of_day(WEEK[0])).to_arrow().num_rows == 2


# --- fingerprints ---

VALUES = {
    "number": [1.0, None, 3.0, 4.0],
    "text": ["a", None, "", "d"],
    "flag": [True, None, False, True],
    "day": [MONDAY, None, WEEK[1], MONDAY],
    "tags": [["a"], None, [], ["b", "c"]],
}


def test_chunks_and_slices_do_not_change_the_fingerprint() -> None:
    table = pa.table(VALUES)
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1, 2), table.slice(3, 1)])
    padded = pa.concat_tables([table, table]).slice(4, 4)
    assert fingerprint(chunked) == fingerprint(padded) == fingerprint(table)


def test_the_order_of_columns_does_not_change_the_fingerprint_but_their_names_do() -> None:
    table = pa.table(VALUES)
    assert fingerprint(table.select(sorted(VALUES))) == fingerprint(table)
    assert fingerprint(table.rename_columns({"day": "date"})) != fingerprint(table)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("change", ["a value", "a null", "no null", "a row less", "order"])
def test_every_change_of_content_changes_the_fingerprint(name: str, change: str) -> None:
    values: list[Any] = list(VALUES[name])
    table = pa.table(VALUES)
    if change == "a value":
        values[0] = values[2]
    elif change == "a null":
        values[0] = None
    elif change == "no null":
        values[1] = values[2]
    elif change == "order":
        values[0], values[1] = values[1], values[0]
    dtype = table.schema.field(name).type
    changed = pa.table({**VALUES, name: pa.array(values, dtype)})
    assert fingerprint(changed.slice(0, 3) if change == "a row less" else changed) != fingerprint(
        table
    )


# --- the IO manager ---

DAILY = dg.DailyPartitionsDefinition(start_date="2024-01-29", end_date="2024-02-05")


@dg.asset(
    key_prefix="shop",
    partitions_def=DAILY,
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="io_manager",
)
def sales_of_days(context: dg.AssetExecutionContext) -> pa.Table:
    window = context.partition_time_window
    days = [day for day in WEEK if window.start.date() <= day < window.end.date()]
    return sales(days, amount=float(context.run_tags.get("amount", 1)))


@dg.asset(
    key_prefix="shop",
    partitions_def=DAILY,
    ins={"yesterday": dg.AssetIn(["shop", "sales_of_days"], metadata={"form": "pandas"})},
    io_manager_key="io_manager",
)
def sales_seen(context: dg.AssetExecutionContext, yesterday: Any) -> pa.Table:
    assert type(yesterday).__name__ == "DataFrame"
    assert {str(day) for day in yesterday["day"]} == {context.partition_key}
    return sales([date.fromisoformat(context.partition_key)])


def materialize(
    lakehouse: Lakehouse, instance: dg.DagsterInstance, first: str, last: str, amount: int = 1
) -> dg.AssetMaterialization:
    """Materialize a range of days in a single run; the last materialization."""
    result = dg.materialize(
        [sales_of_days],
        resources={"io_manager": IcebergIOManager(lakehouse=lakehouse)},
        instance=instance,
        tags={
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
            "amount": str(amount),
        },
    )
    return result.asset_materializations_for_node("shop__sales_of_days")[-1]


def test_a_range_of_days_is_one_snapshot_and_its_id_is_the_data_version(
    lakehouse: Lakehouse,
) -> None:
    name = "shop.sales_of_days"
    with dg.DagsterInstance.ephemeral() as instance:
        made = materialize(lakehouse, instance, "2024-01-29", "2024-02-02")
        snapshot = lakehouse.current_snapshot(name)
        assert len(lakehouse.table(name).snapshots()) == 1
        assert made.tags is not None
        assert made.tags["dagster/data_version"] == str(snapshot)
        assert made.metadata["snapshot_id"].value == str(snapshot)
        assert made.metadata["dagster/row_count"].value == 10

        again = materialize(lakehouse, instance, "2024-01-29", "2024-02-02")
        assert again.metadata["changed"].value is False
        assert lakehouse.current_snapshot(name) == snapshot

        changed = materialize(lakehouse, instance, "2024-01-31", "2024-02-01", amount=5)
        assert changed.metadata["dagster/partition_row_count"].value == 4
        assert changed.metadata["dagster/row_count"].value == 10
        amounts = {r["day"]: r["amount"] for r in lakehouse.read(name).to_pylist() if r["amount"]}
        assert amounts == {day: 5.0 if day in WEEK[2:4] else 1.0 for day in WEEK[:5]}
        assert lakehouse.table(name).current_snapshot().summary.additional_properties[  # type: ignore[union-attr]
            "flywheel.partition"
        ] == ("2024-01-31...2024-02-01")


def test_an_asset_reads_the_partition_at_hand_in_the_form_it_asks_for(
    lakehouse: Lakehouse,
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        materialize(lakehouse, instance, "2024-01-29", "2024-02-02")
        assert dg.materialize(
            [sales_of_days, sales_seen],
            selection=[sales_seen],
            partition_key="2024-01-31",
            resources={"io_manager": IcebergIOManager(lakehouse=lakehouse)},
            instance=instance,
        ).success
    assert lakehouse.read("shop.sales_seen").num_rows == 2


# --- a writer that is killed ---

WRITER = """
import sys
sys.path.insert(0, {here!r})
from resources.lakehouse import Lakehouse, Window
from tests.resources.shop import NAME, sales_with
import pyarrow as pa, datetime
lakehouse = Lakehouse(catalog_uri={uri!r}, warehouse={warehouse!r})
template = lakehouse.read({name!r})
day = datetime.date(2024, 1, 31)
window = Window("day", day, day + datetime.timedelta(days=1))
rows = lakehouse.read({name!r}, window)
amount = float(sys.argv[1])
while True:
    amount += 1
    rows = rows.set_column(2, rows.schema.field(2), pa.array([amount, amount]))
    lakehouse.write({name!r}, rows, window)
    print(amount, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_table_and_a_rerun_gives_the_same_content(
    lakehouse: Lakehouse, tmp_path: Path
) -> None:
    lakehouse.write(NAME, sales(WEEK))
    others = [day for day in WEEK if day != WEEK[2]]
    untouched = [lakehouse.read(NAME, of_day(day)) for day in others]
    script = tmp_path / "writer.py"
    script.write_text(
        WRITER.format(
            here=str(Path(__file__).parents[2]),
            uri=lakehouse.catalog_uri,
            warehouse=lakehouse.warehouse,
            name=NAME,
        )
    )
    for attempt in range(3):
        base = 1000 * (attempt + 1)
        writer = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script), str(base)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert writer.stdout is not None
        for _ in range(3):
            assert writer.stdout.readline()
        time.sleep(random.Random(attempt).uniform(0.0, 0.3))
        os.kill(writer.pid, signal.SIGKILL)
        finished = [float(line) for line in writer.stdout.read().split()]
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL

        rows = lakehouse.read(NAME, of_day(WEEK[2]))
        amounts = set(rows.column("amount").to_pylist())
        last = max([base + 3.0, *finished])
        # The write that was under way either happened whole or not at all.
        assert amounts in ({last}, {last + 1})
        assert rows.num_rows == 2
        assert [lakehouse.read(NAME, of_day(day)) for day in others] == untouched

    lakehouse.write(NAME, sales([WEEK[2]]), of_day(WEEK[2]))
    assert lakehouse.read(NAME).select(["day", "item", "amount"]) == sales(WEEK).select(
        ["day", "item", "amount"]
    )
