"""Great Expectations, DuckDB and a loop anyone can read count the same broken rules."""

from __future__ import annotations

import math
import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flywheel.contract import expectations
from flywheel.contract.rules import (
    ContractError,
    Kind,
    Rule,
    Window,
    batch_rules,
    describe,
    row_rules,
)
from flywheel.contract.sql import audit_history, count_violations
from flywheel.dataset import Dataset, columns, optional, required

NOON = datetime(2013, 3, 10, 12, tzinfo=UTC)
MONDAY = date(2013, 3, 11)

MEASUREMENTS = Dataset(
    name="measurements",
    key=("station", "at"),
    partition_by="day",
    min_rows=3,
    freshness=timedelta(days=2),
    columns=columns(
        required("station", "string", "Where.", allowed=("JFK", "it's")),
        required("at", "timestamp", "When.", minimum="2013-03-10T12:00:00Z"),
        required("day", "date", "Day.", maximum="2013-03-12"),
        required("wind", "float64", "Speed.", minimum=-1.5, maximum=2),
        optional("gusts", "int32", "Count.", minimum=0, maximum=3),
        optional("code", "string", "Code.", pattern=r"[A-Z]\d+|x."),
        optional("big", "int64", "Big.", maximum=2**53 - 1),
        required("flag", "bool", "Flag."),
        required("tags", "list<string>", "Tags."),
    ),
)
WINDOW = Window(date(2013, 3, 11), date(2013, 3, 13))

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "station": st.sampled_from(["JFK", "it's", "LGA", ""]),
    "at": st.sampled_from([NOON - timedelta(microseconds=1), NOON, NOON + timedelta(days=1)]),
    "day": st.sampled_from([MONDAY + timedelta(days=n) for n in (-1, 0, 1, 2)]),
    "wind": st.sampled_from(
        [math.nan, math.inf, -math.inf, -1.5, math.nextafter(-1.5, -2), 0.0, 2.0, 2.5]
    ),
    "gusts": st.sampled_from([-1, 0, 3, 4]),
    "code": st.sampled_from(["A1", "a1", "A", "A1\n", "x1", "x\n", "xx1", "A1 ", "A٣", "", "\nA1"]),
    "big": st.sampled_from([2**53 - 1, 2**53, 2**53 + 1, 2**60, 0]),
    "flag": st.booleans(),
    "tags": st.lists(st.sampled_from(["a", "b"]), max_size=2),
}
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()}),
    max_size=12,
)


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    return MEASUREMENTS.conform(pa.Table.from_pylist(rows, schema=MEASUREMENTS.schema))


def absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def breaks(rule: Rule, value: Any) -> bool:
    """Whether one value breaks one rule, as a person would judge it."""
    if rule.kind is Kind.NOT_NULL:
        return absent(value)
    if absent(value):
        return False
    if rule.kind is Kind.ALLOWED:
        return value not in rule.allowed
    if rule.kind is Kind.PATTERN:
        return re.fullmatch(rule.pattern, value, re.ASCII) is None
    if rule.kind is Kind.WINDOW:
        return not rule.minimum <= value < rule.maximum
    below = rule.minimum is not None and value < rule.minimum
    return below or (rule.maximum is not None and value > rule.maximum)


def by_hand(rules: tuple[Rule, ...], rows: list[dict[str, Any]]) -> dict[str, int]:
    counts = {}
    for rule in rules:
        if rule.kind is Kind.UNIQUE:
            keys = [tuple(row[name] for name in rule.columns) for row in rows]
            seen = Counter(key for key in keys if not any(absent(v) for v in key))
            counts[rule.name] = sum(n for n in seen.values() if n > 1)
        elif not rule.table_level:
            counts[rule.name] = sum(breaks(rule, row[rule.columns[0]]) for row in rows)
    return {name: count for name, count in counts.items() if count}


def by_great_expectations(rules: tuple[Rule, ...], table: pa.Table) -> dict[str, int]:
    found = expectations.check(rules, table)
    assert [f.rule for f in found] == list(rules)
    stored = table.to_pylist()
    for finding in found:
        if finding.rule.kind is not Kind.UNIQUE:
            column = finding.rule.columns[0]
            guilty = [i for i, row in enumerate(stored) if breaks(finding.rule, row[column])]
            assert list(finding.positions) == guilty
    return {f.rule.name: len(f.positions) for f in found if not f.kept and not f.rule.table_level}


RULES = tuple(rule for rule in batch_rules(MEASUREMENTS, WINDOW) if not rule.table_level)


# A suite takes Great Expectations a quarter of a second: few examples, and no shrinking.
FEW = settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])


@FEW
@given(ROWS)
def test_three_ways_of_counting_agree(rows: list[dict[str, Any]]) -> None:
    table = table_of(rows)
    counted = by_hand(RULES, rows)
    in_sql = {v.rule.name: v.rows for v in count_violations(RULES, table)}
    assert in_sql == counted
    assert {v.rule.name: v.rows for v in count_violations(RULES, table.to_reader())} == counted
    assert by_great_expectations(RULES, table) == counted


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_sql_counts_like_a_loop(rows: list[dict[str, Any]]) -> None:
    counted = by_hand(row_rules(MEASUREMENTS), rows)
    assert {v.rule.name: v.rows for v in audit_history(MEASUREMENTS, table_of(rows))} == counted


@settings(FEW, max_examples=15)
@given(ROWS)
def test_rules_about_the_batch_are_counted_as_by_hand(rows: list[dict[str, Any]]) -> None:
    days = [row["day"] for row in rows if row["day"] is not None]
    fresh = bool(days) and max(days) >= WINDOW.end - timedelta(days=2)
    rules = tuple(rule for rule in batch_rules(MEASUREMENTS, WINDOW) if rule.table_level)
    found = {f.rule.kind: f.kept for f in expectations.check(rules, table_of(rows))}
    assert found[Kind.ROWS] == (len(rows) >= 3)
    assert found[Kind.FRESHNESS] == fresh


@pytest.mark.parametrize("dtype", ["int64", "date", "timestamp", "string"])
def test_a_key_of_one_column_is_unique_but_for_its_nulls(dtype: Any) -> None:
    values = {
        "int64": [1, 1, 2], "date": [MONDAY, MONDAY, date(2013, 1, 1)],
        "timestamp": [NOON, NOON, NOON + timedelta(1)], "string": ["a", "a", "b"],
    }[dtype]  # fmt: skip
    single = Dataset("single", (optional("k", dtype, "Key."),), key=("k",))
    table = single.conform(pa.table({"k": [*values, None, None]}))
    rules = row_rules(single)
    assert by_great_expectations(rules, table) == {"k: unique key": 2}
    assert [v.rows for v in count_violations(rules, table)] == [2]


def test_whole_numbers_that_differ_are_different_keys_even_beside_nulls() -> None:
    declared = Dataset("t", (optional("k", "int64", "K."),), ("k",))
    table = declared.conform(pa.table({"k": [2**53 + 1, 2**53, None]}))
    assert by_great_expectations(row_rules(declared), table) == {}


# --- fails closed ---


def test_a_rule_that_the_suite_lost_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import great_expectations as gx

    whole = gx.ExpectationSuite
    monkeypatch.setattr(gx, "ExpectationSuite", lambda name, expectations: whole(name))
    with pytest.raises(ContractError, match="took 0 of 1 rules.*station: not null"):
        expectations.check([Rule(Kind.NOT_NULL, ("station",))], table_of([]))


def test_two_rules_of_one_name_are_an_error() -> None:
    rule = Rule(Kind.NOT_NULL, ("station",))
    with pytest.raises(ContractError, match="station: not null"):
        expectations.check([rule, rule], table_of([]))


def test_an_exception_inside_great_expectations_is_an_error_and_no_result() -> None:
    wrong = Rule(Kind.RANGE, ("station",), minimum=1)
    row = {**dict.fromkeys(VALUES), "station": "JFK"}
    with pytest.raises(ContractError, match="station: range could not be checked"):
        expectations.check([wrong], table_of([row]))


def test_a_result_that_did_not_see_all_rows_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = expectations.frame_of
    monkeypatch.setattr(expectations, "frame_of", lambda r, t: Longer(whole(r, t)))
    row = {**dict.fromkeys(VALUES), "station": "JFK"}
    with pytest.raises(ContractError, match="1 of 2 rows seen"):
        expectations.check([Rule(Kind.NOT_NULL, ("station",))], table_of([row]))


def Longer(frame: Any) -> Any:  # noqa: N802 - a class made for one frame
    """The frame, which says that it has a row more."""
    import pandas as pd

    class LongerFrame(pd.DataFrame):
        def __len__(self) -> int:
            return super().__len__() + (getattr(self, "claims", 0))

    frame = LongerFrame(frame)
    object.__setattr__(frame, "claims", 1)
    return frame


def test_sql_refuses_rules_about_the_batch() -> None:
    with pytest.raises(ContractError, match="row count"):
        count_violations([Rule(Kind.ROWS, minimum=1)], table_of([]))


def test_a_contract_can_be_read_by_people() -> None:
    told = "; ".join(describe(MEASUREMENTS))
    for clause in (
        "one row per station, at", "6 columns are never null", "station one of JFK, it's",
        "wind >= -1.5", "wind <= 2", r"code matches [A-Z]\d+|x.", "at least 3 rows a batch",
        "at most 0.00% of a batch's rows",
    ):  # fmt: skip
        assert clause in told
