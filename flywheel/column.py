"""One column of a declared table: its name, type, meaning, and the rules its values keep.

Rules are said here once; `flywheel.contract` compiles them to Great Expectations and to SQL. What a
table promises as a whole stands in `flywheel.dataset`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, get_args

if TYPE_CHECKING:
    import pyarrow as pa

# Declarations name their types, so that declaring a table does not load Arrow.
DType = Literal["string", "int32", "int64", "float64", "bool", "date", "timestamp", "list<string>"]
Classification = Literal["pii", "sensitive"]
Bound = int | float | date | datetime

NUMBERS = ("int32", "int64", "float64")
MOMENTS = ("date", "timestamp")

# Great Expectations compares with bounds as doubles, which hold whole numbers below this exactly.
EXACT = 2**53

# Python's expressions can do more than those of DuckDB (RE2); a rule means the same in both.
ONLY_PYTHON = re.compile(r"\(\?(?:[=!>#(]|<[=!]|P=)|\\[1-9AbBZ]|[*+?}]\+")


def arrow_type(dtype: DType) -> pa.DataType:
    """The Arrow type of a declared one; a `timestamp` is in microseconds, UTC."""
    import pyarrow as pa

    return {
        "string": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
        "list<string>": pa.list_(pa.string()),
    }[dtype]


class SchemaError(ValueError):
    """A declaration or a table is not as it must be; the message names it and says what to do."""


class Rules(TypedDict, total=False):
    """The attributes of `Column` that the shorthands take by name."""

    minimum: float | str | None
    maximum: float | str | None
    allowed: tuple[str, ...] | None
    pattern: str | None
    classification: Classification | None
    renamed_from: str | None


@dataclass(frozen=True)
class Column:
    """One column of a dataset.

    Nulls break no rule but `nullable`; NaN counts as null.

    Attributes:
        name: Column name, also the Iceberg field name.
        dtype: Type; a `timestamp` is in microseconds, UTC.
        description: One sentence with the unit, shown in the catalog.
        nullable: Whether a null is a legal value.
        minimum: Least legal value: a number, or ISO 8601 text for a date or a timestamp (with
            its offset).
        maximum: Greatest legal value, likewise.
        allowed: The vocabulary of a string.
        pattern: Regular expression that a whole string must match.
        classification: `pii` or `sensitive`: such values are kept out of events and messages.
        renamed_from: Name the column had before; the table's column is renamed, not replaced.

    Raises:
        SchemaError: A rule does not fit the type.
    """

    name: str
    dtype: DType
    description: str
    nullable: bool = True
    minimum: float | str | None = None
    maximum: float | str | None = None
    allowed: tuple[str, ...] | None = None
    pattern: str | None = None
    classification: Classification | None = None
    renamed_from: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in get_args(DType):
            raise self._error(f"there is no type {self.dtype!r}: use one of {get_args(DType)}")
        low, high = self.bounds
        if low is not None and high is not None and low > high:  # pyright: ignore[reportOperatorIssue]
            raise self._error(f"minimum {low} is above maximum {high}")
        if (self.allowed is not None or self.pattern is not None) and self.dtype != "string":
            raise self._error(f"allowed and pattern are for strings, not for {self.dtype}")
        if self.allowed is not None and (
            not self.allowed or len(set(self.allowed)) < len(self.allowed)
        ):
            raise self._error("allowed must name one or more different values")
        if self.pattern is not None:
            self._check_pattern(self.pattern)
        if self.classification not in (None, *get_args(Classification)):
            raise self._error(f"classification is one of {get_args(Classification)}")
        if self.renamed_from == self.name:
            raise self._error("renamed_from is its own name")

    @property
    def bounds(self) -> tuple[Bound | None, Bound | None]:
        """Minimum and maximum as values of the column's type; instants in UTC."""
        return self._bound(self.minimum), self._bound(self.maximum)

    def _bound(self, declared: float | str | None) -> Bound | None:
        if declared is None:
            return None
        if self.dtype in NUMBERS:
            # bool is an int to Python, and NaN is neither above nor below anything.
            if isinstance(declared, str | bool) or not math.isfinite(declared):
                raise self._error(f"{declared!r} is no bound of a {self.dtype}: give a number")
            if abs(declared) >= EXACT:
                raise self._error(f"{declared!r} cannot be told from its neighbours as a double")
            return declared
        if self.dtype not in MOMENTS:
            raise self._error(f"minimum and maximum are not for {self.dtype}")
        try:
            if self.dtype == "date":
                return date.fromisoformat(str(declared))
            moment = datetime.fromisoformat(str(declared))
        except ValueError as error:
            raise self._error(f"{declared!r} is no ISO 8601 {self.dtype}") from error
        if moment.tzinfo is None:
            raise self._error(f"{declared!r} has no offset: write {declared}Z if it is UTC")
        return moment.astimezone(UTC)

    def _check_pattern(self, pattern: str) -> None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise self._error(f"pattern {pattern!r} is no regular expression: {error}") from error
        if found := ONLY_PYTHON.search(pattern):
            raise self._error(
                f"pattern {pattern!r}: {found[0]!r} means something in Python only; use no "
                "look-around, back reference or anchor (the whole value must match anyway)"
            )

    def _error(self, problem: str) -> SchemaError:
        return SchemaError(f"column {self.name}: {problem}")


def columns(*declared: tuple[str, DType, str] | Column) -> tuple[Column, ...]:
    """Shorthand: `(name, dtype, description)` triples of nullable columns beside `Column`s."""
    return tuple(c if isinstance(c, Column) else Column(*c) for c in declared)


def required(name: str, dtype: DType, description: str, **rules: Unpack[Rules]) -> Column:
    """Shorthand for a column that may not be null."""
    return Column(name, dtype, description, nullable=False, **rules)


def optional(name: str, dtype: DType, description: str, **rules: Unpack[Rules]) -> Column:
    """Shorthand for a column that may be null."""
    return Column(name, dtype, description, **rules)
