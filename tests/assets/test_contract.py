"""What a run does with bad rows: it keeps them, and writes only what its contract allows."""

# No `from __future__ import annotations` here: Dagster reads annotations of definitions in a test.
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from assets import authoring
from assets.catalog import column_schema, quarantine_specs
from flywheel.calendar import Calendar
from flywheel.dataset import Dataset, columns, optional, required
from resources.io_manager import IcebergIOManager
from resources.lakehouse import Lakehouse

YEAR = Calendar(date(2024, 1, 1), "America/New_York")
SALES = Dataset(
    name="sales",
    key=("day", "item"),
    partition_by="day",
    tolerance=0.4,
    columns=columns(
        required("day", "date", "Day."),
        required("item", "string", "Item.", allowed=("a", "b", "c", "d")),
        optional("price", "float64", "Price.", minimum=0, maximum=254),
        optional("buyer", "string", "Who.", pattern="[A-Z]+", classification="pii"),
    ),
)
TABLE, QUARANTINE = "shop.sales", "shop.sales__quarantine"
MONDAY, TUESDAY = date(2024, 1, 29), date(2024, 1, 30)


@dataclass
class Shop:
    """A dataset whose source a test can change, and a lakehouse for it."""

    lakehouse: Lakehouse
    instance: dg.DagsterInstance
    declared: Dataset
    rows: list[dict[str, Any]]

    def asset(self) -> dg.AssetsDefinition:
        def sales(context: authoring.AssetContext) -> pa.Table:
            start, end = context.dates
            schema = self.declared.schema
            mine = [row for row in self.rows if row.get("stray") or start <= row["day"] < end]
            return pa.Table.from_pylist(
                [{name: row.get(name) for name in schema.names} for row in mine], schema=schema
            )

        sales.__module__ = "assets.shop.sales"
        return authoring.dataset(self.declared, calendar=YEAR, owner="team:shop")(sales)

    def run(self, first: date, last: date | None = None) -> dg.ExecuteInProcessResult:
        tags = {
            "dagster/asset_partition_range_start": first.isoformat(),
            "dagster/asset_partition_range_end": (last or first).isoformat(),
        }
        return dg.materialize(
            [self.asset()],
            resources={
                "io_manager": IcebergIOManager(lakehouse=self.lakehouse),
                "lakehouse": self.lakehouse,
            },
            instance=self.instance,
            tags=tags,
            raise_on_error=False,
        )

    def items(self, table: str) -> list[str]:
        return self.lakehouse.read(table).column("item").to_pylist()

    def told(self) -> list[dg.AssetMaterialization]:
        """Events of the quarantine, newest first."""
        key = dg.AssetKey(["shop", "sales__quarantine"])
        records = self.instance.fetch_materializations(key, limit=10).records
        return [record.asset_materialization for record in records if record.asset_materialization]


def sale(day: date, item: str, price: float | None = 1.0, **more: Any) -> dict[str, Any]:
    return {"day": day, "item": item, "price": price, "buyer": "X", **more}


GOOD = [sale(MONDAY, item) for item in "abc"]
BAD = sale(MONDAY, "d", 1048.36058, buyer="SECRET")


@pytest.fixture
def shop(lakehouse: Lakehouse) -> Shop:
    return Shop(lakehouse, dg.DagsterInstance.ephemeral(), SALES, [*GOOD, BAD])


def check_of(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    (event,) = result.get_step_failure_events()
    data: Any = event.event_specific_data
    return str(data.user_failure_data.description)


def test_within_the_tolerance_good_rows_are_written_and_bad_ones_kept(shop: Shop) -> None:
    result = shop.run(MONDAY)
    assert result.success
    assert shop.items(TABLE) == ["a", "b", "c"]
    (kept,) = shop.lakehouse.read(QUARANTINE).to_pylist()
    assert {name: kept[name] for name in SALES.schema.names} == BAD
    assert kept["quarantine_reason"] == ["price: 1048.36 is above 254"]
    assert (kept["quarantine_batch"], kept["quarantine_run"]) == (MONDAY, result.run_id)


def test_the_check_says_what_was_checked_and_what_was_put_aside(shop: Shop) -> None:
    check = check_of(shop.run(MONDAY))
    assert check.passed
    told = {name: value.value for name, value in check.metadata.items()}
    assert told.pop("great_expectations").startswith("1.24")
    assert told == {
        "rules checked": 7, "rows": 4, "rows quarantined": 1, "quarantine": QUARANTINE,
        "price: range": 1,
    }  # fmt: skip


def test_beyond_the_tolerance_the_table_stays_as_it_was_and_no_bad_row_is_lost(shop: Shop) -> None:
    shop.rows = GOOD
    assert shop.run(MONDAY).success
    before = shop.lakehouse.current_snapshot(TABLE)
    shop.rows = [GOOD[0], BAD, sale(MONDAY, "c", -1.0)]
    result = shop.run(MONDAY)
    assert not result.success
    assert not check_of(result).passed
    assert shop.lakehouse.current_snapshot(TABLE) == before
    assert shop.items(QUARANTINE) == ["c", "d"]
    message = failure_of(result)
    for what in ("shop.sales breaks its contract", "price: range: 2 rows", "66.67%", QUARANTINE):
        assert what in message


def test_no_quarantine_is_made_before_the_first_bad_row(shop: Shop) -> None:
    shop.rows = GOOD
    assert shop.run(MONDAY).success
    assert not shop.lakehouse.exists(QUARANTINE)
    assert shop.told() == []


def test_the_same_bad_rows_again_change_nothing(shop: Shop) -> None:
    shop.run(MONDAY)
    before = shop.lakehouse.current_snapshot(QUARANTINE)
    shop.run(MONDAY)
    assert shop.lakehouse.current_snapshot(QUARANTINE) == before
    assert len(shop.told()) == 1


def test_a_corrected_batch_empties_its_part_of_the_quarantine(shop: Shop) -> None:
    tuesday = [sale(TUESDAY, item) for item in "abc"]
    shop.rows = [*GOOD, BAD, *tuesday, sale(TUESDAY, "d", -3.0)]
    assert shop.run(MONDAY, TUESDAY).success
    assert shop.lakehouse.read(QUARANTINE).num_rows == 2
    shop.rows = [*GOOD, BAD | {"price": 2.0}]
    assert shop.run(MONDAY).success
    assert shop.items(TABLE).count("d") == 1
    (left,) = shop.lakehouse.read(QUARANTINE).to_pylist()
    assert left["quarantine_batch"] == TUESDAY
    assert [event.partition for event in shop.told()] == [MONDAY.isoformat(), None]
    assert shop.told()[0].metadata["rows of this batch"].value == 0


def test_the_event_shows_counts_and_a_sample_without_classified_values(shop: Shop) -> None:
    shop.rows = [*GOOD, BAD | {"buyer": "secret"}]
    shop.run(MONDAY)
    (event,) = shop.told()
    assert event.partition == MONDAY.isoformat()
    told = {name: value.value for name, value in event.metadata.items()}
    assert told["price: range"] == told["buyer: pattern"] == told["dagster/row_count"] == 1
    assert "1048.36 is above 254" in told["sample"]
    assert "secret" not in told["sample"]


def test_a_row_of_another_day_is_put_aside_and_not_written(shop: Shop) -> None:
    shop.rows = [*GOOD, sale(TUESDAY, "a", stray=True)]
    assert shop.run(MONDAY).success
    assert set(shop.lakehouse.read(TABLE).column("day").to_pylist()) == {MONDAY}
    (kept,) = shop.lakehouse.read(QUARANTINE).to_pylist()
    assert (kept["day"], kept["quarantine_batch"]) == (TUESDAY, MONDAY)


def test_too_few_rows_fail_the_run_although_every_row_is_good(shop: Shop) -> None:
    shop.declared, shop.rows = replace(SALES, min_rows=5), GOOD
    result = shop.run(MONDAY)
    assert "row count: 3 rows, at least 5 are needed" in failure_of(result)
    assert not shop.lakehouse.exists(TABLE)


def test_the_catalog_shows_the_rules_before_anything_ran(shop: Shop) -> None:
    (spec,) = shop.asset().specs
    assert spec.metadata["dagster/column_schema"] == column_schema(SALES)
    by_name = {column.name: column for column in column_schema(SALES).columns}
    assert not by_name["item"].constraints.nullable
    assert by_name["item"].constraints.other == ["one of a, b, c, d"]
    assert by_name["price"].constraints.other == [">= 0", "<= 254"]
    assert by_name["buyer"].constraints.other == ["matches [A-Z]+", "pii"]


def test_every_dataset_has_its_quarantine_in_the_graph_and_nothing_else_has(shop: Shop) -> None:
    by_key: Callable[[dg.AssetSpec], str] = lambda spec: spec.key.to_user_string()  # noqa: E731
    (spec,) = quarantine_specs([shop.asset(), object()])
    assert by_key(spec) == "shop/sales__quarantine"
    assert [dep.asset_key.to_user_string() for dep in spec.deps] == ["shop/sales"]
    assert spec.group_name == "shop"
    assert spec.owners == ["team:shop"]


# --- audited against the whole history ---


@pytest.fixture
def ledger(shop: Shop) -> Shop:
    """A dataset whose key must be unique over all days, which no batch can know by itself."""
    shop.declared = replace(SALES, key=("item",), audit="history", tolerance=0.0)
    shop.rows = [sale(MONDAY, "a"), sale(MONDAY, "b"), sale(TUESDAY, "c")]
    return shop


def test_a_batch_that_breaks_the_history_is_not_published_and_can_be_looked_at(
    ledger: Shop,
) -> None:
    assert ledger.run(MONDAY).success
    ledger.rows = [*ledger.rows[:2], sale(TUESDAY, "b"), sale(TUESDAY, "d")]
    result = ledger.run(TUESDAY)
    assert not result.success
    assert "would break its contract with this batch" in failure_of(result)
    assert "unique" in failure_of(result)
    assert ledger.items(TABLE) == ["a", "b"]
    staged = ledger.lakehouse.read(TABLE, at=f"audit/{TUESDAY}")
    assert staged.column("item").to_pylist() == ["a", "b", "b", "d"]


def test_the_corrected_batch_is_published_and_its_branch_is_gone(ledger: Shop) -> None:
    assert ledger.run(MONDAY).success
    ledger.rows[2] = sale(TUESDAY, "a")
    assert not ledger.run(TUESDAY).success
    ledger.rows[2] = sale(TUESDAY, "c")
    assert ledger.run(TUESDAY).success
    assert ledger.items(TABLE) == ["a", "b", "c"]
    assert set(ledger.lakehouse.table(TABLE).refs()) == {"main"}


def test_a_day_that_did_not_change_keeps_its_data_version(shop: Shop) -> None:
    """A no-op re-ingest must leave nothing downstream stale, whatever was written since."""
    shop.rows = [*GOOD, *(sale(TUESDAY, item) for item in "ab")]

    def version(result: dg.ExecuteInProcessResult) -> str:
        (made,) = result.asset_materializations_for_node("shop__sales")
        assert made.tags is not None
        return made.tags["dagster/data_version"]

    first = version(shop.run(MONDAY))
    assert version(shop.run(TUESDAY)) != first
    again = shop.run(MONDAY)
    assert version(again) == first
    (made,) = again.asset_materializations_for_node("shop__sales")
    assert made.metadata["changed"].value is False
    shop.rows[0] = sale(MONDAY, "a", 2.0)
    assert version(shop.run(MONDAY)) != first
