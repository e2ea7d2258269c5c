"""Checks any number of rows with DuckDB, in one pass: whole histories, and a second opinion.

Rules about rows only: how many rows a batch should have had, or how fresh it was, can no longer be
asked of a history.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flywheel.contract.rules import ContractError, Kind, Rule, Violation, row_rules
from flywheel.dataset import Dataset

if TYPE_CHECKING:
    import pyarrow as pa


def audit_history(dataset: Dataset, rows: pa.Table | pa.RecordBatchReader) -> list[Violation]:
    """Count the rows of a whole history that break the contract as it is declared today.

    Args:
        dataset: The declaration.
        rows: Conforming rows. A reader is read once; only the keys are held in memory.

    Returns:
        The broken rules, in the order of the columns; an empty list if all is well.

    Example:
        >>> reader = lakehouse.scan("flights.weather").to_arrow_batch_reader()  # doctest: +SKIP
        >>> for violation in audit_history(WEATHER, reader):                    # doctest: +SKIP
        ...     print(violation)
        wind_speed: range: 1 rows
    """
    return count_violations(row_rules(dataset), rows)


def count_violations(
    rules: Sequence[Rule], rows: pa.Table | pa.RecordBatchReader
) -> list[Violation]:
    """Count the rows that break each rule about rows, and return the broken ones.

    Raises:
        ContractError: A rule is about the batch, or DuckDB cannot check it.
    """
    import duckdb

    if table_level := [rule.name for rule in rules if rule.table_level]:
        raise ContractError(f"{table_level} are about a batch, not about rows")
    if not rules:
        return []
    with duckdb.connect() as connection:
        connection.register("batch", rows)
        try:
            counts = connection.execute(query(rules, rows.schema)).fetchall()[0]
        except duckdb.Error as error:
            raise ContractError(f"{[rule.name for rule in rules]}: {error}") from error
    return [Violation(rule, int(count)) for rule, count in zip(rules, counts, strict=True) if count]


def query(rules: Sequence[Rule], schema: pa.Schema) -> str:
    """One `SELECT` over `batch` that has a count per rule, in their order.

    Rows are grouped by their key first, so that repeated keys are counted in the same pass.
    """
    key = next((rule.columns for rule in rules if rule.kind is Kind.UNIQUE), ())
    known = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in key)
    inner = [
        f"count(*) FILTER (WHERE {known}) AS n{i}"
        if rule.kind is Kind.UNIQUE
        else f"count(*) FILTER (WHERE {_broken(rule)}) AS n{i}"
        for i, rule in enumerate(rules)
    ]
    outer = [
        f"coalesce(sum(n{i}) FILTER (WHERE n{i} > 1), 0)"
        if rule.kind is Kind.UNIQUE
        else f"coalesce(sum(n{i}), 0)"
        for i, rule in enumerate(rules)
    ]
    values = ", ".join(
        _value(name, schema) for name in dict.fromkeys(c for rule in rules for c in rule.columns)
    )
    grouped = f" GROUP BY {', '.join(quoted(name) for name in key)}" if key else ""
    counted = f"SELECT {', '.join(inner)} FROM (SELECT {values} FROM batch){grouped}"  # noqa: S608
    return f"SELECT {', '.join(outer)} FROM ({counted})"  # noqa: S608 - escaped names and literals


def _value(name: str, schema: pa.Schema) -> str:
    """A column with NaN, which DuckDB holds to be the greatest number, as null."""
    import pyarrow as pa

    column = quoted(name)
    if pa.types.is_floating(schema.field(name).type):
        return f"CASE WHEN isnan({column}) THEN NULL ELSE {column} END AS {column}"
    return column


def _broken(rule: Rule) -> str:
    """The condition of a row that breaks a rule; null counts as false."""
    column = quoted(rule.columns[0])
    match rule.kind:
        case Kind.NOT_NULL:
            return f"{column} IS NULL"
        case Kind.ALLOWED:
            return f"{column} NOT IN ({', '.join(_literal(value) for value in rule.allowed)})"
        case Kind.PATTERN:
            return f"NOT regexp_full_match({column}, {_literal(rule.pattern)})"
        case Kind.RANGE | Kind.WINDOW:
            above = ">=" if rule.kind is Kind.WINDOW else ">"
            sides = [
                f"{column} {sign} {_literal(bound)}"
                for sign, bound in (("<", rule.minimum), (above, rule.maximum))
                if bound is not None
            ]
            return " OR ".join(sides)
        case _:
            raise ContractError(f"{rule.name} cannot be counted by row")


def quoted(column: str) -> str:
    """A column name as SQL quotes it."""
    return '"' + column.replace('"', '""') + '"'


def _literal(value: Any) -> str:
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ '{value.astimezone(UTC).isoformat()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, int | float):
        return repr(value)
    return f"DATE '{value.isoformat()}'"
