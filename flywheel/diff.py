"""What changed between two states of a table, row by row of its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flywheel.contract.sql import quoted

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Difference:
    """From one state of a table to another.

    Attributes:
        added: Rows whose key only the later state has.
        removed: Rows whose key only the earlier state has.
        changed: Rows of the later state whose key both have, with other values.
        columns: By column, in how many of the changed rows it differs; only those that do.
        new_columns: Columns that only the later state has.
        lost_columns: Columns that only the earlier state has.
    """

    added: pa.Table
    removed: pa.Table
    changed: pa.Table
    columns: Mapping[str, int]
    new_columns: tuple[str, ...]
    lost_columns: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing differs."""
        rows = self.added.num_rows + self.removed.num_rows + self.changed.num_rows
        return not (rows or self.new_columns or self.lost_columns)


def diff(before: pa.Table, after: pa.Table, key: Sequence[str]) -> Difference:
    """Compare two states of a table.

    Two nulls are equal, and so are two NaNs. Columns that only one state has are named, not
    compared.

    Args:
        before: The earlier state; its key is unique.
        after: The later state; its key is unique.
        key: Columns that identify a row, in both.
    """
    import duckdb

    common = [name for name in after.column_names if name in before.column_names]
    values = [name for name in common if name not in key]
    same_key = " AND ".join(f"b.{quoted(k)} IS NOT DISTINCT FROM a.{quoted(k)}" for k in key)
    differs = {name: f"b.{quoted(name)} IS DISTINCT FROM a.{quoted(name)}" for name in values}
    order = ", ".join(quoted(k) for k in key)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("before_rows", before)
        connection.register("after_rows", after)

        def rows(sql: str) -> pa.Table:
            return connection.sql(sql).to_arrow_table()

        added = rows(
            f"SELECT a.* FROM after_rows a ANTI JOIN before_rows b ON {same_key} ORDER BY {order}"  # noqa: S608
        )
        removed = rows(
            f"SELECT b.* FROM before_rows b ANTI JOIN after_rows a ON {same_key} ORDER BY {order}"  # noqa: S608
        )
        if not values:
            return Difference(added, removed, after.slice(0, 0), {}, *_schemas(before, after))
        both = (
            f"after_rows a JOIN before_rows b ON {same_key} WHERE {' OR '.join(differs.values())}"
        )
        key_order = ", ".join(f"a.{quoted(k)}" for k in key)
        changed = rows(f"SELECT a.* FROM {both} ORDER BY {key_order}")  # noqa: S608
        counted = ", ".join(f"count(*) FILTER ({sql})" for sql in differs.values())
        counts = connection.execute(f"SELECT {counted} FROM {both}").fetchall()[0]  # noqa: S608
    by_column = {name: n for name, n in zip(values, counts, strict=True) if n}
    return Difference(added, removed, changed, by_column, *_schemas(before, after))


def _schemas(before: pa.Table, after: pa.Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    new = tuple(n for n in after.column_names if n not in before.column_names)
    lost = tuple(n for n in before.column_names if n not in after.column_names)
    return new, lost
