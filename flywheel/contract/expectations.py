"""Checks a batch with Great Expectations: a suite made from the rules, and rows by position.

It fails closed. Great Expectations ignores nulls, passes empty frames, drops expectations of a type
it does not know and reports its own exceptions as results; each of these is an error here.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from flywheel.contract.rules import ContractError, Kind, Rule, Window
from flywheel.dataset import Dataset

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from great_expectations import ExpectationSuite
    from great_expectations.core.batch_definition import BatchDefinition

# Positions of all bad rows. Asking for their keys as well costs 28 times this.
RESULT_FORMAT = {
    "result_format": "COMPLETE",
    "include_unexpected_rows": False,
    "return_unexpected_index_query": False,
}

# A context is not shared between threads.
_local = threading.local()


@dataclass(frozen=True)
class Finding:
    """What checking one rule found.

    Attributes:
        rule: The rule.
        kept: Whether it holds.
        positions: Rows that break it, ascending; empty for a rule about the batch.
        observed: What was measured, for a rule about the batch.
    """

    rule: Rule
    kept: bool
    positions: tuple[int, ...] = ()
    observed: Any = None


def check(rules: Sequence[Rule], table: pa.Table) -> list[Finding]:
    """Check a batch against rules, in their order.

    Args:
        rules: Rules about columns of the table.
        table: Conforming rows.

    Raises:
        ContractError: A rule could not be checked.
    """
    if not rules:
        return []
    frame = frame_of(rules, table)
    batch = _batch_definition().get_batch(batch_parameters={"dataframe": frame})
    with warnings.catch_warnings():
        # Groups in a pattern are there to group; pandas thinks that somebody wants their text.
        warnings.filterwarnings("ignore", message="This pattern is interpreted as a regular")
        validated = batch.validate(suite_of(rules), result_format=RESULT_FORMAT)
    results: dict[str, Any] = {}
    for result in validated.results:
        config: Any = result.expectation_config
        results[config.meta["rule"]] = result
    if len(results) != len(rules) or any(rule.name not in results for rule in rules):
        raise ContractError(
            f"Great Expectations checked {sorted(results)}, not {[rule.name for rule in rules]}"
        )
    return [_finding(rule, results[rule.name], len(frame)) for rule in rules]


def suite_of(rules: Sequence[Rule]) -> ExpectationSuite:
    """The rules as a suite, one expectation each.

    Raises:
        ContractError: The suite has lost a rule.
    """
    import great_expectations as gx

    suite = gx.ExpectationSuite(name="contract", expectations=[_expectation(r) for r in rules])
    if len(suite.expectations) != len(rules):
        raise ContractError(
            f"Great Expectations took {len(suite.expectations)} of {len(rules)} rules: are two of "
            f"{[rule.name for rule in rules]} the same?"
        )
    return suite


def suite_of_dataset(dataset: Dataset, window: Window | None = None) -> ExpectationSuite:
    """The suite of a dataset, to look at or to publish."""
    from flywheel.contract.rules import batch_rules

    return suite_of(batch_rules(dataset, window))


def frame_of(rules: Sequence[Rule], table: pa.Table) -> pd.DataFrame:
    """The columns that rules speak of, in types that pandas handles without Python objects.

    Strings become categories, instants naive UTC, whole numbers stay whole beside nulls. Of a
    column that is only asked for nulls, only those are handed over (as NaN).
    """
    import pandas as pd

    by_value = {c for r in rules if r.kind is not Kind.NOT_NULL for c in r.columns}
    names = dict.fromkeys(c for rule in rules for c in rule.columns)
    return pd.DataFrame(
        {
            name: _series(table.column(name)) if name in by_value else _nulls(table.column(name))
            for name in names
        },
        index=pd.RangeIndex(table.num_rows),
    )


def _series(values: pa.ChunkedArray) -> Any:
    import pyarrow as pa

    if pa.types.is_string(values.type):
        return values.dictionary_encode().to_pandas()
    if pa.types.is_timestamp(values.type):
        return values.cast(pa.timestamp(values.type.unit)).to_pandas()
    if pa.types.is_date(values.type):
        return values.cast(pa.timestamp("s")).to_pandas()
    if pa.types.is_integer(values.type) and values.null_count:
        return values.to_pandas(types_mapper={pa.int32(): _int64(), pa.int64(): _int64()}.get)
    return values.to_pandas()


def _int64() -> Any:
    import pandas as pd

    return pd.Int64Dtype()


def _nulls(values: pa.ChunkedArray) -> Any:
    import numpy as np
    import pyarrow as pa

    missing = values.is_null(nan_is_null=pa.types.is_floating(values.type)).to_numpy()
    return np.where(missing, np.nan, 0.0)


def _expectation(rule: Rule) -> Any:
    from great_expectations import expectations

    gxe: Any = expectations  # its names are public, but not exported in the eyes of type checkers
    column = rule.columns[0] if rule.columns else ""
    low, high = _naive(rule.minimum), _naive(rule.maximum)
    about: dict[str, Any] = {"meta": {"rule": rule.name}}
    match rule.kind:
        case Kind.NOT_NULL:
            return gxe.ExpectColumnValuesToNotBeNull(column=column, **about)
        case Kind.RANGE:
            return gxe.ExpectColumnValuesToBeBetween(
                column=column, min_value=low, max_value=high, **about
            )
        case Kind.WINDOW:
            return gxe.ExpectColumnValuesToBeBetween(
                column=column, min_value=low, max_value=high, strict_max=True, **about
            )
        case Kind.ALLOWED:
            return gxe.ExpectColumnValuesToBeInSet(
                column=column, value_set=list(rule.allowed), **about
            )
        case Kind.PATTERN:
            # Whole value, and \d and \w as in DuckDB.
            whole = rf"(?a)\A(?:{rule.pattern})\Z"
            return gxe.ExpectColumnValuesToMatchRegex(column=column, regex=whole, **about)
        case Kind.UNIQUE if len(rule.columns) == 1:
            return gxe.ExpectColumnValuesToBeUnique(column=column, **about)
        case Kind.UNIQUE:
            return gxe.ExpectCompoundColumnsToBeUnique(
                column_list=list(rule.columns), ignore_row_if="any_value_is_missing", **about
            )
        case Kind.ROWS:
            return gxe.ExpectTableRowCountToBeBetween(min_value=rule.minimum, **about)
        case Kind.FRESHNESS:
            return gxe.ExpectColumnMaxToBeBetween(column=column, min_value=low, **about)


def _naive(bound: Any) -> Any:
    """A bound as the frame has its values: dates at midnight, instants in UTC, both naive."""
    if isinstance(bound, datetime):
        return bound.astimezone(UTC).replace(tzinfo=None)
    return datetime(bound.year, bound.month, bound.day) if isinstance(bound, date) else bound  # noqa: DTZ001


def _finding(rule: Rule, result: Any, rows: int) -> Finding:
    """One result, if it is one.

    An exception is reported flat or, when a metric failed, by the metric's id.
    """
    raised = result.exception_info or {}
    for info in (raised, *(value for value in raised.values() if isinstance(value, dict))):
        if info.get("raised_exception"):
            raise ContractError(f"{rule.name} could not be checked: {info['exception_message']}")
    found = result.result
    if rule.table_level:
        if "observed_value" not in found:
            raise ContractError(f"{rule.name} could not be checked: nothing was measured")
        return Finding(rule, bool(result.success), observed=found["observed_value"])
    positions = found.get("unexpected_index_list")
    if found.get("element_count") != rows or (positions is None and not result.success):
        raise ContractError(
            f"{rule.name} could not be checked: {found.get('element_count')} of {rows} rows seen"
        )
    positions = tuple(sorted(int(position) for position in positions or ()))
    if bool(result.success) == bool(positions):
        raise ContractError(f"{rule.name}: success {result.success}, but bad rows {positions[:3]}")
    return Finding(rule, not positions, positions)


def _batch_definition() -> BatchDefinition:
    """A data frame source in a context that keeps nothing on disk; one per thread."""
    if not hasattr(_local, "batch"):
        import great_expectations as gx

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}  # pyright: ignore[reportAttributeAccessIssue]
        asset = context.data_sources.add_pandas("batches").add_dataframe_asset("batch")
        _local.batch = asset.add_batch_definition_whole_dataframe("whole")
    return _local.batch
