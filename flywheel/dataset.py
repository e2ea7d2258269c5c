"""What a dataset promises: its columns, keys and the column that says when a row belongs.

One declaration serves the Iceberg schema, the column schema in the Dagster catalog, the blocking
check, and the scan of its whole history. Reading and writing tables is not done here
(`resources.lakehouse`), nor is checking them (`flywheel.contract`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from flywheel.column import (
    Classification,
    Column,
    DType,
    Rules,
    SchemaError,
    arrow_type,
    columns,
    optional,
    required,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Classification",
    "Column",
    "DType",
    "Dataset",
    "Rules",
    "SchemaError",
    "arrow_type",
    "columns",
    "optional",
    "required",
]

# What a quarantined row carries beside its own columns.
QUARANTINE_COLUMNS = columns(
    ("quarantine_reason", "list<string>", "What is wrong with the row, a sentence per rule."),
    ("quarantine_batch", "date", "Local day of the partition that it was to be part of."),
    ("quarantined_at", "timestamp", "When it was first put here."),
    ("quarantine_run", "string", "Dagster run that put it here."),
)

# These say when and by whom; a row that is put aside again is the same row.
QUARANTINE_CIRCUMSTANCES = ("quarantined_at", "quarantine_run")


@dataclass(frozen=True)
class Dataset:
    """A declared table.

    Attributes:
        name: Table name inside its domain's namespace.
        columns: The columns, in order.
        key: Columns that identify a row; rows are stored sorted by them.
        partition_by: A `date` or `timestamp` column that says which day a row belongs
            to, or None for a table that is replaced whole.
        freshness: Greatest gap between the newest `partition_by` of a batch and the end of its
            window, in data time; None if any is well. For a date the gap of a batch that
            reaches its last day is one day.
        tolerance: Greatest share of a batch's rows that may be quarantined before it fails.
        min_rows: A batch of fewer rows fails.
        audit: `history` if every row that was ever true must stay, `batch` if overwritten rows
            may be forgotten.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partition_by: str | None = None
    freshness: timedelta | None = None
    tolerance: float = 0.0
    min_rows: int = 0
    audit: Literal["batch", "history"] = "batch"
    _by_name: dict[str, Column] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name = {column.name: column for column in self.columns}
        wanted = (*self.key, *((self.partition_by,) if self.partition_by else ()))
        if unknown := [name for name in wanted if name not in by_name]:
            raise self._error(f"{unknown} are not among the columns {list(by_name)}")
        names = [column.name for column in self.columns]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise self._error(f"{repeated} are declared twice")
        self._check_renamings(set(by_name))
        if self.partition_by and by_name[self.partition_by].dtype not in ("date", "timestamp"):
            raise self._error(f"partition_by {self.partition_by!r} must be a date or a timestamp")
        if self.freshness is not None and not self.partition_by:
            raise self._error("freshness needs partition_by, the column that it is measured by")
        if self.freshness is not None and self.freshness <= timedelta():
            raise self._error(f"freshness {self.freshness} must be positive")
        if not 0.0 <= self.tolerance <= 1.0:
            raise self._error(f"tolerance {self.tolerance} is a share: 0.01 is one row in 100")
        if self.min_rows < 0:
            raise self._error(f"min_rows {self.min_rows} must not be negative")
        if self.audit not in ("batch", "history"):
            raise self._error(f"audit is 'batch' or 'history', not {self.audit!r}")
        object.__setattr__(self, "_by_name", by_name)

    def _check_renamings(self, names: set[str]) -> None:
        old = [column.renamed_from for column in self.columns if column.renamed_from]
        if taken := sorted(names & set(old)):
            raise self._error(f"{taken} are columns, so no other can be renamed from them")
        if len(set(old)) < len(old):
            raise self._error(f"two columns are renamed from one of {sorted(set(old))}")

    def _error(self, problem: str) -> SchemaError:
        return SchemaError(f"dataset {self.name}: {problem}")

    def column(self, name: str) -> Column:
        """The column of a name."""
        return self._by_name[name]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema: declared order, types and nullability.

        Descriptions are field metadata (`doc`), all else schema metadata, so that a table on its
        way to the lakehouse says of itself how it is to be stored.
        """
        import pyarrow as pa

        fields = (
            pa.field(
                c.name, arrow_type(c.dtype), nullable=c.nullable, metadata={"doc": c.description}
            )
            for c in self.columns
        )
        metadata: dict[str | bytes, str | bytes] = {**self._properties}
        return pa.schema(fields, metadata=metadata)

    @property
    def _properties(self) -> dict[str, str]:
        found = {"flywheel.key": ",".join(self.key)}
        if self.partition_by:
            found["flywheel.partition_by"] = self.partition_by
        if classified := {c.name: c.classification for c in self.columns if c.classification}:
            found["flywheel.classified"] = json.dumps(classified)
        if renamed := {c.name: c.renamed_from for c in self.columns if c.renamed_from}:
            found["flywheel.renamed"] = json.dumps(renamed)
        if self.audit == "history":
            found["flywheel.audit"] = self.audit
        return found

    @cached_property
    def quarantine(self) -> Dataset:
        """The table of the rows that broke the contract: all columns nullable, no rule, a reason.

        Rows of one key may contradict each other here, so they are sorted by all of their values.

        Raises:
            SchemaError: A column has the name of one that the quarantine adds.
        """
        added = {column.name for column in QUARANTINE_COLUMNS}
        if taken := sorted(added & set(self._by_name)):
            raise self._error(f"{taken} are what the quarantine calls its own columns: rename them")
        plain = tuple(
            Column(
                c.name,
                c.dtype,
                c.description,
                classification=c.classification,
                renamed_from=c.renamed_from,
            )
            for c in self.columns
        )
        sortable = [c.name for c in plain if c.dtype != "list<string>" and c.name not in self.key]
        return Dataset(
            name=f"{self.name}__quarantine",
            columns=(*plain, *QUARANTINE_COLUMNS),
            key=(*self.key, *sortable),
            partition_by="quarantine_batch" if self.partition_by else None,
        )

    def conform(self, table: pa.Table) -> pa.Table:
        """Return the table with the declared columns and types, sorted by the key.

        A null in a required column is not refused here but put aside by the contract.

        Args:
            table: Any table that has exactly the declared columns, in any order.

        Raises:
            SchemaError: A column is missing, unknown, or cannot be cast without loss; the message
                names each of them, and guesses what was renamed.
        """
        from flywheel.conform import conform

        return conform(self, table)
