"""The point-in-time join of a year: 4 views, 12 features, every flight with a known aircraft."""

from __future__ import annotations

from typing import Any

from bench.measure import DifferentWorkError, child, temporary_home
from bench.report import Row, Step

MOST_CPU_SECONDS = 1.9
LEAST_SPEEDUP = 45

SUBJECTS = {
    "feast": "Feast, our Iceberg store",
    "engine": "our engine, Arrow in memory",
    "pandas": "pandas merge_asof, in memory",
    "feast 30": "Feast, our Iceberg store, every 30th flight",
    "stock 30": "Feast, stock duckdb store on Iceberg, every 30th flight",
}


def measure(repeat: int, step: Step) -> list[Row]:
    """Each subject as a process, taking turns; the stock store once and on a sample.

    Asked about all flights it held 17 GB after 4 CPU minutes, without an answer.

    Raises:
        DifferentWorkError: Two subjects answered differently.
    """
    runs: dict[str, list[Any]] = {subject: [] for subject in SUBJECTS}
    with temporary_home():
        step("compute the tables")
        child("-m", "bench.pit_tables")
        for turn in range(repeat):
            for subject, name in SUBJECTS.items():
                if subject.startswith("stock") and turn:
                    continue
                step(f"{name}, {turn + 1} of {repeat}")
                runs[subject].append(child("-m", "bench.pit_subject", *subject.split()).result)
    digests = {subject: {run["digest"] for run in of} for subject, of in runs.items()}
    whole = set().union(*(of for subject, of in digests.items() if " " not in subject))
    if len(whole) > 1 or digests["feast 30"] != digests["stock 30"]:
        raise DifferentWorkError(f"the answers differ: {digests}")
    best = {subject: min(of, key=lambda run: run["cpu"]) for subject, of in runs.items()}
    ours, stock = best["feast"]["cpu"], best["stock 30"]["cpu"]
    part = best["feast 30"]["cpu"]
    sizes = ", ".join(f"{name} {rows:,}" for name, rows in best["feast"]["sizes"].items())
    return [
        Row("pit", "questions and feature rows", f"{best['feast']['rows']:,}; {sizes}"),
        Row(
            "pit", SUBJECTS["feast"], _measured(best["feast"]), None,
            f"<= {MOST_CPU_SECONDS} CPU s", ours <= MOST_CPU_SECONDS,
        ),
        *(
            Row("pit", SUBJECTS[subject], _measured(best[subject]), best[subject]["cpu"] / ours)
            for subject in ("engine", "pandas", "feast 30")
        ),
        Row(
            "pit", SUBJECTS["stock 30"], _measured(best["stock 30"]), stock / part,
            f"ratio >= {LEAST_SPEEDUP}", stock / part >= LEAST_SPEEDUP,
        ),
    ]  # fmt: skip


def _measured(run: Any) -> str:
    return f"{run['cpu']:.2f} CPU s, peak {run['peak_mb']:.0f} MB ({run['before_mb']:.0f} before)"
