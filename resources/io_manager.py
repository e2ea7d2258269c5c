"""How assets are handed their inputs and where what they return is kept: Iceberg, by partition.

The lakehouse itself is `resources.lakehouse`; here is only what Dagster needs to know about it.
"""

# No `from __future__ import annotations` here: Dagster reads ResourceDependency annotations.
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from resources.lakehouse import (
    PARTITION,
    PARTITION_BY,
    RUN_ID,
    Audit,
    Lakehouse,
    Window,
    Written,
    text_metadata,
)

if TYPE_CHECKING:
    import pyarrow as pa

# In the metadata of an output's schema: the tag that its snapshot is to have.
TAG = "flywheel.tag"

COLUMN_SCHEMA = "dagster/column_schema"


@dataclass(frozen=True)
class Audited:
    """An output that is published only if an audit of the table with it in raises nothing."""

    rows: "pa.Table"
    audit: Audit


class IcebergIOManager(dg.ConfigurableIOManager):
    """Hands assets their inputs and stores what they return: Arrow in, Arrow or pandas out.

    The asset's key is the table's name; its partitions, if any, are the window that is replaced
    or read. How an input is handed over is the `form` in its `AssetIn` metadata: `arrow`, `pandas`
    or `scan` (a lazy pyiceberg `DataScan`).
    """

    lakehouse: dg.ResourceDependency[Lakehouse]

    def handle_output(self, context: dg.OutputContext, obj: "pa.Table | Audited") -> None:
        """Overwrite the asset's partitions with `obj` and record the snapshot as data version."""
        name = table_name(context.asset_key)
        audit = None
        if isinstance(obj, Audited):
            obj, audit = obj.rows, obj.audit
        metadata = text_metadata(obj.schema)
        tag = metadata.pop(TAG, None)
        if tag:  # of this output, not of the table
            obj = obj.replace_schema_metadata(metadata)
        column = metadata.get(PARTITION_BY)
        window = (
            partition_window(context.asset_partitions_time_window, column, obj.schema)
            if context.has_asset_partitions and column
            else None
        )
        properties = {RUN_ID: context.run_id}
        if context.has_asset_partitions:
            keys = context.asset_partition_keys
            properties[PARTITION] = keys[0] if len(keys) == 1 else f"{keys[0]}...{keys[-1]}"
        written = self.lakehouse.write(name, obj, window, properties, audit=audit)
        version = str(written.snapshot_id)
        if not written.changed:
            version = _recorded_version(context) or version
        context.step_context.set_data_version(context.asset_key, dg.DataVersion(version))
        if tag:
            self.lakehouse.tag(name, tag, written.snapshot_id or None)
        shown = table_metadata(name, written, partitioned=bool(window))
        if COLUMN_SCHEMA not in (context.definition_metadata or {}):
            # A declared one says more: the rules of the contract.
            shown[COLUMN_SCHEMA] = column_schema(obj.schema)
        context.add_output_metadata(shown)

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the upstream table, or its partitions at hand, in the form the asset asked for."""
        name = table_name(context.asset_key)
        table = self.lakehouse.table(name)
        column = table.properties.get(PARTITION_BY)
        window = None
        if context.has_asset_partitions and column:
            schema = table.schema().as_arrow()
            window = partition_window(context.asset_partitions_time_window, column, schema)
        form = (context.definition_metadata or {}).get("form", "arrow")
        if form == "scan":
            return self.lakehouse.scan(name, window)
        rows = self.lakehouse.read(name, window)
        return rows.to_pandas() if form == "pandas" else rows


def _recorded_version(context: dg.OutputContext) -> str | None:
    """The data version that the partition at hand has already.

    Content that did not change must keep its version, or everything downstream looks stale. A range
    of partitions may have several; then its snapshot has to do.
    """
    if context.has_asset_partitions and len(context.asset_partition_keys) > 1:
        return None
    partitions = context.asset_partition_keys if context.has_asset_partitions else None
    found = context.step_context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=partitions), limit=1
    )
    for record in found.records:
        materialization = record.asset_materialization
        if materialization and materialization.tags:
            return materialization.tags.get("dagster/data_version")
    return None


def table_name(key: dg.AssetKey) -> str:
    """`namespace.table` of an asset key."""
    return ".".join(key.path)


def partition_window(window: dg.TimeWindow, column: str, schema: "pa.Schema") -> Window:
    """The rows of a Dagster time window: local dates, or instants, as the column's type asks."""
    import pyarrow as pa

    if pa.types.is_date(schema.field(column).type):
        return Window(column, window.start.date(), window.end.date())
    return Window(column, window.start, window.end)


def table_metadata(name: str, written: Written, *, partitioned: bool) -> dict[str, Any]:
    """What the Dagster catalog shows about a table after a write."""
    metadata: dict[str, Any] = {
        "dagster/table_name": name,
        "dagster/row_count": written.total_rows,
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
