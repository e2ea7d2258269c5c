"""What a training read is looked at table by table: rows, quarantines, lost days, broken rules."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pyarrow as pa
import pytest

from assets.lifecycle import inputs
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.quality import data_quality
from assets.lifecycle.training import pin_inputs
from flywheel.calendar import Calendar
from flywheel.contest import TableQuality
from flywheel.contract.quarantine import quarantine_rows
from flywheel.contract.validation import validate
from flywheel.dataset import Dataset, columns, required
from flywheel.features import FeatureView, join_keys, number
from flywheel.gates import AtLeast
from flywheel.model import DriftPolicy, ModelSpec, RequestField, Spine, view_inputs
from flywheel.trainers.tabular import TabularNetwork
from resources.lakehouse import Lakehouse

AS_OF = date(2013, 3, 15)
NEW_YORK = Calendar(date(2013, 1, 1), "America/New_York")

ORDERS = Dataset(
    name="orders",
    key=("order_id",),
    partition_by="ordered_on",
    columns=columns(
        required("order_id", "string", "Order."),
        required("ordered_on", "date", "Local day."),
        required("ordered_at", "timestamp", "When it was placed."),
        required("customer", "string", "Who placed it."),
        required("price", "float64", "In euros.", minimum=0.0),
        ("returned", "bool", "Came back."),
        ("settled_at", "timestamp", "When that was known."),
    ),
)
CUSTOMERS = FeatureView(
    name="customers",
    join_keys=join_keys("customer"),
    features=(number("orders_7d", "Orders."),),
    ttl=timedelta(days=7),
    description="What a customer did lately.",
    owner="team:orders",
)
SPEC = ModelSpec(
    name="returns",
    description="Comes back.",
    owner="team:orders",
    calendar=NEW_YORK,
    spine=Spine(
        dataset=ORDERS,
        entity_id="order_id",
        event_timestamp="ordered_at",
        label="returned",
        label_known_at="settled_at",
        request=(RequestField("order_id", "string"), RequestField("customer", "string")),
    ),
    views=(CUSTOMERS,),
    inputs=tuple(view_inputs(CUSTOMERS)),
    trainer=TabularNetwork(),
    gates=(AtLeast(),),
    drift=DriftPolicy(signals=()),
    training_days=14,
    holdout_days=7,
)
LIFE = Lifecycle("shop", SPEC)


def orders(days: range, price: float = 9.0, a_day: int = 10) -> pa.Table:
    """So many orders on each of these days of March, late in the local evening."""
    rows: list[dict[str, Any]] = []
    for day in (date(2013, 3, n) for n in days):
        evening = datetime.combine(day, time(23, 30), NEW_YORK.midnight(day).tzinfo)
        rows += [
            {
                "order_id": f"{day}-{n}-{price}", "ordered_on": day,
                "ordered_at": evening.astimezone(UTC), "customer": "ada", "price": price,
                "returned": None, "settled_at": None,
            }
            for n in range(a_day)
        ]  # fmt: skip
    return ORDERS.conform(pa.Table.from_pylist(rows, schema=ORDERS.schema))


def customers(table: pa.Table) -> pa.Table:
    """A feature row for each order."""
    when = table.column("ordered_at")
    names = pa.array([f"c{n}" for n in range(table.num_rows)])
    counts = pa.array([1.0] * table.num_rows)
    return CUSTOMERS.dataset.conform(
        pa.table(
            {
                "customer": names, "orders_7d": counts, "event_timestamp": when,
                "created_timestamp": when,
            }
        )
    )  # fmt: skip


def quarantine(lakehouse: Lakehouse, declared: Dataset, rows: pa.Table) -> None:
    """Put aside what of these rows breaks the contract, as a run of their days would."""
    bad = validate(declared, rows, with_window=False).quarantined
    put_aside = quarantine_rows(
        declared,
        bad,
        days=(date(2013, 2, 1), date(2013, 4, 1)),
        timezone=NEW_YORK.timezone,
        run="run",
        at=datetime(2013, 3, 20, tzinfo=UTC),
    )
    assert put_aside.num_rows == rows.num_rows
    lakehouse.write(f"shop.{declared.name}__quarantine", put_aside)


def train_on(lakehouse: Lakehouse, cases: pa.Table, features: pa.Table) -> None:
    """Write the tables, and pin them as a training does."""
    lakehouse.write("shop.orders", cases)
    lakehouse.write("shop.customers", features)
    pin_inputs(LIFE, AS_OF, lakehouse)
    training_set = inputs.training_set_table(SPEC).schema.empty_table()
    lakehouse.write("shop.returns_training_set", training_set)


@pytest.fixture
def trained(lakehouse: Lakehouse) -> Lakehouse:
    """A lakehouse whose training set of `AS_OF` has been made of the first three weeks of March."""
    rows = orders(range(1, 22))
    train_on(lakehouse, rows, customers(rows))
    return lakehouse


def looked_at(lakehouse: Lakehouse) -> tuple[TableQuality, TableQuality]:
    """Cases and feature view, as they are found."""
    found = data_quality(LIFE, AS_OF, lakehouse).tables
    assert [one.table for one in found] == ["shop.orders", "shop.customers"]
    return found[0], found[1]


def test_only_the_rows_of_the_training_window_count(trained: Lakehouse) -> None:
    sound = TableQuality("shop.orders", 140)
    assert looked_at(trained) == (sound, replace(sound, table="shop.customers"))


def test_rows_put_aside_within_the_window_count(trained: Lakehouse) -> None:
    quarantine(trained, ORDERS, orders(range(12, 18), price=-1.0, a_day=2))
    cases, view = looked_at(trained)
    assert cases == TableQuality("shop.orders", 140, quarantined=6)  # of 12, 13 and 14 March
    assert cases.share == 6 / 146
    assert view.quarantined == 0


def test_a_day_whose_batch_failed_is_lost_however_few_rows_were_bad(lakehouse: Lakehouse) -> None:
    rows = pa.concat_tables([orders(range(1, 9)), orders(range(10, 15))])
    train_on(lakehouse, rows, customers(rows))
    quarantine(lakehouse, ORDERS, orders(range(8, 10), price=-1.0, a_day=1))
    cases, _ = looked_at(lakehouse)
    assert (cases.rows, cases.quarantined, cases.lost_days) == (130, 2, 1)  # the 9th, not the 8th


def test_days_of_a_feature_view_are_local_days(trained: Lakehouse) -> None:
    late = customers(orders(range(1, 2), a_day=1)).to_pylist()  # 04:30 of the 2nd in UTC
    bad = pa.Table.from_pylist([row | {"customer": None} for row in late])
    quarantine(trained, CUSTOMERS.dataset, CUSTOMERS.dataset.conform(bad))
    _, view = looked_at(trained)
    assert (view.quarantined, view.lost_days) == (1, 0)


def test_what_the_training_read_is_judged_and_not_what_was_written_since(
    trained: Lakehouse,
) -> None:
    trained.write("shop.orders", orders(range(1, 3)))
    assert looked_at(trained)[0].rows == 140


def test_rows_that_break_the_contract_of_today_are_named_by_rule(lakehouse: Lakehouse) -> None:
    rows = pa.concat_tables([orders(range(1, 15)), orders(range(4, 6), price=-1.0, a_day=2)])
    train_on(lakehouse, rows, customers(rows))
    cases, view = looked_at(lakehouse)
    assert cases.broken == {"price: range": 4}
    assert view.broken == {}


def test_a_table_without_any_row_is_seen_to_be_empty(lakehouse: Lakehouse) -> None:
    train_on(lakehouse, orders(range(1, 15)), CUSTOMERS.dataset.schema.empty_table())
    assert looked_at(lakehouse)[1] == TableQuality("shop.customers", 0)
