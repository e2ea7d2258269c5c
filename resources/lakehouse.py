"""The Iceberg lakehouse: a table per asset, written by overwriting exactly what was computed.

Reads and writes are Arrow. A write of what is already there makes no snapshot, so running anything
twice changes nothing.
"""

# No `from __future__ import annotations` here: Dagster reads ResourceDependency annotations.
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.catalog import Catalog
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import DataScan, Table

FINGERPRINT = "flywheel.fingerprint"

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


class Lakehouse(dg.ConfigurableResource):
    """An Iceberg SQL catalog and its warehouse."""

    catalog_uri: str
    warehouse: str

    @property
    def catalog(self) -> "Catalog":
        """The pyiceberg catalog (one per process and address)."""
        return _catalog(self.catalog_uri, self.warehouse)

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

    def scan(self, name: str, window: Window | None = None) -> "DataScan":
        """A lazy scan of a table, or of the rows of a window."""
        table = self.table(name)
        return table.scan(row_filter=_expression(window)) if window else table.scan()

    def read(self, name: str, window: Window | None = None) -> "pa.Table":
        """Rows as Arrow, sorted by the table's key."""
        table = self.table(name)
        scan = table.scan(row_filter=_expression(window)) if window else table.scan()
        return _sorted(scan.to_arrow(), table.properties.get("flywheel.key", ""))

    def newest(self, name: str, column: str) -> datetime | None:
        """The greatest value of a timestamp column, None while the table has no rows."""
        import pyarrow.compute as pc

        values = self.table(name).scan(selected_fields=(column,)).to_arrow().column(column)
        return pc.max(values).as_py()

    def current_snapshot(self, name: str) -> int:
        """Id of the table's current snapshot, 0 while it has none."""
        snapshot = self.table(name).current_snapshot()
        return snapshot.snapshot_id if snapshot else 0

    def write(
        self,
        name: str,
        rows: "pa.Table",
        window: Window | None = None,
        properties: Mapping[str, str] | None = None,
        *,
        ignoring: Sequence[str] = (),
    ) -> Written:
        """Make the table (or its window) hold exactly these rows.

        Args:
            name: `namespace.table`; created on first use.
            rows: Sorted by the key, with the schema metadata of `flywheel.dataset.Dataset`.
            window: What to replace; None replaces the whole table.
            properties: Added to the snapshot's summary.
            ignoring: Columns left out when asking whether anything has changed.

        Raises:
            ValueError: A row lies outside of the window.
        """
        table = self._ensure(name, rows.schema)
        if window:
            _check_inside(rows, window, name)
        current = _sorted(
            (table.scan(row_filter=_expression(window)) if window else table.scan()).to_arrow(),
            table.properties.get("flywheel.key", ""),
        )
        digest = fingerprint(rows, ignoring)
        changed = fingerprint(current, ignoring) != digest
        if changed:
            summary = {FINGERPRINT: digest, **(properties or {})}
            if window:
                table.overwrite(rows, _expression(window), snapshot_properties=summary)
            else:
                table.overwrite(rows, snapshot_properties=summary)
        return Written(_snapshot_of(table, digest), rows.num_rows, _total_rows(table), changed)

    def _ensure(self, name: str, schema: "pa.Schema") -> "Table":
        """The table, created with the schema's partitioning and key if it is new."""
        from pyiceberg.exceptions import NoSuchTableError
        from pyiceberg.transforms import MonthTransform

        try:
            return self.catalog.load_table(name)
        except NoSuchTableError:
            self.catalog.create_namespace_if_not_exists(name.rsplit(".", 1)[0])
            metadata = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
            with self.catalog.create_table_transaction(
                name, schema=schema, properties={**TABLE_PROPERTIES, **metadata}
            ) as creation:
                if column := metadata.get("flywheel.partition_by"):
                    with creation.update_spec() as spec:
                        spec.add_field(column, MonthTransform(), f"{column}_month")
            return self.catalog.load_table(name)


class IcebergIOManager(dg.ConfigurableIOManager):
    """Hands assets their inputs and stores what they return: Arrow in, Arrow or pandas out.

    The asset's key is the table's name; its partitions, if any, are the window that is replaced
    or read. How an input is handed over is the `form` in its `AssetIn` metadata: `arrow`, `pandas`
    or `scan` (a lazy pyiceberg `DataScan`).
    """

    lakehouse: dg.ResourceDependency[Lakehouse]

    def handle_output(self, context: dg.OutputContext, obj: "pa.Table") -> None:
        """Overwrite the asset's partitions with `obj` and record the snapshot as data version."""
        name = table_name(context.asset_key)
        column = (obj.schema.metadata or {}).get(b"flywheel.partition_by")
        window = (
            partition_window(context.asset_partitions_time_window, column.decode(), obj.schema)
            if context.has_asset_partitions and column
            else None
        )
        properties = {"flywheel.run_id": context.run_id}
        if context.has_asset_partitions:
            keys = context.asset_partition_keys
            properties["flywheel.partition"] = (
                keys[0] if len(keys) == 1 else f"{keys[0]}...{keys[-1]}"
            )
        written = self.lakehouse.write(name, obj, window, properties)
        context.step_context.set_data_version(
            context.asset_key, dg.DataVersion(str(written.snapshot_id))
        )
        context.add_output_metadata(table_metadata(name, obj, written, partitioned=bool(window)))

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the upstream table, or its partitions at hand, in the form the asset asked for."""
        name = table_name(context.asset_key)
        table = self.lakehouse.table(name)
        column = table.properties.get("flywheel.partition_by")
        window = None
        if context.has_asset_partitions and column:
            schema = table.schema().as_arrow()
            window = partition_window(context.asset_partitions_time_window, column, schema)
        form = (context.definition_metadata or {}).get("form", "arrow")
        if form == "scan":
            return self.lakehouse.scan(name, window)
        rows = self.lakehouse.read(name, window)
        return rows.to_pandas() if form == "pandas" else rows


def table_name(key: dg.AssetKey) -> str:
    """`namespace.table` of an asset key."""
    return ".".join(key.path)


def partition_window(window: dg.TimeWindow, column: str, schema: "pa.Schema") -> Window:
    """The rows of a Dagster time window: local dates, or instants, as the column's type asks."""
    import pyarrow as pa

    if pa.types.is_date(schema.field(column).type):
        return Window(column, window.start.date(), window.end.date())
    return Window(column, window.start, window.end)


def table_metadata(
    name: str, rows: "pa.Table", written: Written, *, partitioned: bool
) -> dict[str, Any]:
    """What the Dagster catalog shows about a table after a write."""
    metadata: dict[str, Any] = {
        "dagster/table_name": name,
        "dagster/row_count": written.total_rows,
        "dagster/column_schema": column_schema(rows.schema),
        "snapshot_id": str(written.snapshot_id),
        "changed": written.changed,
    }
    if partitioned:
        metadata["dagster/partition_row_count"] = written.rows
    return metadata


def column_schema(schema: "pa.Schema") -> dg.TableSchema:
    """An Arrow schema as Dagster shows it."""
    return dg.TableSchema(
        [
            dg.TableColumn(
                field.name,
                str(field.type),
                description=(field.metadata or {}).get(b"doc", b"").decode() or None,
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in schema
        ]
    )


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


@lru_cache(maxsize=8)
def _catalog(uri: str, warehouse: str) -> "Catalog":
    from pyiceberg.catalog import load_catalog

    return load_catalog("flywheel", type="sql", uri=uri, warehouse=warehouse)


def _expression(window: Window) -> "BooleanExpression":
    from pyiceberg.expressions import And, GreaterThanOrEqual, LessThan

    return And(
        GreaterThanOrEqual(window.column, window.start.isoformat()),
        LessThan(window.column, window.end.isoformat()),
    )


def _sorted(rows: "pa.Table", key: str) -> "pa.Table":
    return rows.sort_by([(name, "ascending") for name in key.split(",")]) if key else rows


def _check_inside(rows: "pa.Table", window: Window, name: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = rows.column(window.column)
    start, end = (pa.scalar(bound, values.type) for bound in (window.start, window.end))
    outside = pc.sum(pc.or_(pc.less(values, start), pc.greater_equal(values, end))).as_py()
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


def _total_rows(table: "Table") -> int:
    current = table.current_snapshot()
    return int(current.summary["total-records"]) if current and current.summary else 0
