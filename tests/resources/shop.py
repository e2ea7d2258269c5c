"""What the tests of the lakehouse write: a table of items by day."""

from __future__ import annotations

from flywheel.dataset import Column, Dataset, columns, required

NAME = "shop.sales"


def sales_with(*more: Column) -> Dataset:
    """Days and items, and further columns."""
    return Dataset(
        name="sales",
        key=("day", "item"),
        partition_by="day",
        columns=columns(
            required("day", "date", "Day."), required("item", "string", "Item."), *more
        ),
    )
