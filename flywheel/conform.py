"""Brings a table to the declared columns and types, or says which columns stand in the way."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from flywheel.column import SchemaError, arrow_type

if TYPE_CHECKING:
    import pyarrow as pa

    from flywheel.column import Column
    from flywheel.dataset import Dataset

# difflib's own default: `wind` and `wind_mph` are close, `wind` and `gust` are not.
CLOSE = 0.6


def conform(dataset: Dataset, table: pa.Table) -> pa.Table:
    """The table with the dataset's columns, types and order of rows (see `Dataset.conform`).

    Raises:
        SchemaError: Names every column that is missing, undeclared or of another type.
    """
    import pyarrow as pa

    names = [column.name for column in dataset.columns]
    missing = [column for column in dataset.columns if column.name not in table.column_names]
    extra = [name for name in table.column_names if name not in names]
    problems = _differences(missing, extra, table)
    arrays = []
    for column in dataset.columns:
        if column in missing:
            continue
        try:
            arrays.append(_cast(column, table.column(column.name)))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            problems.append(
                f"{dataset.name}.{column.name}: {table.schema.field(column.name).type} cannot "
                f"become {arrow_type(column.dtype)} ({error}). Convert it in the asset, or declare "
                "it with the new type."
            )
    if problems:
        raise SchemaError(f"{dataset.name}: " + " ".join(problems))
    conformed = pa.Table.from_arrays(arrays, schema=dataset.schema)
    return conformed.sort_by([(name, "ascending") for name in dataset.key])


def _cast(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    dtype = arrow_type(column.dtype)
    return values if values.type == dtype else values.cast(dtype)


def _differences(missing: list[Column], extra: list[str], table: pa.Table) -> list[str]:
    """Sentences about columns that are not on both sides."""
    if not missing and not extra:
        return []
    said = [f"missing columns {[c.name for c in missing]}, undeclared columns {extra}."]
    left = list(extra)
    for column in missing:
        if (new := _renamed_to(column, left, table)) is not None:
            left.remove(new)
            said.append(
                f"Was {column.name} renamed to {new}? Declare Column({new!r}, ..., "
                f"renamed_from={column.name!r}), or rename it in the asset."
            )
        else:
            said.append(f"Compute {column.name} in the asset, or take it out of the Dataset.")
    said += [f"Drop {name} in the asset, or declare it in its Dataset." for name in left]
    return said


def _renamed_to(column: Column, extra: list[str], table: pa.Table) -> str | None:
    """The undeclared column that may be this: of a close name, else the only one of its type."""
    if close := difflib.get_close_matches(column.name, extra, n=1, cutoff=CLOSE):
        return close[0]
    alike = [name for name in extra if table.schema.field(name).type == arrow_type(column.dtype)]
    return alike[0] if len(alike) == 1 else None
