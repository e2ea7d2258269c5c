"""Rows that were put aside become rows of the dataset's quarantine table."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from flywheel.contract.rules import Window
from flywheel.dataset import Dataset

if TYPE_CHECKING:
    import pyarrow as pa


def quarantine_rows(
    dataset: Dataset,
    quarantined: pa.Table,
    *,
    days: tuple[date, date] | None,
    timezone: str,
    run: str,
    at: datetime,
) -> pa.Table:
    """Complete the rows of `Validation.quarantined` to rows of `Dataset.quarantine`.

    A row goes to the local day that it belongs to, so that computing this day again replaces it;
    if it says no day, or one that is not part of the batch, to the batch's first day.

    Args:
        dataset: The declaration of the table that the rows were to be part of.
        quarantined: The rows, with `quarantine_reason`.
        days: First local day of the batch and the day after its last; None for a table that is
            computed whole.
        timezone: IANA name of the zone whose midnight parts the days.
        run: Id of the run.
        at: Now, aware.
    """
    import pyarrow as pa

    rows = quarantined.num_rows
    batch: list[date | None] = [None] * rows
    if dataset.partition_by and days:
        zone = ZoneInfo(timezone)
        moments = quarantined.column(dataset.partition_by).to_pylist()
        batch = [_day(moment, days, zone) for moment in moments]
    added: dict[str, Any] = {
        "quarantine_batch": pa.array(batch, pa.date32()),
        "quarantined_at": pa.array([at] * rows, pa.timestamp("us", tz="UTC")),
        "quarantine_run": pa.array([run] * rows, pa.string()),
    }
    for name, values in added.items():
        quarantined = quarantined.append_column(name, values)
    return dataset.quarantine.conform(quarantined)


def batch_window(dataset: Dataset, start: datetime, end: datetime) -> Window | None:
    """A batch's window as its dataset counts time: local dates, or instants.

    Args:
        dataset: The declaration.
        start: Local midnight that the batch begins at, aware.
        end: Local midnight that it ends at.
    """
    if dataset.partition_by is None:
        return None
    if dataset.column(dataset.partition_by).dtype == "date":
        return Window(start.date(), end.date())
    return Window(start, end)


def _day(moment: date | datetime | None, days: tuple[date, date], zone: ZoneInfo) -> date:
    first, end = days
    if moment is None:
        return first
    day = moment.astimezone(zone).date() if isinstance(moment, datetime) else moment
    return day if first <= day < end else first
