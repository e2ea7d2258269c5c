"""The measured side of `bench.lake`: `python -m bench.lake_run layout|history`."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.measure import report
from bench.without_dagster import pretend

REPEAT = 5
COMMITS = 400


def cpu(work: Callable[[], Any]) -> float:
    """CPU seconds of a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def flights() -> pa.Table:
    """The departures of the year."""
    pretend()
    from assets.flights import departures, source

    airports = source.read("airports").to_pandas()
    raw = source.read("flights").to_pandas(date_as_object=False)
    rows = departures.clean(raw, airports)
    return departures.DEPARTURES.conform(rows)


def layout(home: Path) -> dict[str, float]:
    """Write and scan the year as Parquet and as Iceberg, in turns; medians."""
    rows = flights()
    from resources.lakehouse import Lakehouse

    lakehouse = Lakehouse(catalog_uri=f"sqlite:///{home}/c.db", warehouse=f"file://{home}/w")
    taken: dict[str, list[float]] = {}
    for turn in range(REPEAT + 1):
        file, name = home / f"{turn}.parquet", f"flights.year{turn}"
        works: dict[str, Callable[[], Any]] = {
            "parquet write": partial(pq.write_table, rows, file, compression="zstd"),
            "iceberg write": partial(lakehouse.write, name, rows),
            "parquet scan": partial(pq.read_table, file),
            "iceberg scan": partial(read_unsorted, lakehouse, name),
        }
        for what, work in works.items():
            seconds = cpu(work)
            if turn:  # the first one pays for the imports
                taken.setdefault(what, []).append(seconds)
    return {what: median(values) for what, values in taken.items()}


def read_unsorted(lakehouse: Any, name: str) -> pa.Table:
    """A whole table, as a plain Parquet reader would give it."""
    return lakehouse.scan(name).to_arrow()


def history(home: Path) -> dict[str, Any]:
    """Commit 400 days one by one; what the first and last commits took, and reading it all."""
    year = flights()
    from resources.lakehouse import Lakehouse, Window
    from resources.maintenance import Policy, maintain

    lakehouse = Lakehouse(catalog_uri=f"sqlite:///{home}/c.db", warehouse=f"file://{home}/w")
    first = year.column("flight_date")[0].as_py()
    day_rows = year.slice(0, 900)
    days = []
    for n in range(COMMITS):
        day = first + timedelta(days=n)
        dates = pa.array([day] * 900, pa.date32())
        place = year.schema.get_field_index("flight_date")
        days.append((day, day_rows.set_column(place, year.schema.field(place), dates)))
    taken = []
    for day, rows in days:
        window = Window("flight_date", day, day + timedelta(days=1))
        taken.append(cpu(lambda r=rows, w=window: lakehouse.write("flights.daily", r, w)))
    lakehouse.write("flights.whole", pa.concat_tables(rows for _, rows in days))

    def read(name: str) -> float:
        return median(cpu(lambda: lakehouse.scan(name).to_arrow()) for _ in range(REPEAT))

    result: dict[str, Any] = {
        "commit 10": median(taken[5:15]),
        "commit 400": median(taken[-10:]),
        "read fresh": read("flights.whole"),
        "read old": read("flights.daily"),
    }
    began = time.process_time()
    done = maintain(lakehouse, "flights.daily", Policy(grace=timedelta(0)))
    spent = time.process_time() - began
    result["read tended"] = read("flights.daily")
    result["upkeep"] = (
        f"{spent:.1f} CPU s: files {done.before.files} -> {done.after.files}, stored files "
        f"{done.before.stored_files} -> {done.after.stored_files}, "
        f"{done.before.stored_bytes / 1e6:.1f} -> {done.after.stored_bytes / 1e6:.1f} MB"
    )
    return result


if __name__ == "__main__":
    import tempfile

    folder = Path(tempfile.mkdtemp())
    try:
        report({"layout": layout, "history": history}[sys.argv[1]](folder))
    finally:
        shutil.rmtree(folder)
