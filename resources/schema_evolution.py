"""A table takes on the schema that its dataset declares now, and its readers notice nothing.

Iceberg tracks columns by id: an added column is null in older rows, a widened one is read as the
wider type, a renamed one keeps its values under the new name, in old snapshots under the old one.
A column that is declared no longer stays in the table, null in new rows.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flywheel.dataset import SchemaError
from resources.lakehouse import text_metadata

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import Table

RENAMED = "flywheel.renamed"


def evolve(table: Table, schema: pa.Schema) -> Table:
    """Bring a table in line with a schema; free if it is.

    Args:
        table: The table as it is.
        schema: The declared schema; its metadata holds the table's properties and, in
            `flywheel.renamed`, the former name of every renamed column.

    Returns:
        The table, loaded anew if anything changed.

    Raises:
        SchemaError: A change would break readers or rows that are there; the message names the
            column and says what to do.
    """
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    metadata = text_metadata(schema)
    held = schema_to_pyarrow(table.schema(), include_field_ids=False)
    name = ".".join(table.name())
    renamed = {
        old: new
        for new, old in json.loads(metadata.get(RENAMED, "{}")).items()
        if old in held.names and new not in held.names
    }
    known = {renamed.get(field.name, field.name): field for field in held}
    added = [field for field in schema if field.name not in known]
    widened = [
        field
        for field in schema
        if field.name in known and not _same(known[field.name].type, field.type)
    ]
    optional = [
        column
        for column, field in known.items()
        if not field.nullable and (column not in schema.names or schema.field(column).nullable)
    ]
    properties = {k: v for k, v in metadata.items() if table.properties.get(k) != v}
    if not (renamed or added or widened or optional or properties):
        return table

    if table.current_snapshot() is not None:
        for field in added:
            if not field.nullable:
                raise SchemaError(
                    f"{name}: the new column {field.name} may not be required, because the rows "
                    "that are there have no value for it. Declare it nullable, or write the whole "
                    "table anew under another name."
                )
    with table.transaction() as transaction:
        if renamed or added or widened or optional:
            with transaction.update_schema() as update:
                for old, new in renamed.items():
                    update.rename_column(old, new)
        if added or widened or optional:
            with transaction.update_schema() as update:
                for column in optional:
                    update.make_column_optional(column)
                for field in added:
                    update.add_column(
                        field.name,
                        _iceberg_type(field),
                        doc=(field.metadata or {}).get(b"doc", b"").decode() or None,
                        required=False,
                    )
                for field in widened:
                    _widen(update, name, known[field.name].type, field)
        if properties:
            transaction.set_properties(properties)
    return table.refresh()


def _widen(update: object, table: str, held: pa.DataType, field: pa.Field) -> None:
    from pyiceberg.exceptions import ValidationError
    from pyiceberg.table.update.schema import UpdateSchema

    assert isinstance(update, UpdateSchema)
    try:
        update.update_column(field.name, _iceberg_type(field))
    except ValidationError as error:
        raise SchemaError(
            f"{table}.{field.name} is {held} and cannot become {field.type}: only int32 to int64 "
            "is a widening. Declare a new column, or keep the type and convert in the asset."
        ) from error


def _iceberg_type(field: pa.Field) -> object:
    import pyarrow as pa
    from pyiceberg.catalog import Catalog

    # Iceberg numbers the fields anew whatever ids these are given.
    return Catalog._convert_schema_if_needed(pa.schema([field])).fields[0].field_type  # noqa: SLF001


def _same(held: pa.DataType, declared: pa.DataType) -> bool:
    """Whether two Arrow types are one Iceberg type: large and small strings and lists are."""
    import pyarrow as pa

    if pa.types.is_large_string(held) or pa.types.is_string(held):
        return pa.types.is_string(declared)
    if pa.types.is_list(held) or pa.types.is_large_list(held):
        return pa.types.is_list(declared) and _same(held.value_type, declared.value_type)
    return held == declared
