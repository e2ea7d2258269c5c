"""Feast answers for the past what was known then, and puts online what the gateway reads."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flywheel.dataset import Column, required
from flywheel.features import FeatureView, join_keys, number
from flywheel_serving.features import Row
from flywheel_serving.online_store import BlockingReader, KeyedView
from resources.feature_store import FeatureStore, Materialized
from resources.lakehouse import Lakehouse
from resources.online_view import online_view
from tests.serving.redis_server import RedisServer

# Importing Feast alone takes fourteen CPU seconds.
pytestmark = pytest.mark.slow

DOMAIN = "shop"
START = datetime(2024, 3, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)

CUSTOMERS = FeatureView(
    name="customers",
    join_keys=join_keys("customer"),
    features=(
        number("spent", "Spent."),
        Column("visits", "int64", "Visits."),
        Column("tier", "string", "Tier."),
        Column("member", "bool", "Member."),
    ),
    ttl=timedelta(hours=8),
    description="A customer.",
    owner="team:shop",
)
SHELVES = FeatureView(
    name="shelves",
    join_keys=(required("aisle", "string", "Aisle."), required("level", "int64", "Level.")),
    features=(number("stock", "Stock."),),
    ttl=timedelta(days=30),
    description="A shelf.",
    owner="team:shop",
)
VIEWS = (CUSTOMERS, SHELVES)


def customer(name: str, event: int, created: int | None = None, **values: Any) -> dict[str, Any]:
    """A row that became true at an hour, and was known from another."""
    known = {"spent": float(event), "visits": event, "tier": f"t{event}", "member": event % 2 == 0}
    return {
        "customer": name,
        **(known | values),
        "event_timestamp": START + event * HOUR,
        "created_timestamp": START + (event if created is None else created) * HOUR,
    }


def shelf(aisle: str, level: int, event: int, stock: float) -> dict[str, Any]:
    moment = START + event * HOUR
    return {
        "aisle": aisle,
        "level": level,
        "stock": stock,
        "event_timestamp": moment,
        "created_timestamp": moment,
    }


def random_rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of both views: gaps, rows known late, two rows of one event."""
    chance = random.Random(7)
    customers = {}
    for _ in range(120):
        event = chance.randrange(48)
        created = event + chance.choice([0, 0, 1, 5, 12])
        row = customer(chance.choice("abcd"), event, created, spent=chance.random())
        customers[row["customer"], event, created] = row
    shelves = {}
    for _ in range(60):
        aisle, level, event = chance.choice("xy"), chance.randrange(2), chance.randrange(48)
        shelves[aisle, level, event] = shelf(aisle, level, event, chance.random())
    return list(customers.values()), list(shelves.values())


CUSTOMER_ROWS, SHELF_ROWS = random_rows()


def build(folder: Path, online: str = "") -> FeatureStore:
    """A feature store over a lakehouse that holds the rows."""
    lakehouse = Lakehouse(
        catalog_uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}/warehouse"
    )
    for view, rows in ((CUSTOMERS, CUSTOMER_ROWS), (SHELVES, SHELF_ROWS)):
        table = pa.Table.from_pylist(rows, schema=view.dataset.schema)
        lakehouse.write(f"{DOMAIN}.{view.name}", view.dataset.conform(table))
    return FeatureStore(
        registry=f"sqlite:///{folder}/registry.db",
        online_store=online or f"{folder}/online.db",
        catalog_uri=lakehouse.catalog_uri,
        warehouse=lakehouse.warehouse,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """For tests that read only."""
    return build(tmp_path_factory.mktemp("feast"))


def known(
    rows: list[dict[str, Any]], view: FeatureView, question: dict[str, Any]
) -> dict[str, Any] | None:
    """The row that was known to a question, found by looking at every row."""
    asked = question["event_timestamp"]
    usable = [
        row
        for row in rows
        if all(row[key] == question[key] for key in view.key_names)
        and row["event_timestamp"] <= asked
        and row["created_timestamp"] <= asked
        and asked - row["event_timestamp"] <= view.ttl
    ]
    newest = ("event_timestamp", "created_timestamp")
    return max(usable, key=lambda row: [row[n] for n in newest], default=None)


def questions() -> list[dict[str, Any]]:
    chance = random.Random(11)
    return [
        {
            "case": f"q{n}",
            "customer": chance.choice(["a", "b", "c", "d", "nobody", None]),
            "aisle": chance.choice(["x", "y"]),
            "level": chance.randrange(3),
            # Before the first row, between rows, exactly on them, and long after the last.
            "event_timestamp": START + chance.randrange(-4, 140) * timedelta(minutes=30),
        }
        for n in range(150)
    ]


SPINE = pa.schema(
    [
        ("case", "string"),
        ("customer", "string"),
        ("aisle", "string"),
        ("level", "int64"),
        ("event_timestamp", pa.timestamp("us", tz="UTC")),
    ]
)


def test_the_past_is_what_was_known_then(store: FeatureStore) -> None:
    asked = questions()
    joined = store.historical(DOMAIN, VIEWS, pa.Table.from_pylist(asked, schema=SPINE))
    answers = {answer["case"]: answer for answer in joined.to_pylist()}
    assert len(answers) == len(asked)
    missing = 0
    for question in asked:
        answer = answers[question["case"]]
        for view, rows in ((CUSTOMERS, CUSTOMER_ROWS), (SHELVES, SHELF_ROWS)):
            row = known(rows, view, question)
            missing += row is None
            for name in (*view.feature_names, "event_timestamp"):
                assert answer[f"{view.name}__{name}"] == (row[name] if row else None), question
    assert 20 < missing < 200


def ask(store: FeatureStore, name: str, hour: float) -> dict[str, Any]:
    spine = pa.Table.from_pylist(
        [{"customer": name, "event_timestamp": START + hour * HOUR}],
        schema=pa.schema([SPINE.field("customer"), SPINE.field("event_timestamp")]),
    )
    return store.historical(DOMAIN, [CUSTOMERS], spine).to_pylist()[0]


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """One customer, whose row of hour 2 was known at hour 6 only."""
    folder = tmp_path_factory.mktemp("late")
    store = build(folder)
    rows = [customer("e", 1), customer("e", 2, created=6)]
    table = pa.Table.from_pylist(rows, schema=CUSTOMERS.dataset.schema)
    lakehouse = Lakehouse(catalog_uri=store.catalog_uri, warehouse=store.warehouse)
    lakehouse.write(f"{DOMAIN}.customers", CUSTOMERS.dataset.conform(table))
    return store


def test_a_row_is_not_used_before_it_was_known(late: FeatureStore) -> None:
    assert ask(late, "e", 0.9)["customers__visits"] is None
    assert ask(late, "e", 5.9)["customers__visits"] == 1
    assert ask(late, "e", 6)["customers__visits"] == 2


def test_a_row_older_than_its_time_to_live_is_absent(late: FeatureStore) -> None:
    assert ask(late, "e", 10)["customers__visits"] == 2
    assert ask(late, "e", 10.1)["customers__visits"] is None


# --- online ---


def online(
    store: FeatureStore, view: FeatureView, *keys: object
) -> tuple[dict[str, Any], datetime]:
    """What the gateway reads for a key; fails if there is nothing."""
    row = read(store, view, *keys)
    assert row is not None
    return dict(row.values), datetime.fromtimestamp(row.event_timestamp, UTC)


def read(store: FeatureStore, view: FeatureView, *keys: object) -> Row | None:
    reader = BlockingReader(store.online_store)
    lookup = KeyedView(online_view(view)).lookup(keys)
    assert lookup is not None
    try:
        return reader.read(DOMAIN, [lookup])[0]
    finally:
        reader.close()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--requirepass", "0123")
    yield server
    server.kill()


@pytest.fixture(params=["sqlite", "redis"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureStore:
    """For tests that write online: an empty store, its views applied."""
    url = ""
    if request.param == "redis":
        if not shutil.which("redis-server"):
            pytest.skip("there is no redis-server")
        server: RedisServer = request.getfixturevalue("redis")
        server.kill()
        server.start()
        url = f"redis://:0123@127.0.0.1:{server.port}/2"
    store = build(tmp_path, url)
    store.apply(DOMAIN, VIEWS)
    return store


def test_materializing_puts_the_newest_row_of_each_key_online(fresh: FeatureStore) -> None:
    end = START + 24 * HOUR
    for view, rows in ((CUSTOMERS, CUSTOMER_ROWS), (SHELVES, SHELF_ROWS)):
        fresh.materialize(DOMAIN, view, START, end)
        for key in {tuple(row[name] for name in view.key_names) for row in rows}:
            newest = max(
                (
                    row
                    for row in rows
                    if tuple(row[name] for name in view.key_names) == key
                    and row["event_timestamp"] <= end
                ),
                key=lambda row: (row["event_timestamp"], row["created_timestamp"]),
            )
            values, event = online(fresh, view, *key)
            assert values == {name: newest[name] for name in view.feature_names}
            assert event == newest["event_timestamp"]
    assert read(fresh, CUSTOMERS, "nobody") is None


def test_pushed_rows_land_in_order_with_the_last_of_a_key_on_top(fresh: FeatureStore) -> None:
    fresh.push(DOMAIN, CUSTOMERS, [customer("z", 1), customer("y", 3), customer("z", 2)])
    assert online(fresh, CUSTOMERS, "z")[0]["visits"] == 2
    assert online(fresh, CUSTOMERS, "y")[0]["visits"] == 3
    fresh.push(DOMAIN, CUSTOMERS, [customer("z", 4, spent=None, tier=None, member=None)])
    values, event = online(fresh, CUSTOMERS, "z")
    assert values == {"spent": None, "visits": 4, "tier": None, "member": None}
    assert event == START + 4 * HOUR
    assert online(fresh, CUSTOMERS, "y")[0]["visits"] == 3


def test_pushing_under_a_key_of_several_columns_reaches_that_key_alone(fresh: FeatureStore) -> None:
    fresh.push(DOMAIN, SHELVES, [shelf("x", 1, 1, 0.5), shelf("x", 2, 1, 0.25)])
    assert online(fresh, SHELVES, "x", 1)[0] == {"stock": 0.5}
    assert online(fresh, SHELVES, "x", 2)[0] == {"stock": 0.25}
    assert read(fresh, SHELVES, "y", 1) is None


def test_pushing_nothing_is_no_error(fresh: FeatureStore) -> None:
    assert fresh.push(DOMAIN, CUSTOMERS, []) == 0


def test_pushing_never_lets_an_older_row_replace_a_newer_one(fresh: FeatureStore) -> None:
    assert fresh.push(DOMAIN, CUSTOMERS, [customer("z", 5), customer("z", 3)]) == 1
    assert fresh.push(DOMAIN, CUSTOMERS, [customer("z", 4)]) == 0
    assert online(fresh, CUSTOMERS, "z")[0]["visits"] == 5
    # The same event, known better later.
    assert fresh.push(DOMAIN, CUSTOMERS, [customer("z", 5, created=7, visits=50)]) == 1
    assert online(fresh, CUSTOMERS, "z")[0]["visits"] == 50


def test_a_row_without_its_key_is_refused(fresh: FeatureStore) -> None:
    with pytest.raises(ValueError, match="a row has no customer"):
        fresh.push(DOMAIN, CUSTOMERS, [customer("z", 1) | {"customer": None}])


def test_materializing_again_writes_nothing_and_repairs_what_is_wrong(fresh: FeatureStore) -> None:
    end = START + 48 * HOUR
    first = fresh.materialize(DOMAIN, CUSTOMERS, START, end)
    assert first.considered == first.written == 4
    newest = max(row["event_timestamp"] for row in CUSTOMER_ROWS)
    assert first.offline == first.online == newest
    assert fresh.materialize(DOMAIN, CUSTOMERS, START, end) == replace(first, written=0)
    right = online(fresh, CUSTOMERS, "a")
    hour = int((right[1] - START) / HOUR)
    fresh.push(DOMAIN, CUSTOMERS, [customer("a", hour, spent=-1.0)])
    assert online(fresh, CUSTOMERS, "a") != right
    assert fresh.materialize(DOMAIN, CUSTOMERS, START, end).written == 1
    assert online(fresh, CUSTOMERS, "a") == right


def test_materializing_leaves_a_newer_row_that_was_pushed(fresh: FeatureStore) -> None:
    fresh.push(DOMAIN, CUSTOMERS, [customer("a", 60)])
    done = fresh.materialize(DOMAIN, CUSTOMERS, START, START + 48 * HOUR)
    assert (done.considered, done.written) == (4, 3)
    assert done.online == START + 60 * HOUR
    assert online(fresh, CUSTOMERS, "a")[0]["visits"] == 60


def test_materializing_a_window_without_rows_is_no_error(fresh: FeatureStore) -> None:
    done = fresh.materialize(DOMAIN, CUSTOMERS, START - 9 * HOUR, START - HOUR)
    assert done == Materialized(considered=0, written=0, offline=None, online=None)


def test_feasts_own_push_reaches_the_gateways_reader(fresh: FeatureStore) -> None:
    import pandas as pd
    from feast.data_source import PushMode

    frame = pd.DataFrame([customer("pushed", 3)])
    fresh.store(DOMAIN).push("customers_push", frame, to=PushMode.ONLINE)
    assert online(fresh, CUSTOMERS, "pushed")[0]["visits"] == 3


def test_what_is_pushed_is_what_materializing_would_have_written(fresh: FeatureStore) -> None:
    """Serving, fed by events, and a rebuilt online store must not differ."""
    in_order = sorted(
        CUSTOMER_ROWS, key=lambda row: (row["event_timestamp"], row["created_timestamp"])
    )
    fresh.push(DOMAIN, CUSTOMERS, in_order)
    pushed = {name: online(fresh, CUSTOMERS, name) for name in "abcd"}
    fresh.materialize(DOMAIN, CUSTOMERS, START, START + 48 * HOUR)
    assert {name: online(fresh, CUSTOMERS, name) for name in "abcd"} == pushed
