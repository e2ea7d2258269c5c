"""Reads the rows of an Iceberg table in the order of a timestamp, a few files at a time.

The files' own bounds say which of them must be read together, so that any layout will do: months,
days within months, or a single file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import DataScan, FileScanTask, Table

# Rows read at once, unless the files that overlap in time hold more.
CHUNK_ROWS = 1 << 18


class _File(NamedTuple):
    """A data file, and the bounds of its timestamps in microseconds since the epoch."""

    lower: float
    upper: float
    task: FileScanTask


class EventScan:
    """A scan of some columns, for rows of a time range.

    Args:
        table: The table.
        columns: What to read; the timestamp among them.
        timestamp: The timestamp column.
        start: Earliest moment, aware and inclusive; None for all.
        end: Latest moment, aware and inclusive; None for all.
        snapshot_id: Snapshot to read; the current one if None, and 0 is the empty table.

    Raises:
        LookupError: There is no such snapshot.
    """

    def __init__(
        self,
        table: Table,
        columns: Sequence[str],
        timestamp: str,
        start: datetime | None,
        end: datetime | None,
        snapshot_id: int | None = None,
    ) -> None:
        if snapshot_id and table.snapshot_by_id(snapshot_id) is None:
            raise LookupError(
                f"{'.'.join(table.name())} has no snapshot {snapshot_id}: it has expired, or it is "
                "of another table. Snapshots that must stay readable need a tag."
            )
        self._table = table
        self._timestamp = timestamp
        self._range = tuple(
            -sign * math.inf if bound is None else _microseconds(bound)
            for sign, bound in ((1, start), (-1, end))
        )
        self._columns = tuple(columns)
        self._empty = snapshot_id == 0
        self._scan: DataScan = table.scan(
            row_filter=_between(timestamp, start, end),
            selected_fields=self._columns,
            snapshot_id=snapshot_id or None,
        )

    @cached_property
    def schema(self) -> pa.Schema:
        """Schema of what is read, columns in the order asked for."""
        import pyarrow as pa
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        schema = schema_to_pyarrow(self._scan.projection(), include_field_ids=False)
        return pa.schema([schema.field(name) for name in self._columns])

    def read(self) -> pa.Table:
        """All rows at once."""
        if self._empty:
            return self.schema.empty_table()
        return self._scan.to_arrow().select(self._columns)

    def chunks(self, needed: Callable[[float, float], bool]) -> Iterator[pa.Table]:
        """The rows chunk by chunk, no event before those of earlier chunks; each file once.

        Args:
            needed: Told the bounds of a file's timestamps (microseconds since the epoch,
                inclusive), says whether any of its rows can matter.
        """
        if self._empty:
            return
        files = sorted(
            (file for file in map(self._bounded, self._scan.plan_files()) if needed(*file[:2])),
            key=lambda file: file[:2],
        )
        for group in _groups(files):
            yield self._read([file.task for file in group], whole=all(map(self._inside, group)))

    def _bounded(self, task: FileScanTask) -> _File:
        """A file with its bounds; infinite ones where it does not say, or not in microseconds."""
        from pyiceberg.conversions import from_bytes
        from pyiceberg.types import TimestamptzType

        field = self._table.schema().find_field(self._timestamp)
        if not isinstance(field.field_type, TimestamptzType):
            return _File(-math.inf, math.inf, task)
        lower, upper = (
            (bounds or {}).get(field.field_id)
            for bounds in (task.file.lower_bounds, task.file.upper_bounds)
        )
        return _File(
            -math.inf if lower is None else float(from_bytes(field.field_type, lower)),
            math.inf if upper is None else float(from_bytes(field.field_type, upper)),
            task,
        )

    def _inside(self, file: _File) -> bool:
        return self._range[0] <= file.lower and file.upper <= self._range[1]

    def _read(self, tasks: list[FileScanTask], *, whole: bool) -> pa.Table:
        """Rows of some files; without looking at each row's time where all lie in the range."""
        from pyiceberg.expressions import AlwaysTrue
        from pyiceberg.io.pyarrow import ArrowScan

        scan = ArrowScan(
            self._table.metadata,
            self._table.io,
            self._scan.projection(),
            AlwaysTrue() if whole else self._scan.row_filter,
        )
        return scan.to_table(tasks).select(self._columns)


def _groups(files: Sequence[_File]) -> Iterator[list[_File]]:
    """Sorted files in groups of about `CHUNK_ROWS`, that do not reach into one another."""
    group: list[_File] = []
    rows, reach = 0, -math.inf
    for file in files:
        count = file.task.file.record_count
        if group and rows + count > CHUNK_ROWS and file.lower >= reach:
            yield group
            group, rows = [], 0
        group.append(file)
        rows, reach = rows + count, max(reach, file.upper)
    if group:
        yield group


def _between(column: str, start: datetime | None, end: datetime | None) -> Any:
    from pyiceberg.expressions import AlwaysTrue, And, GreaterThanOrEqual, LessThanOrEqual

    row_filter: Any = AlwaysTrue()
    if start is not None:
        row_filter = And(row_filter, GreaterThanOrEqual(column, _iso(start)))
    if end is not None:
        row_filter = And(row_filter, LessThanOrEqual(column, _iso(end)))
    return row_filter


def _iso(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat()


def _microseconds(instant: datetime) -> int:
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
