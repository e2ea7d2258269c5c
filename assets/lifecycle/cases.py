"""The cases of a model: rows of its spine, by local day."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from assets.lifecycle.names import Lifecycle
from resources.lakehouse import At, Lakehouse, Window

if TYPE_CHECKING:
    import pyarrow as pa


def cases_of(
    life: Lifecycle, lakehouse: Lakehouse, start: date, end: date, at: At | None = None
) -> pa.Table:
    """The spine's rows of the local days from `start` up to, not including, `end`."""
    spine = life.spec.spine
    dataset = spine.dataset
    by_date = next((c for c in dataset.columns if c.name == dataset.partition_by), None)
    if by_date is not None and by_date.dtype == "date":
        window = Window(by_date.name, start, end)
    else:
        midnight = life.spec.calendar.midnight
        window = Window(spine.event_timestamp, midnight(start), midnight(end))
    return lakehouse.read(".".join(life.sibling(dataset.name).path), window, at)
