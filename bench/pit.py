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
    "stock": "Feast, stock duckdb store on Iceberg",
}


def measure(repeat: int, step: Step) -> list[Row]:
    """Each subject as a process, taking turns; the stock store, which takes minutes, once.

    Raises:
        DifferentWorkError: Two subjects answered differently.
    """
    runs: dict[str, list[Any]] = {subject: [] for subject in SUBJECTS}
    with temporary_home():
        step("compute the tables")
        child("-m", "bench.pit_tables")
        for turn in range(repeat):
            for subject, name in SUBJECTS.items():
                if subject == "stock" and turn:
                    continue
                step(f"{name}, {turn + 1} of {repeat}")
                runs[subject].append(child("-m", "bench.pit_subject", subject).result)
    digests = {subject: {run["digest"] for run in of} for subject, of in runs.items()}
    if len(set().union(*digests.values())) > 1:
        raise DifferentWorkError(f"the answers differ: {digests}")
    best = {subject: min(of, key=lambda run: run["cpu"]) for subject, of in runs.items()}
    ours, stock = best["feast"]["cpu"], best["stock"]["cpu"]
    sizes = ", ".join(f"{name} {rows:,}" for name, rows in best["feast"]["sizes"].items())
    return [
        Row("pit", "questions and feature rows", f"{best['feast']['rows']:,}; {sizes}"),
        Row(
            "pit", SUBJECTS["feast"], _measured(best["feast"]), None,
            f"<= {MOST_CPU_SECONDS} CPU s", ours <= MOST_CPU_SECONDS,
        ),
        *(
            Row("pit", SUBJECTS[subject], _measured(best[subject]), best[subject]["cpu"] / ours)
            for subject in ("engine", "pandas")
        ),
        Row(
            "pit", SUBJECTS["stock"], _measured(best["stock"]), stock / ours,
            f"ratio >= {LEAST_SPEEDUP}", stock / ours >= LEAST_SPEEDUP,
        ),
    ]  # fmt: skip


def _measured(run: Any) -> str:
    return f"{run['cpu']:.2f} CPU s, peak {run['peak_mb']:.0f} MB ({run['before_mb']:.0f} before)"
