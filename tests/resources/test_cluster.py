"""The same code on a Postgres catalog and S3; and many writers on one table."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from flywheel.dataset import Column
from resources.lakehouse import Lakehouse, Window
from resources.maintenance import Policy, maintain
from tests.resources.shop import NAME, sales_with

SALES = sales_with(Column("pieces", "int64", "Pieces."))
FIRST = date(2024, 1, 1)
WRITERS, COMMITS = 4, 50


def day_of(n: int) -> date:
    return FIRST + timedelta(days=n)


def write(lakehouse: Lakehouse, n: int, pieces: int) -> None:
    rows = [{"day": day_of(n), "item": item, "pieces": pieces} for item in ("a", "b")]
    table = SALES.conform(pa.Table.from_pylist(rows, schema=SALES.schema))
    lakehouse.write(NAME, table, Window("day", day_of(n), day_of(n + 1)))


def test_a_table_in_a_bucket_is_a_table_like_any_other(cluster: Lakehouse) -> None:
    name = f"{NAME}_in_a_bucket"
    rows = SALES.conform(
        pa.Table.from_pylist(
            [{"day": day_of(n), "item": "a", "pieces": n} for n in range(40)], schema=SALES.schema
        )
    )
    window = Window("day", day_of(0), day_of(40))
    first = cluster.write(name, rows, window)
    assert cluster.write(name, rows, window).changed is False
    assert cluster.table(name).location().startswith("s3://")
    assert type(cluster.table(name).io).__name__ == "FsspecFileIO"
    cluster.tag(name, "as trained")
    for n in range(10):
        one = rows.slice(n, 1).set_column(2, "pieces", pa.array([1000 + n]))
        cluster.write(
            name,
            SALES.conform(one),
            Window("day", day_of(n), day_of(n + 1)),
            audit=lambda scan: None,
        )
    assert cluster.read(name).column("pieces").to_pylist() == [*range(1000, 1010), *range(10, 40)]
    assert cluster.read(name, at="as trained").column("pieces").to_pylist() == list(range(40))
    done = maintain(cluster, name, Policy(keep_snapshots=3, max_files=2, grace=timedelta(0)))
    assert done.after.files == 2
    assert done.after.stored_files < done.before.stored_files
    assert cluster.read(name).column("pieces").to_pylist() == [*range(1000, 1010), *range(10, 40)]
    assert cluster.resolve(name, "as trained") == first.snapshot_id


WRITER = """
import sys
sys.path.insert(0, {here!r})
from resources.lakehouse import Lakehouse
from tests.resources.shop import NAME, sales_with
from tests.resources.test_cluster import write
lakehouse = Lakehouse(catalog_uri={uri!r}, warehouse={warehouse!r})
me = int(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for n in range({commits}):
    # Days of its own, in the same months and so in the same metadata as everybody's; and every
    # tenth time the day that all of them want.
    write(lakehouse, 500 if n % 10 == 9 else me * {commits} + n, pieces=me)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["sqlite", "postgres"])
def test_four_writers_of_fifty_commits_each_lose_nothing(
    where: str, lakehouse: Lakehouse, postgres: str, tmp_path: Path
) -> None:
    if where == "postgres":
        lakehouse = Lakehouse(catalog_uri=postgres, warehouse=f"file://{tmp_path}/warehouse")
    script = tmp_path / "writer.py"
    script.write_text(
        WRITER.format(
            here=str(Path(__file__).parents[2]),
            uri=lakehouse.catalog_uri,
            warehouse=lakehouse.warehouse,
            commits=COMMITS,
        )
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script), str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # all at once, and none of them finds the table made
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.close()
    assert [writer.wait(timeout=500) for writer in writers] == [0] * WRITERS

    rows = lakehouse.read(NAME).to_pylist()
    of_day = Counter(row["day"] for row in rows)
    wanted = {
        day_of(me * COMMITS + n) for me in range(WRITERS) for n in range(COMMITS) if n % 10 != 9
    }
    assert set(of_day) == wanted | {day_of(500)}
    assert set(of_day.values()) == {2}
    # The day that all wanted is whole: both of its rows are the same writer's.
    assert len({row["pieces"] for row in rows if row["day"] == day_of(500)}) == 1
    if where == "postgres":
        lakehouse.catalog.drop_table(NAME)
