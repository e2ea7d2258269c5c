"""What a benchmark reports, and how that looks on a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

from rich.table import Table

HEADINGS = ("benchmark", "subject", "measured", "ratio", "goal", "met")


@dataclass(frozen=True)
class Row:
    """One line of the result.

    Attributes:
        benchmark: Name of the benchmark.
        subject: What was measured.
        measured: Value with its unit.
        ratio: Against the subject it is compared with; None if there is none.
        goal: What was asked for; empty if nothing was.
        met: Whether the goal is met; None without a goal.
    """

    benchmark: str
    subject: str
    measured: str
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None

    def cells(self) -> list[str]:
        """The line as text."""
        benchmark, subject, measured, ratio, goal, met = astuple(self)
        verdict = "" if met is None else "yes" if met else "no"
        return [
            benchmark,
            subject,
            measured,
            "" if ratio is None else f"{ratio:.2f}",
            goal,
            verdict,
        ]


def at_most(benchmark: str, subject: str, measured: str, ratio: float, limit: float) -> Row:
    """A line whose goal is a greatest ratio."""
    return Row(benchmark, subject, measured, ratio, f"ratio <= {limit}", ratio <= limit)


Step = Callable[[str], None]
"""Called with what is about to be measured."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that can be asked for by name.

    Attributes:
        name: Its name.
        question: What it answers, in a sentence.
        repeat: How often each subject is measured unless `--repeat` says otherwise.
        measure: Takes the number of repeats and a `Step`.
    """

    name: str
    question: str
    repeat: int
    measure: Callable[[int, Step], list[Row]]


def as_table(rows: Sequence[Row]) -> Table:
    """The lines for a terminal; a section per benchmark."""
    table = Table(*HEADINGS)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        last = following is None or following.benchmark != row.benchmark
        table.add_row(*row.cells(), end_section=last)
    return table


def as_markdown(rows: Sequence[Row]) -> str:
    """The lines as a Markdown table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
