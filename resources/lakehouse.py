"""The Iceberg lakehouse: a table per asset, written by overwriting exactly what was computed.

Reads and writes are Arrow. A write of what is already there makes no snapshot, so running anything
twice changes nothing.
"""

# No `from __future__ import annotations` here: Dagster reads ResourceDependency annotations.
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.catalog import Catalog
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import DataScan, Table
    from tenacity import AttemptManager

# Table properties, given in the schema's metadata.
KEY = "flywheel.key"
PARTITION_BY = "flywheel.partition_by"

# Properties of a snapshot.
FINGERPRINT = "flywheel.fingerprint"
PARTITION = "flywheel.partition"
RUN_ID = "flywheel.run_id"

MAIN = "main"

# Each commit copies the list of snapshots many times over: without a limit the 400th takes 12
# times as long as the 10th (measured in research). Upkeep keeps fewer; this holds until it comes.
MOST_SNAPSHOTS = 50

# Tries at a commit before a writer gives up.
ATTEMPTS = 50

# Measured in research: unlimited metadata history makes the 400th commit 12 times the 10th.
TABLE_PROPERTIES = {
    "commit.retry.num-retries": "20",
    "commit.retry.total-timeout-ms": "120000",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "10",
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    "write.parquet.compression-codec": "zstd",
}


@dataclass(frozen=True)
class Window:
    """Rows of `column` in [start, end): dates for a date column, aware instants for a timestamp."""

    column: str
    start: date | datetime
    end: date | datetime


@dataclass(frozen=True)
class Written:
    """What a write left behind.

    Attributes:
        snapshot_id: Snapshot that holds the content (0 for a table without any row yet).
        rows: Rows written.
        total_rows: Rows of the whole table.
        changed: False if the table held exactly this content already.
    """

    snapshot_id: int
    rows: int
    total_rows: int
    changed: bool


# A place in a table's history: a snapshot id, a tag or branch, or a moment.
At = int | str | datetime

# Looks at what a branch would publish, and raises if it must not be.
Audit = Callable[["DataScan"], None]

# From the rows that a history has to those that follow.
Decide = Callable[["pa.Table"], "pa.Table"]

# Of a history: a commit that lost a race is given up, so that what follows is decided anew.
NEVER_REBASED = {"commit.retry.num-retries": "0"}


class Lakehouse(dg.ConfigurableResource):
    """An Iceberg SQL catalog and its warehouse.

    The catalog is SQLite or Postgres, the warehouse a folder (`file://`) or a bucket (`s3://`,
    addressed and signed by the standard `AWS_*` variables). Writers need not know of one another:
    a commit that lost a race reads again and is repeated.
    """

    catalog_uri: str
    warehouse: str

    @property
    def catalog(self) -> "Catalog":
        """The pyiceberg catalog (one per process and address)."""
        return _catalog(self.catalog_uri, self.warehouse)

    def names(self) -> list[str]:
        """All tables as `namespace.table`, sorted."""
        return sorted(
            ".".join(identifier)
            for namespace in self.catalog.list_namespaces()
            for identifier in self.catalog.list_tables(namespace)
        )

    def table(self, name: str) -> "Table":
        """Load a table by `namespace.table`.

        Raises:
            LookupError: It does not exist; the message says which asset makes it.
        """
        from pyiceberg.exceptions import NoSuchTableError

        try:
            return self.catalog.load_table(name)
        except NoSuchTableError as error:
            raise LookupError(
                f"There is no table {name} yet: materialize the asset "
                f"{name.replace('.', '/')} first."
            ) from error

    def exists(self, name: str) -> bool:
        """Whether the table has been created."""
        return self.catalog.table_exists(name)

    def scan(self, name: str, window: Window | None = None, at: At | None = None) -> "DataScan":
        """A lazy scan of a table, or of the rows of a window, now or at a place in its history."""
        return _scan(self.table(name), window, at)

    def read(self, name: str, window: Window | None = None, at: At | None = None) -> "pa.Table":
        """Rows as Arrow, sorted by the table's key.

        Args:
            name: `namespace.table`.
            window: Rows to read; None reads all.
            at: Snapshot id, tag, branch or aware moment; None reads what is current.

        Raises:
            LookupError: There is no such table, or no such place in its history.
        """
        table = self.table(name)
        return _sorted(_scan(table, window, at).to_arrow(), table.properties.get(KEY, ""))

    def matching(self, name: str, equal: Mapping[str, str]) -> "pa.Table":
        """Rows with these values, sorted by the table's key.

        Raises:
            LookupError: There is no such table.
        """
        table = self.table(name)
        rows = table.scan(row_filter=_equal(equal)).to_arrow()
        return _sorted(rows, table.properties.get(KEY, ""))

    def newest(self, name: str, column: str) -> datetime | None:
        """The greatest value of a timestamp column, None while the table has no rows."""
        import pyarrow.compute as pc

        values = self.table(name).scan(selected_fields=(column,)).to_arrow().column(column)
        return pc.max(values).as_py()

    def current_snapshot(self, name: str) -> int:
        """Id of the table's current snapshot, 0 while it has none."""
        snapshot = self.table(name).current_snapshot()
        return snapshot.snapshot_id if snapshot else 0

    def resolve(self, name: str, at: At) -> int:
        """The snapshot id of a place in a table's history.

        Raises:
            LookupError: There is none; the message lists what there is.
        """
        return _resolve(self.table(name), at)

    def tag(self, name: str, tag: str, at: At | None = None) -> int:
        """Name a snapshot, for good: a tagged snapshot is never expired. A tag that exists moves.

        Returns:
            The snapshot's id; 0, and no tag, while the table has no snapshot.
        """
        for attempt in attempts():
            with attempt:
                table = self.table(name)
                if at is None and table.current_snapshot() is None:
                    return 0
                snapshot = self.current_snapshot(name) if at is None else _resolve(table, at)
                held = table.refs().get(tag)
                if held is None or held.snapshot_id != snapshot:
                    table.manage_snapshots().create_tag(snapshot, tag).commit()
        return snapshot

    def rollback(self, name: str, at: At) -> int:
        """Make an earlier snapshot the current one; nothing is removed, so it can be undone.

        Returns:
            The snapshot's id.
        """
        for attempt in attempts():
            with attempt:
                table = self.table(name)
                snapshot = _resolve(table, at)
                table.manage_snapshots().set_current_snapshot(snapshot).commit()
        return snapshot

    def write(
        self,
        name: str,
        rows: "pa.Table",
        window: Window | None = None,
        properties: Mapping[str, str] | None = None,
        *,
        ignoring: Sequence[str] = (),
        audit: Audit | None = None,
    ) -> Written:
        """Make the table (or its window) hold exactly these rows.

        Args:
            name: `namespace.table`; created on first use, and evolved when columns were added,
                widened or renamed since.
            rows: Sorted by the key, with the schema metadata of `flywheel.dataset.Dataset`.
            window: What to replace; None replaces the whole table.
            properties: Added to the snapshot's summary.
            ignoring: Columns that do not count when it is asked whether the content changed.
            audit: Write-audit-publish: the rows are written to a branch, the audit reads it, and
                only if it raises nothing does the branch become what readers see. A branch that
                failed stays, for a person to look at, until the next attempt of the same batch.

        Raises:
            ValueError: A row lies outside of the window.
            SchemaError: The table cannot take on the schema of the rows.
        """
        if window:
            _check_inside(rows, window, name)
        digest = fingerprint(rows, ignoring)
        summary = {FINGERPRINT: digest, **(properties or {})}
        for attempt in attempts():
            with attempt:
                table = self._ensure(name, rows.schema)
                current = _scan(table, window, None).to_arrow().select(rows.column_names)
                current = _sorted(current, table.properties.get(KEY, ""))
                changed = fingerprint(current, ignoring) != digest
                if changed and audit:
                    _write_audit_publish(table, rows, window, summary, audit)
                elif changed:
                    table.overwrite(rows, expression(window), snapshot_properties=summary)
        if len(table.snapshots()) > MOST_SNAPSHOTS:
            self.expire(name, MOST_SNAPSHOTS // 2)
        return Written(_snapshot_of(table, digest), rows.num_rows, total_rows(table), changed)

    def append(self, name: str, rows: "pa.Table") -> None:
        """Add rows to a log: a table of events that each have an id of their own."""
        for attempt in attempts():
            with attempt:
                self._ensure(name, rows.schema).append(rows)

    def transact(
        self, name: str, schema: "pa.Schema", decide: Decide, among: Mapping[str, str]
    ) -> "pa.Table":
        """Add to a history what follows from it; no other writer comes between reading and adding.

        Args:
            name: `namespace.table`; created on first use.
            schema: Of its rows.
            decide: Is given the rows there are and returns those to add, maybe none. It is asked
                again whenever another writer was first; what it raises ends the matter.
            among: Values of columns: only rows with them are given to `decide`.

        Returns:
            The rows added.
        """
        for attempt in attempts():
            with attempt:
                table = self._ensure(
                    name, schema.with_metadata({**(schema.metadata or {}), **NEVER_REBASED})
                )
                # The commit holds only if the snapshot read here is still the current one.
                fresh = decide(table.scan(row_filter=_equal(among)).to_arrow())
                if fresh.num_rows:
                    table.append(fresh)
        if len(table.snapshots()) > MOST_SNAPSHOTS:
            self.expire(name, MOST_SNAPSHOTS // 2)
        return fresh

    def expire(self, name: str, keep: int) -> int:
        """Drop all but the newest snapshots; what a tag or branch holds stays.

        Returns:
            The number of snapshots dropped. Their files are removed by `resources.maintenance`.
        """
        from pyiceberg.exceptions import CommitFailedException

        for attempt in attempts():
            with attempt:
                table = self.table(name)
                held = {ref.snapshot_id for ref in table.refs().values()}
                by_age = sorted(table.snapshots(), key=lambda s: s.timestamp_ms, reverse=True)
                old = [s.snapshot_id for s in by_age[keep:] if s.snapshot_id not in held]
                try:
                    if old:
                        table.maintenance.expire_snapshots().by_ids(old).commit()
                except ValueError as error:
                    # So pyiceberg says that another writer has dropped some of them first.
                    kept = {s.snapshot_id for s in self.table(name).snapshots()}
                    if kept.issuperset(old):
                        raise
                    raise CommitFailedException(f"{name}: expired by somebody else") from error
        return len(old)

    def _ensure(self, name: str, schema: "pa.Schema") -> "Table":
        """The table with this schema: created, or evolved, if it is not so yet."""
        from pyiceberg.exceptions import NoSuchTableError, TableAlreadyExistsError
        from pyiceberg.transforms import MonthTransform

        from resources.schema_evolution import evolve

        try:
            table = self.catalog.load_table(name)
        except NoSuchTableError:
            self.catalog.create_namespace_if_not_exists(name.rsplit(".", 1)[0])
            metadata = text_metadata(schema)
            try:
                with self.catalog.create_table_transaction(
                    name, schema=schema, properties={**TABLE_PROPERTIES, **metadata}
                ) as creation:
                    if column := metadata.get(PARTITION_BY):
                        with creation.update_spec() as spec:
                            spec.add_field(column, MonthTransform(), f"{column}_month")
            except TableAlreadyExistsError:
                pass  # another writer was first: it has the same declaration
            return self.catalog.load_table(name)
        return evolve(table, schema)


def fingerprint(rows: "pa.Table", ignoring: Sequence[str] = ()) -> str:
    """sha256 of the values, column by column, whatever chunks or slices carry them."""
    digest = hashlib.sha256(str(rows.num_rows).encode())
    for name in sorted(set(rows.column_names) - set(ignoring)):
        _digest_column(digest, name, rows.column(name).combine_chunks())
    return digest.hexdigest()


def _digest_column(digest: "hashlib._Hash", name: str, values: "pa.Array") -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        # Arrow and Iceberg call the items of a list differently, so its type is not compared.
        lengths = pc.list_value_length(values).cast(pa.int64())
        _digest_column(digest, f"{name}#", lengths)
        _digest_column(digest, f"{name}[]", values.flatten())
        return
    if pa.types.is_string(values.type):
        values = values.cast(pa.large_string())
    digest.update(f"{name}:{values.type}:{values.null_count}".encode())
    # take() gives fresh buffers without offsets, with zeroes under the nulls.
    whole = values.take(pa.array(np.arange(len(values))))
    for array in (pc.is_valid(whole), whole):
        for buffer in array.buffers()[1:]:
            if buffer is not None:
                digest.update(buffer)


def text_metadata(schema: "pa.Schema") -> dict[str, str]:
    """The metadata of a schema as text."""
    return {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}


def total_rows(table: "Table") -> int:
    """Rows of the whole table, by its own book-keeping."""
    current = table.current_snapshot()
    return int(current.summary["total-records"]) if current and current.summary else 0


@lru_cache(maxsize=8)
def _catalog(uri: str, warehouse: str) -> "Catalog":
    from pyiceberg.catalog import load_catalog

    # Without it a writer gives up after the five seconds that another one may well need.
    patient = f"{uri}?timeout=60" if uri.startswith("sqlite") and "?" not in uri else uri
    properties = {"type": "sql", "uri": patient, "warehouse": warehouse}
    if warehouse.startswith("s3"):
        # PyArrow's S3 threads can hang when the interpreter ends.
        properties["py-io-impl"] = "pyiceberg.io.fsspec.FsspecFileIO"
    return load_catalog("flywheel", **properties)


def attempts() -> "Iterator[AttemptManager]":
    """Tries at a commit: pyiceberg repeats most lost races itself, these are the others.

    The wait is random and grows, so that writers who collided once do not collide again.
    """
    from pyiceberg.exceptions import CommitFailedException, ValidationException
    from tenacity import (
        Retrying,
        retry_if_exception_type,
        stop_after_attempt,
        wait_random_exponential,
    )

    return iter(
        Retrying(
            retry=retry_if_exception_type((CommitFailedException, ValidationException)),
            wait=wait_random_exponential(multiplier=0.05, max=5),
            stop=stop_after_attempt(ATTEMPTS),
            reraise=True,
        )
    )


def _write_audit_publish(
    table: "Table",
    rows: "pa.Table",
    window: Window | None,
    summary: Mapping[str, str],
    audit: Audit,
) -> None:
    """Write to a branch, audit it, and make it main if main has not moved meanwhile.

    pyiceberg has no fast-forward, and its `set_current_snapshot` would drop what main gained since
    (measured: 100 rows lost). So main must still be where the branch began, which the commit's own
    optimistic requirement then holds; otherwise the whole attempt is repeated.

    Raises:
        CommitFailedException: Main moved.
    """
    from pyiceberg.exceptions import CommitFailedException

    branch = f"audit/{summary.get(PARTITION, 'all')}"
    if table.current_snapshot() is None:
        table.append(rows.slice(0, 0))  # a branch has to begin somewhere
    began = table.refs()[MAIN].snapshot_id
    if branch in table.refs():
        table.manage_snapshots().remove_branch(branch).commit()
    table.manage_snapshots().create_branch(began, branch).commit()
    table.overwrite(rows, expression(window), snapshot_properties=dict(summary), branch=branch)
    audit(table.scan().use_ref(branch))
    if table.refresh().refs()[MAIN].snapshot_id != began:
        raise CommitFailedException(f"{table.name()}: main moved while {branch} was audited")
    table.manage_snapshots().set_current_snapshot(ref_name=branch).remove_branch(branch).commit()


def _scan(table: "Table", window: Window | None, at: At | None) -> "DataScan":
    return table.scan(
        row_filter=expression(window),
        snapshot_id=None if at is None else _resolve(table, at),
    )


def _resolve(table: "Table", at: At) -> int:
    name = ".".join(table.name())
    if isinstance(at, int):
        if table.snapshot_by_id(at):
            return at
        kept = [s.snapshot_id for s in table.snapshots()][-5:]
        raise LookupError(f"{name} has no snapshot {at}; the newest ones are {kept}")
    if isinstance(at, str):
        if ref := table.refs().get(at):
            return ref.snapshot_id
        raise LookupError(f"{name} has no tag or branch {at!r}; it has {sorted(table.refs())}")
    if at.tzinfo is None:
        raise LookupError(f"{at.isoformat()} has no time zone: write e.g. 2013-03-01T00:00:00Z")
    snapshot = table.snapshot_as_of_timestamp(int(at.timestamp() * 1000))
    if snapshot is None:
        raise LookupError(f"{name} had no snapshot yet, or keeps none any more, at {at}")
    return snapshot.snapshot_id


def expression(window: Window | None) -> "BooleanExpression":
    """The rows of a window, for Iceberg; all rows without one."""
    from pyiceberg.expressions import AlwaysTrue, And, GreaterThanOrEqual, LessThan

    if window is None:
        return AlwaysTrue()
    return And(
        GreaterThanOrEqual(window.column, window.start.isoformat()),
        LessThan(window.column, window.end.isoformat()),
    )


def _equal(values: Mapping[str, str]) -> "BooleanExpression":
    from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, EqualTo

    found: BooleanExpression = AlwaysTrue()
    for column, value in values.items():
        found = And(found, EqualTo(column, value))
    return found


def _sorted(rows: "pa.Table", key: str) -> "pa.Table":
    return rows.sort_by([(name, "ascending") for name in key.split(",")]) if key else rows


def _check_inside(rows: "pa.Table", window: Window, name: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = rows.column(window.column)
    start, end = (pa.scalar(bound, values.type) for bound in (window.start, window.end))
    inside = pc.and_(pc.greater_equal(values, start), pc.less(values, end))
    # A null is not inside: the next overwrite of the window would not find its row again.
    outside = rows.num_rows - (pc.sum(inside).as_py() or 0)
    if outside:
        raise ValueError(
            f"{name}: {outside} rows have {window.column} outside of [{window.start}, "
            f"{window.end}). The asset must return only rows of its partitions."
        )


def _snapshot_of(table: "Table", digest: str) -> int:
    """The newest snapshot that was written with this content, else the current one."""
    for snapshot in sorted(table.snapshots(), key=lambda s: s.timestamp_ms, reverse=True):
        if snapshot.summary and snapshot.summary.additional_properties.get(FINGERPRINT) == digest:
            return snapshot.snapshot_id
    current = table.current_snapshot()
    return current.snapshot_id if current else 0
