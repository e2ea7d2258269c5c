"""What a dataset promises: its columns, keys and the column that says when a row belongs.

One declaration serves the Iceberg schema, the column schema in the Dagster catalog and the blocking
check. Reading and writing tables is not done here (`resources.lakehouse`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

# Declarations name their types, so that declaring a table does not load Arrow.
DType = Literal["string", "int32", "int64", "float64", "bool", "date", "timestamp", "list<string>"]


def arrow_type(dtype: DType) -> pa.DataType:
    """The Arrow type of a declared one; a `timestamp` is in microseconds, UTC."""
    import pyarrow as pa

    return {
        "string": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
        "list<string>": pa.list_(pa.string()),
    }[dtype]


class SchemaError(ValueError):
    """A table does not have the declared columns; the message names them and says what to do."""


class Rule(StrEnum):
    """The promise that a violation breaks."""

    NOT_NULL = "not null"
    UNIQUE = "unique key"


@dataclass(frozen=True)
class Column:
    """One column of a dataset.

    Attributes:
        name: Column name, also the Iceberg field name.
        dtype: Type; a `timestamp` is in microseconds, UTC.
        description: One sentence with the unit, shown in the catalog.
        nullable: Whether a null is a legal value.
    """

    name: str
    dtype: DType
    description: str
    nullable: bool = True


@dataclass(frozen=True)
class Violation:
    """Rows that break one rule of the declaration."""

    column: str
    rule: Rule
    rows: int


@dataclass(frozen=True)
class Dataset:
    """A declared table.

    Attributes:
        name: Table name inside its domain's namespace.
        columns: The columns, in order.
        key: Columns that identify a row; rows are stored sorted by them.
        partition_by: A `date` or `timestamp` column that says which day a row belongs
            to, or None for a table that is replaced whole.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partition_by: str | None = None
    _by_name: dict[str, Column] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name = {column.name: column for column in self.columns}
        wanted = (*self.key, *((self.partition_by,) if self.partition_by else ()))
        if unknown := [name for name in wanted if name not in by_name]:
            raise SchemaError(f"{self.name}: {unknown} are not among the columns {list(by_name)}")
        object.__setattr__(self, "_by_name", by_name)

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema: declared order, types and nullability.

        Descriptions are field metadata (`doc`), key and partition column schema metadata, so that
        a table on its way to the lakehouse says of itself how it is to be stored.
        """
        import pyarrow as pa

        metadata: dict[str | bytes, str | bytes] = {"flywheel.key": ",".join(self.key)}
        if self.partition_by:
            metadata["flywheel.partition_by"] = self.partition_by
        return pa.schema(
            (
                pa.field(
                    c.name,
                    arrow_type(c.dtype),
                    nullable=c.nullable,
                    metadata={"doc": c.description},
                )
                for c in self.columns
            ),
            metadata=metadata,
        )

    def conform(self, table: pa.Table) -> pa.Table:
        """Return the table with the declared columns and types, sorted by the key.

        Args:
            table: Any table that has exactly the declared columns, in any order.

        Raises:
            SchemaError: A column is missing, unknown, or cannot be cast without loss.
        """
        import pyarrow as pa

        missing = [name for name in self._by_name if name not in table.column_names]
        extra = [name for name in table.column_names if name not in self._by_name]
        if missing or extra:
            raise SchemaError(
                f"{self.name}: missing columns {missing}, undeclared columns {extra}. "
                "Rename them in the asset, or declare them in its Dataset."
            )
        arrays = []
        for column in self.columns:
            values = table.column(column.name)
            dtype = arrow_type(column.dtype)
            if values.type != dtype:
                try:
                    values = values.cast(dtype)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise SchemaError(
                        f"{self.name}.{column.name}: {values.type} cannot become "
                        f"{dtype} ({error}). Convert it in the asset."
                    ) from error
            arrays.append(values)
        # A null in a required column is counted by `violations`, not refused here.
        conformed = pa.Table.from_arrays(arrays, schema=self.schema)
        return conformed.sort_by([(name, "ascending") for name in self.key])

    def violations(self, table: pa.Table) -> list[Violation]:
        """Count the rows that break the declaration (empty list: all is well).

        Args:
            table: A table returned by `conform`.
        """
        found = [
            Violation(column.name, Rule.NOT_NULL, table.column(column.name).null_count)
            for column in self.columns
            if not column.nullable and table.column(column.name).null_count
        ]
        repeated = table.num_rows - table.group_by(list(self.key)).aggregate([]).num_rows
        if repeated:
            found.append(Violation(", ".join(self.key), Rule.UNIQUE, repeated))
        return found


def columns(*declared: tuple[str, DType, str] | Column) -> tuple[Column, ...]:
    """Shorthand: `(name, dtype, description)` triples of nullable columns beside `Column`s."""
    return tuple(c if isinstance(c, Column) else Column(*c) for c in declared)


def required(name: str, dtype: DType, description: str) -> Column:
    """Shorthand for a column that may not be null."""
    return Column(name, dtype, description, nullable=False)
