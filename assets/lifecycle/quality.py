"""How valid the data was that a training read: evidence for the gate `ValidData`.

Of the tables themselves the very states are looked at that the training read; of their quarantines
what they hold now, because a batch that is corrected afterwards makes the training stale anyway.
"""

from datetime import date, timedelta
from typing import TYPE_CHECKING

from assets.catalog import quarantine_key
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.training import training_snapshots
from flywheel.calendar import Calendar
from flywheel.contest import DataQuality, TableQuality
from flywheel.contract.sql import audit_history
from flywheel.dataset import Dataset
from resources.lakehouse import Lakehouse, Window

if TYPE_CHECKING:
    from pyiceberg.table import DataScan


def data_quality(life: Lifecycle, as_of: date, lakehouse: Lakehouse) -> DataQuality:
    """Look at the cases and the feature views of a training window.

    Args:
        life: The model.
        as_of: The morning of the training, whose training set has been made.
        lakehouse: Where the tables are.

    Raises:
        LookupError: A table does not exist.
    """
    snapshots = training_snapshots(life, as_of, lakehouse)
    days = (as_of - timedelta(days=life.spec.training_days), as_of)
    declared = [life.spec.spine.dataset, *(view.dataset for view in life.spec.views)]
    return DataQuality(
        tuple(
            _table_quality(life, one, days, snapshots.get(_table(life, one)), lakehouse)
            for one in declared
        )
    )


def _table(life: Lifecycle, declared: Dataset) -> str:
    return ".".join(life.sibling(declared.name).path)


def _table_quality(
    life: Lifecycle,
    declared: Dataset,
    days: tuple[date, date],
    snapshot: int | None,
    lakehouse: Lakehouse,
) -> TableQuality:
    table = _table(life, declared)
    batches = _quarantined(life, declared, days, lakehouse)
    if snapshot is None:  # it had no row yet
        return TableQuality(table, 0, len(batches), len(set(batches) - {None}))
    scan = lakehouse.scan(table, _window(declared, days, life.spec.calendar), snapshot)
    found = _days_of(declared, scan, life.spec.calendar) if batches else set()
    return TableQuality(
        table=table,
        rows=scan.count(),
        quarantined=len(batches),
        lost_days=len(set(batches) - {None} - found),
        broken={
            violation.rule.name: violation.rows
            for violation in audit_history(declared, scan.to_arrow_batch_reader())
        },
    )


def _quarantined(
    life: Lifecycle, declared: Dataset, days: tuple[date, date], lakehouse: Lakehouse
) -> list[date | None]:
    """The day of each row that was put aside; None in a table that is computed whole."""
    name = ".".join(quarantine_key(life.sibling(declared.name)).path)
    if not lakehouse.exists(name):
        return []
    window = Window("quarantine_batch", *days) if declared.partition_by else None
    rows = lakehouse.scan(name, window).select("quarantine_batch").to_arrow()
    return rows.column("quarantine_batch").to_pylist()


def _window(declared: Dataset, days: tuple[date, date], calendar: Calendar) -> Window | None:
    """The training window as a table counts time: local dates, or instants."""
    column = declared.partition_by
    if column is None:
        return None
    if declared.column(column).dtype == "date":
        return Window(column, *days)
    return Window(column, *(calendar.midnight(day) for day in days))


def _days_of(declared: Dataset, scan: "DataScan", calendar: Calendar) -> set[date]:
    """The local days that have a row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = declared.partition_by
    if column is None:
        return set()
    when = scan.select(column).to_arrow().column(column)
    if pa.types.is_timestamp(when.type):
        when = pc.local_timestamp(when.cast(pa.timestamp("us", tz=calendar.timezone)))
    return set(pc.unique(when.cast(pa.date32())).to_pylist())
