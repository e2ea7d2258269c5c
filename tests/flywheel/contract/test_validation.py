"""No row is lost: each is either clean or put aside with its reasons."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flywheel.contract.quarantine import batch_window, quarantine_rows
from flywheel.contract.rules import Window
from flywheel.contract.sql import audit_history
from flywheel.contract.validation import validate
from flywheel.dataset import Dataset, columns, optional, required

SALES = Dataset(
    name="sales",
    key=("item",),
    partition_by="sold_at",
    tolerance=0.5,
    columns=columns(
        required("item", "string", "Item.", pattern="[a-z]"),
        required("sold_at", "timestamp", "When."),
        required("price", "float64", "Price.", minimum=0.0, maximum=254.0),
        optional("colour", "string", "Colour.", allowed=("red", "blue")),
        optional("buyer", "string", "Who.", pattern="[A-Z]+", classification="pii"),
        ("tags", "list<string>", "Tags."),
    ),
)
NOON = datetime(2024, 3, 10, 12, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "item": "a", "sold_at": NOON, "price": 1.0, "colour": "red", "buyer": "X", "tags": ["t"],
}  # fmt: skip


def sales(*changes: dict[str, Any]) -> pa.Table:
    rows = [GOOD | change for change in changes]
    return SALES.conform(pa.Table.from_pylist(rows, schema=SALES.schema))


def reasons(*changes: dict[str, Any], window: Window | None = None) -> list[list[str]]:
    return validate(SALES, sales(*changes), window).quarantined.column(
        "quarantine_reason"
    ).to_pylist()  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"price": 1048.36058}, "price: 1048.36 is above 254"),
        ({"price": -0.5}, "price: -0.5 is below 0"),
        ({"price": None}, "price: is null"),
        ({"price": math.nan}, "price: is null"),
        ({"price": math.inf}, "price: inf is above 254"),
        ({"colour": "pink"}, "colour: 'pink' is not one of red, blue"),
        ({"item": "a\n"}, "item: 'a\\n' does not match [a-z]"),
        ({"buyer": "bob"}, "buyer: the value does not match [A-Z]+"),
    ],
)
def test_a_bad_row_says_which_rule_it_breaks(change: dict[str, Any], reason: str) -> None:
    assert reasons(change) == [[reason]]


def test_a_row_that_breaks_several_rules_says_all_of_them_once() -> None:
    assert reasons({"price": 999.0, "colour": "pink"}) == [
        ["price: 999 is above 254", "colour: 'pink' is not one of red, blue"]
    ]


def test_nulls_and_nan_where_they_are_allowed_are_well() -> None:
    assert reasons({"colour": None, "buyer": None, "tags": None}) == []


def test_of_exact_copies_one_stays() -> None:
    validation = validate(SALES, sales({}, {}, {}, {"item": "b"}))
    assert validation.clean.column("item").to_pylist() == ["a", "b"]
    assert (
        validation.quarantined.column("quarantine_reason").to_pylist()
        == [["item: surplus copy of the same row"]] * 2
    )
    assert [(v.rule.name, v.rows) for v in validation.violations] == [("item: unique key", 2)]


def test_rows_of_one_key_that_contradict_each_other_all_go() -> None:
    validation = validate(SALES, sales({}, {}, {"price": 2.0}, {"item": "b"}))
    assert validation.clean.column("item").to_pylist() == ["b"]
    assert validation.quarantined.num_rows == 3
    assert validation.quarantined.column("quarantine_reason")[0].as_py() == [
        "item: key of 2 different rows"
    ]


def test_a_row_outside_of_its_batch_is_put_aside() -> None:
    window = Window(NOON, NOON + timedelta(hours=1))
    assert reasons({}, {"item": "b", "sold_at": NOON + timedelta(hours=1)}, window=window) == [
        ["sold_at: 2024-03-10T13:00:00+00:00 is outside of its batch"]
    ]


def test_a_batch_within_its_tolerance_does_not_fail() -> None:
    half = validate(SALES, sales({}, {"item": "b", "price": -1.0}))
    assert (half.share, half.failures) == (0.5, ())
    more = validate(SALES, sales({}, {"item": "b", "price": -1.0}, {"item": "c", "price": -1.0}))
    assert [str(failure) for failure in more.failures] == ["price: range: 2 rows"]
    assert more.clean.num_rows == 1


def test_without_tolerance_one_bad_row_fails_its_batch() -> None:
    strict = replace(SALES, tolerance=0.0)
    assert validate(strict, sales({}, {"item": "b", "price": -1.0})).failures
    assert validate(strict, sales({})).failures == ()


def test_too_few_rows_fail_a_batch_even_if_all_are_good() -> None:
    declared = replace(SALES, min_rows=3)
    failed = validate(declared, sales({}, {"item": "b"}))
    assert [str(f) for f in failed.failures] == ["row count: 2 rows, at least 3 are needed"]
    assert failed.clean.num_rows == 2


@pytest.mark.parametrize(("hours", "stale"), [(2, False), (3, True)])
def test_a_batch_whose_newest_row_is_too_old_fails(hours: int, stale: bool) -> None:
    declared = replace(SALES, freshness=timedelta(hours=2))
    window = Window(NOON - timedelta(hours=9), NOON + timedelta(hours=hours))
    failures = validate(declared, sales({}), window).failures
    assert bool(failures) == stale
    if stale:
        assert "sold_at: freshness: the newest is 2024-03-10 12:00:00" in str(failures[0])


def test_a_batch_without_rows_is_stale_only_if_freshness_is_promised() -> None:
    window = Window(NOON, NOON + timedelta(hours=1))
    assert validate(SALES, sales(), window).failures == ()
    failed = validate(replace(SALES, freshness=timedelta(hours=2)), sales(), window)
    assert "there is no row" in str(failed.failures[0])


PRICES = st.sampled_from([None, math.nan, -1.0, 0.0, 254.0, 255.0])
CHANGES = st.lists(
    st.fixed_dictionaries({
        "item": st.sampled_from(["a", "b", "c", "D", None]),
        "price": PRICES,
        "colour": st.sampled_from(["red", "pink", None]),
    }),
    max_size=8,
)  # fmt: skip


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(CHANGES)
def test_no_row_is_lost_and_what_is_left_keeps_the_contract(changes: list[dict[str, Any]]) -> None:
    table = sales(*changes)
    validation = validate(SALES, table)
    bare = validation.quarantined.drop_columns(["quarantine_reason"])
    both = [*validation.clean.to_pylist(), *bare.to_pylist()]
    assert sorted(map(repr, both)) == sorted(map(repr, table.to_pylist()))
    assert audit_history(SALES, validation.clean) == []
    assert all(validation.quarantined.column("quarantine_reason").to_pylist())


# --- rows of the quarantine ---

NEW_YORK = "America/New_York"


def put_aside(*changes: dict[str, Any], days: tuple[date, date] | None) -> list[dict[str, Any]]:
    quarantined = validate(SALES, sales(*({"price": -1.0} | c for c in changes))).quarantined
    return quarantine_rows(
        SALES, quarantined, days=days, timezone=NEW_YORK, run="r1", at=NOON
    ).to_pylist()  # fmt: skip


def test_a_row_is_kept_under_the_local_day_that_it_belongs_to() -> None:
    days = (date(2024, 3, 9), date(2024, 3, 11))
    evening = datetime(2024, 3, 10, 4, tzinfo=UTC)  # 23:00 on the 9th in New York
    kept = put_aside(
        {"item": "a"},
        {"item": "b", "sold_at": evening},
        {"item": "c", "sold_at": None},
        {"item": "d", "sold_at": NOON + timedelta(days=9)},
        days=days,
    )
    assert {row["item"]: row["quarantine_batch"].day for row in kept} == {
        "a": 10, "b": 9, "c": 9, "d": 9,
    }  # fmt: skip
    assert {(row["quarantine_run"], row["quarantined_at"]) for row in kept} == {("r1", NOON)}


def test_a_table_without_days_has_a_quarantine_without_days() -> None:
    assert put_aside({}, days=None)[0]["quarantine_batch"] is None


def test_a_window_is_counted_as_the_partition_column_counts() -> None:
    start, end = NOON, NOON + timedelta(days=1)
    by_day = Dataset("d", columns(required("day", "date", "Day.")), ("day",), partition_by="day")
    assert batch_window(SALES, start, end) == Window(start, end)
    assert batch_window(by_day, start, end) == Window(date(2024, 3, 10), date(2024, 3, 11))
    assert batch_window(replace(SALES, partition_by=None), start, end) is None
