"""The rules that a `Dataset` declares, as values that every engine compiles in its own way.

What all engines agree on: NaN is null; a null breaks no rule but `not null`; a key that has a null
identifies nothing, so it is not looked for among repeated keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from flywheel.column import Bound, Column
from flywheel.dataset import Dataset


class ContractError(RuntimeError):
    """A rule could not be checked, so nothing is known about the batch."""


class Kind(StrEnum):
    """What a rule is about."""

    NOT_NULL = "not null"
    RANGE = "range"
    ALLOWED = "vocabulary"
    PATTERN = "pattern"
    WINDOW = "batch window"
    UNIQUE = "unique key"
    ROWS = "row count"
    FRESHNESS = "freshness"


# These are about the batch as a whole: no single row is to blame.
TABLE_LEVEL = frozenset({Kind.ROWS, Kind.FRESHNESS})


@dataclass(frozen=True)
class Window:
    """A batch's days, [start, end): dates or aware instants, as `partition_by` is one or other."""

    start: date | datetime
    end: date | datetime


@dataclass(frozen=True)
class Rule:
    """One promise.

    Attributes:
        kind: What it is about.
        columns: The columns it speaks of; several only for a key.
        minimum: Least value (RANGE, WINDOW), newest value at least (FRESHNESS), or least number of
            rows (ROWS).
        maximum: Greatest value (RANGE), or first value after the window (WINDOW).
        allowed: Vocabulary (ALLOWED).
        pattern: Regular expression for the whole value (PATTERN).
        confidential: Whether values must not be repeated in messages.
    """

    kind: Kind
    columns: tuple[str, ...] = ()
    minimum: Bound | None = None
    maximum: Bound | None = None
    allowed: tuple[str, ...] = ()
    pattern: str = ""
    confidential: bool = False

    @property
    def name(self) -> str:
        """`wind_speed: range`, unique among the rules of a dataset."""
        return f"{', '.join(self.columns)}: {self.kind}" if self.columns else str(self.kind)

    @property
    def table_level(self) -> bool:
        """Whether it is about the batch and not about single rows."""
        return self.kind in TABLE_LEVEL

    def reason(self, value: Any) -> str:
        """Why a row with this value breaks it, e.g. `wind_speed: 1048.4 is above 254.0`."""
        column = ", ".join(self.columns)
        if self.kind is Kind.NOT_NULL:
            return f"{column}: is null"
        shown = "the value" if self.confidential else _shown(value)
        if self.kind is Kind.ALLOWED:
            return f"{column}: {shown} is not one of {', '.join(self.allowed)}"
        if self.kind is Kind.PATTERN:
            return f"{column}: {shown} does not match {self.pattern}"
        if self.kind is Kind.WINDOW:
            return f"{column}: {shown} is outside of its batch"
        if self.minimum is not None and value < self.minimum:
            return f"{column}: {shown} is below {_shown(self.minimum)}"
        return f"{column}: {shown} is above {_shown(self.maximum)}"


@dataclass(frozen=True)
class Violation:
    """A broken rule.

    Attributes:
        rule: The rule.
        rows: How many rows break it; all rows that share their key if it is the key's; 0 for a
            rule about the batch.
        detail: What was found instead, for a rule about the batch.
    """

    rule: Rule
    rows: int
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.rule.name}: {self.detail or f'{self.rows} rows'}"


def row_rules(dataset: Dataset) -> tuple[Rule, ...]:
    """The rules that a row keeps whatever batch it comes in."""
    found = [rule for column in dataset.columns for rule in _column_rules(column)]
    return (*found, Rule(Kind.UNIQUE, dataset.key))


def batch_rules(
    dataset: Dataset, window: Window | None = None, *, with_window: bool = True
) -> tuple[Rule, ...]:
    """All rules of a batch.

    Args:
        dataset: The declaration.
        window: Days of the batch; None for a table that is computed whole.
        with_window: Whether the rows are still to be held against the window.
    """
    found = list(row_rules(dataset))
    if dataset.min_rows:
        found.append(Rule(Kind.ROWS, minimum=dataset.min_rows))
    if window and dataset.partition_by:
        when = (dataset.partition_by,)
        if with_window:
            found.append(Rule(Kind.WINDOW, when, window.start, window.end))
        if dataset.freshness:
            found.append(Rule(Kind.FRESHNESS, when, window.end - dataset.freshness))
    return tuple(found)


def describe(dataset: Dataset) -> list[str]:
    """The contract in words, one clause per kind of rule, for people who read the catalog."""
    required = [c.name for c in dataset.columns if not c.nullable]
    said = [f"one row per {', '.join(dataset.key)}"]
    if required:
        said.append(f"{len(required)} columns are never null")
    said += [f"{c.name} {clause}" for c in dataset.columns for clause in clauses(c)]
    if dataset.min_rows:
        said.append(f"at least {dataset.min_rows} rows a batch")
    if dataset.freshness:
        said.append(f"the newest {dataset.partition_by} within {dataset.freshness} of its end")
    said.append(f"at most {dataset.tolerance:.2%} of a batch's rows are put aside")
    return said


def clauses(column: Column) -> list[str]:
    """A column's rules about its values in words: `>= 0`, `one of EWR, JFK, LGA`."""
    said = []
    if column.minimum is not None:
        said.append(f">= {column.minimum}")
    if column.maximum is not None:
        said.append(f"<= {column.maximum}")
    if column.allowed:
        said.append(f"one of {', '.join(column.allowed)}")
    if column.pattern is not None:
        said.append(f"matches {column.pattern}")
    return said


def _column_rules(column: Column) -> Sequence[Rule]:
    name, confidential = (column.name,), column.classification is not None
    found = []
    if not column.nullable:
        found.append(Rule(Kind.NOT_NULL, name))
    low, high = column.bounds
    if low is not None or high is not None:
        found.append(Rule(Kind.RANGE, name, low, high, confidential=confidential))
    if column.allowed:
        found.append(Rule(Kind.ALLOWED, name, allowed=column.allowed, confidential=confidential))
    if column.pattern is not None:
        found.append(Rule(Kind.PATTERN, name, pattern=column.pattern, confidential=confidential))
    return found


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return repr(value) if isinstance(value, str) else str(value)
