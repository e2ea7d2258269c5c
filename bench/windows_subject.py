"""One subject of the benchmark `windows` in a process: `floor`, `library` or `stream`, and years.

For 4 keys of a flight and 4 windows: count of, and sum of arrival delay over, the flights of the
same key landed in the window before its scheduled departure. More years are the same year again;
the few landings after its end count in its first hours, so that the years join up. `prepare` makes
the file that the others read, in the home of the environment.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import without_dagster
from bench.measure import cost_of, report
from flywheel.settings import Settings
from flywheel.trailing import Evidence, trailing_windows
from flywheel.trailing_stream import TrailingStream

IntArray = NDArray[np.int64]

KEYS = ("carrier", "origin", "dest", "route")
HOUR = 60
WINDOWS = (HOUR, 3 * HOUR, 24 * HOUR, 7 * 24 * HOUR)
YEAR = 365 * 24 * HOUR
MONTHS = 12

Columns = dict[str, IntArray]


def prepare() -> None:
    """Store what `columns` computes: pandas and the raw files would drown what is measured."""
    _file().parent.mkdir(parents=True, exist_ok=True)
    np.savez(_file(), allow_pickle=False, **columns())


def columns() -> Columns:
    """Key codes, scheduled departure, landing (-1: none) and delay of the year's flights."""
    without_dagster.pretend()
    from assets.flights import source
    from assets.flights.delays import key_codes, minutes
    from assets.flights.departures import DEPARTURES, clean

    raw = source.read("flights").to_pandas(date_as_object=False)
    flights = DEPARTURES.conform(clean(raw, source.read("airports").to_pandas())).to_pandas()
    by = {key: [key] for key in KEYS} | {"route": ["origin", "dest"]}
    landed = flights["landed_at"].notna().to_numpy()
    due = minutes(flights["scheduled_departure"])
    down = np.full(len(flights), -1)
    down[landed] = minutes(flights["landed_at"][landed])
    down[down >= due.min() + YEAR] -= YEAR
    return {key: key_codes(flights, names)[0] for key, names in by.items()} | {
        "due": due,
        "landed": down,
        "delay": flights["arr_delay"].fillna(0).to_numpy(np.int64),
    }


def evidence(year: Columns, key: str, rows: Any) -> Evidence:
    """Landings among some rows."""
    return Evidence(year[key][rows], year["landed"][rows], {"delay": year["delay"][rows]})


def floor(year: Columns) -> int:
    """Plain numpy: two binary searches in a running sum; the sum of all answers."""
    total = 0
    landed = year["landed"] >= 0
    for key in KEYS:
        place = year[key] << 32
        packed = place[landed] + year["landed"][landed]
        order = np.argsort(packed)
        packed = packed[order]
        running = np.concatenate([[0], np.cumsum(year["delay"][landed][order])])
        asked = place + year["due"]
        stop = np.searchsorted(packed, asked, "right")
        for window in WINDOWS:
            start = np.searchsorted(packed, asked - window, "right")
            total += int((stop - start).sum()) + int((running[stop] - running[start]).sum())
    return total


def library(year: Columns, years: int = 1) -> int:
    """The same by `trailing_windows`, all years at once."""
    total = 0
    if years > 1:
        shift = np.repeat(np.arange(years) * YEAR, len(year["due"]))
        year = {name: np.tile(values, years) for name, values in year.items()}
        year["due"] += shift
        year["landed"] = np.where(year["landed"] < 0, -1, year["landed"] + shift)
    landed = year["landed"] >= 0
    for key in KEYS:
        known = evidence(year, key, landed)
        for count, sums in trailing_windows(known, year[key], year["due"], WINDOWS):
            total += int(count.sum()) + int(sums["delay"].sum())
    return total


def stream(year: Columns, years: int) -> int:
    """Month after month, of which only one is in memory; the sum of all answers."""
    total = 0
    streams = {key: TrailingStream(WINDOWS) for key in KEYS}
    for shift, landed, asked in _months(year, years):
        for key in KEYS:
            known = evidence(year, key, landed)
            known = Evidence(known.key, known.known_at + shift, known.values)
            minute = year["due"][asked] + shift
            for count, sums in streams[key].push(known, year[key][asked], minute):
                total += int(count.sum()) + int(sums["delay"].sum())
    return total


def _months(year: Columns, years: int) -> Iterator[tuple[int, IntArray, IntArray]]:
    """For each month its shift in minutes, the rows that landed and those that fell due in it."""
    bounds = year["due"].min() + np.arange(MONTHS + 1) * (YEAR // MONTHS)
    for number in range(years):
        for start, end in pairwise(bounds):
            landed, due = ((year[what] >= start) & (year[what] < end) for what in ("landed", "due"))
            yield number * YEAR, np.flatnonzero(landed), np.flatnonzero(due)


def _file() -> Path:
    return Settings().home / "windows.npz"


def main() -> None:
    """Measure the subject that is named."""
    name, *arguments = sys.argv[1:]
    if name == "prepare":
        prepare()
        return
    with np.load(_file()) as stored:
        year = dict(stored)
    subjects: dict[str, Any] = {"floor": floor, "library": library, "stream": stream}
    answer, cost = cost_of(lambda: subjects[name](year, *map(int, arguments)))
    report(asdict(cost) | {"answer": answer, "rows": len(year["due"])})


if __name__ == "__main__":
    main()
