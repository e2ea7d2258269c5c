"""What it costs to ask every gate about one candidate, a real Triton of its own included.

The one benchmark that reads a wall clock, because its goal is one: somebody waits for the verdict.
"""

from __future__ import annotations

import tempfile
from typing import Any

from bench.measure import child, temporary_home
from bench.report import Row, Step

MOST_SECONDS = 60.0

EVIDENCE = TRIAL, DATA, INT8 = "trial in Triton", "quality of the tables", "int8 against float32"


class GateFailedError(RuntimeError):
    """A gate failed, so the suite may not have done all its work; the message is its sentence."""


def measure(repeat: int, step: Step) -> list[Row]:
    """Train one candidate and judge it several times; the run with the least CPU time counts.

    Raises:
        GateFailedError: A gate failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        step("train a candidate and a champion")
        cases = child("-m", "bench.gates_bundle", folder).result
        runs: list[dict[str, Any]] = []
        for turn in range(repeat):
            step(f"all gates, {turn + 1} of {repeat}")
            with temporary_home():
                runs.append(child("-m", "bench.gates_subject", folder).result)
    for run in runs:
        if run["failed"]:
            raise GateFailedError("; ".join(run["failed"]))
    parts = min((run["parts"] for run in runs), key=_cpu)
    wall = max(sum(wall for wall, _ in run["parts"].values()) for run in runs)
    return [
        Row("gates", "cases trained on; held out", f"{cases['train']:,}; {cases['held out']:,}"),
        *(Row("gates", f"evidence: {name}", _seconds(*parts[name])) for name in EVIDENCE),
        *(
            Row("gates", f"verdict: {name}", _seconds(*of))
            for name, of in parts.items()
            if name not in EVIDENCE
        ),
        Row("gates", "all gates, CPU", f"{_cpu(parts):.2f} CPU s"),
        Row(
            "gates", f"all gates, slowest of {repeat}", f"{wall:.1f} s wall", None,
            f"<= {MOST_SECONDS:.0f} s", wall <= MOST_SECONDS,
        ),
    ]  # fmt: skip


def _cpu(parts: dict[str, tuple[float, float]]) -> float:
    return sum(cpu for _, cpu in parts.values())


def _seconds(wall: float, cpu: float) -> str:
    return f"{wall:.2f} s wall, {cpu:.2f} CPU s"
