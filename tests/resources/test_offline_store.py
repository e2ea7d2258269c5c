"""The offline store reads what was known, from the snapshots it is told, however it is asked."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from flywheel.dataset import required
from flywheel.features import FeatureView, number
from resources import event_scan
from resources.feature_store import FeatureStore
from resources.lakehouse import Lakehouse, Window
from resources.pins import pinned, pins
from tests.resources.test_feature_store import (
    CUSTOMER_ROWS,
    CUSTOMERS,
    DOMAIN,
    HOUR,
    START,
    VIEWS,
    build,
    known,
    questions,
)

pytestmark = pytest.mark.slow

REFERENCES = [f"customers:{name}" for name in CUSTOMERS.feature_names]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    built = build(tmp_path_factory.mktemp("offline"))
    built.apply(DOMAIN, VIEWS)
    return built


def frame(zone: str = "UTC", unit: str = "ns") -> pd.DataFrame:
    asked = questions()
    times = pd.Series([q["event_timestamp"] for q in asked])
    return pd.DataFrame(
        {
            "customer": [q["customer"] for q in asked],
            "event_timestamp": times.dt.tz_convert(zone).dt.as_unit(unit),
        }
    )


def retrieve(
    store: FeatureStore, entity_df: Any, features: Any = REFERENCES, **options: Any
) -> Any:
    return store.store(DOMAIN).get_historical_features(
        entity_df=entity_df, features=features, **options
    )


def spent(rows: list[dict[str, Any]]) -> list[Any]:
    found = [known(rows, CUSTOMERS, question) for question in questions()]
    return [row["spent"] if row else None for row in found]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Auckland"])
@pytest.mark.parametrize("unit", ["ns", "us", "ms"])
def test_any_time_zone_and_unit_asks_the_same(store: FeatureStore, zone: str, unit: str) -> None:
    answer = retrieve(store, frame(zone, unit)).to_arrow()
    assert answer["spent"].to_pylist() == spent(CUSTOMER_ROWS)


def test_creation_counts_without_being_asked_for(store: FeatureStore) -> None:
    for asked_for in (True, False):
        job = retrieve(store, frame(), filter_by_created_timestamp=asked_for)
        assert job.to_arrow()["spent"].to_pylist() == spent(CUSTOMER_ROWS)


def test_rows_keep_their_order_and_their_own_columns(store: FeatureStore) -> None:
    entity_df = frame().assign(case=range(150))
    assert retrieve(store, entity_df).to_df()["case"].tolist() == list(range(150))


@pytest.mark.parametrize(
    ("entity_df", "message"),
    [
        (pd.DataFrame({"customer": ["a"]}), "no column 'event_timestamp'"),
        (
            pd.DataFrame({"customer": ["a"], "event_timestamp": [datetime(2024, 3, 9)]}),  # noqa: DTZ001
            "event_timestamp is timestamp.*time zone is required",
        ),
        (
            pd.DataFrame(
                {"customer": ["a", "b"], "event_timestamp": [pd.Timestamp(START), pd.NaT]}
            ),
            "event_timestamp holds 1 nulls",
        ),
        (
            pd.DataFrame({"customer": ["a"], "event_timestamp": [START], "spent": [1.0]}),
            "already have \\['spent'\\]",
        ),
    ],
)
def test_questions_that_cannot_be_answered_are_refused(
    store: FeatureStore, entity_df: pd.DataFrame, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        retrieve(store, entity_df).to_arrow()


def test_a_range_of_dates_is_refused(store: FeatureStore) -> None:
    with pytest.raises(TypeError, match="entity rows as a pandas frame"):
        retrieve(store, None, start_date=START, end_date=START + HOUR)


def test_the_empty_spine_gets_empty_features(store: FeatureStore) -> None:
    answer = retrieve(store, frame().head(0)).to_arrow()
    assert answer.num_rows == 0
    assert set(CUSTOMERS.feature_names) < set(answer.column_names)


# --- a few files at a time ---


@pytest.fixture
def by_day(tmp_path: Path) -> tuple[FeatureStore, Lakehouse]:
    """The same customers, written day after day: files of their own."""
    store = build(tmp_path)
    lakehouse = Lakehouse(catalog_uri=store.catalog_uri, warehouse=store.warehouse)
    lakehouse.catalog.drop_table(f"{DOMAIN}.customers")
    for day in range(2):
        start, end = START + day * 24 * HOUR, START + (day + 1) * 24 * HOUR
        rows = [row for row in CUSTOMER_ROWS if start <= row["event_timestamp"] < end]
        table = CUSTOMERS.dataset.conform(
            pa.Table.from_pylist(rows, schema=CUSTOMERS.dataset.schema)
        )
        lakehouse.write(f"{DOMAIN}.customers", table, Window("event_timestamp", start, end))
    store.apply(DOMAIN, VIEWS)
    return store, lakehouse


def test_files_are_read_one_after_the_other_and_once(
    by_day: tuple[FeatureStore, Lakehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = by_day
    monkeypatch.setattr(event_scan, "CHUNK_ROWS", 1)
    read: list[list[str]] = []
    one_read = event_scan.EventScan._read

    def watched(scan: Any, tasks: Any, *, whole: bool) -> pa.Table:
        read.append([task.file.file_path for task in tasks])
        return one_read(scan, tasks, whole=whole)

    monkeypatch.setattr(event_scan.EventScan, "_read", watched)
    assert retrieve(store, frame()).to_arrow()["spent"].to_pylist() == spent(CUSTOMER_ROWS)
    assert [len(files) for files in read] == [1, 1]
    assert read[0] != read[1]
    read.clear()
    early = frame().query("event_timestamp < '2024-03-09T12:00Z'")
    retrieve(store, early).to_arrow()
    assert len(read) == 1
    read.clear()
    # Past the time to live of the first day's rows, and before the second day's time.
    long_after = early.head(1).assign(event_timestamp=[pd.Timestamp(START + 400 * HOUR)])
    assert retrieve(store, long_after).to_arrow()["spent"].to_pylist() == [None]
    assert read == []


# --- pinned snapshots ---


def test_within_a_pin_a_table_stays_as_it_was(by_day: tuple[FeatureStore, Lakehouse]) -> None:
    store, lakehouse = by_day
    table = f"{DOMAIN}.customers"
    before = lakehouse.current_snapshot(table)
    first = retrieve(store, frame()).to_arrow()
    with pinned({table: before}):
        begun = retrieve(store, frame())
    changed = [{**row, "spent": -1.0} for row in CUSTOMER_ROWS]
    lakehouse.write(
        table,
        CUSTOMERS.dataset.conform(pa.Table.from_pylist(changed, schema=CUSTOMERS.dataset.schema)),
    )
    assert retrieve(store, frame()).to_arrow()["spent"].to_pylist() == spent(changed)
    with pinned({table: before}):
        assert retrieve(store, frame()).to_arrow().equals(first)
    assert begun.to_arrow().equals(first)
    with pinned({table: 0}):
        assert retrieve(store, frame()).to_arrow()["spent"].null_count == 150
    with pinned({table: 7}), pytest.raises(LookupError, match=r"shop\.customers has no snapshot 7"):
        retrieve(store, frame()).to_arrow()


def test_what_is_put_online_is_of_the_pinned_snapshot(
    by_day: tuple[FeatureStore, Lakehouse],
) -> None:
    store, _ = by_day
    view = store.store(DOMAIN).get_feature_view("customers")
    arguments = {
        "config": store.store(DOMAIN).config, "data_source": view.batch_source,
        "join_key_columns": ["customer"], "feature_name_columns": ["visits"],
        "timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp",
        "start_date": START, "end_date": START + 48 * HOUR,
    }  # fmt: skip
    from resources.offline_store import IcebergOfflineStore

    with pinned({f"{DOMAIN}.customers": 0}):
        latest = IcebergOfflineStore.pull_latest_from_table_or_query(**arguments)
        every = IcebergOfflineStore.pull_all_from_table_or_query(**arguments)
    assert latest.to_arrow().num_rows == every.to_arrow().num_rows == 0
    newest = IcebergOfflineStore.pull_latest_from_table_or_query(**arguments).to_arrow()
    assert sorted(newest["customer"].to_pylist()) == list("abcd")


def test_pins_inside_pins_add_up_and_end() -> None:
    with pinned({"a.b": 1, "a.c": 2}):
        with pinned({"a.b": 3}):
            assert pins() == {"a.b": 3, "a.c": 2}
        assert pins() == {"a.b": 1, "a.c": 2}
    assert pins() == {}


# --- on-demand feature views ---


def generosity(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "per_visit": [
            None if spent is None else spent / max(visits, 1) * rate
            for spent, visits, rate in zip(
                inputs["spent"], inputs["visits"], inputs["rate"], strict=True
            )
        ]
    }


@pytest.mark.parametrize("full_names", [False, True])
def test_on_demand_features_are_computed_from_what_was_known(
    store: FeatureStore, full_names: bool
) -> None:
    import feast
    from feast import types
    from feast.on_demand_feature_view import OnDemandFeatureView
    from feast.transformation.python_transformation import PythonTransformation

    shop = store.store(DOMAIN)
    transformation = PythonTransformation(generosity, "generosity")
    view = OnDemandFeatureView(
        name="generosity",
        sources=[
            shop.get_feature_view("customers"),
            feast.RequestSource(
                name="asked", schema=[feast.Field(name="rate", dtype=types.Float64)]
            ),
        ],
        schema=[feast.Field(name="per_visit", dtype=types.Float64)],
        feature_transformation=transformation,
        mode="python",
    )
    shop.apply([view])
    asked = frame().assign(rate=2.0)
    answer = retrieve(
        store, asked, ["generosity:per_visit"], full_feature_names=full_names
    ).to_arrow()
    rows = [known(CUSTOMER_ROWS, CUSTOMERS, question) for question in questions()]
    wanted = [row["spent"] / max(row["visits"], 1) * 2.0 if row else None for row in rows]
    name = "generosity__per_visit" if full_names else "per_visit"
    assert answer[name].to_pylist() == wanted


def test_a_null_among_whole_number_keys_does_not_blur_the_others(tmp_path: Path) -> None:
    """As doubles, keys beyond 2**53 would run into their neighbours."""
    big = 2**60
    view = FeatureView(
        name="accounts", join_keys=(required("account", "int64", "Account."),),
        features=(number("balance", "Balance."),), ttl=timedelta(days=1),
        description="An account.", owner="team:shop",
    )  # fmt: skip
    store = build(tmp_path)
    lakehouse = Lakehouse(catalog_uri=store.catalog_uri, warehouse=store.warehouse)
    rows = [
        {"account": big + n, "balance": float(n), "event_timestamp": START,
         "created_timestamp": START}
        for n in range(3)
    ]  # fmt: skip
    lakehouse.write(
        f"{DOMAIN}.accounts",
        view.dataset.conform(pa.Table.from_pylist(rows, schema=view.dataset.schema)),
    )
    spine = pa.table(
        {
            "account": pa.array([big + 1, None, big + 2], pa.int64()),
            "event_timestamp": pa.array([START] * 3, pa.timestamp("us", tz="UTC")),
        }
    )
    answer = store.historical(DOMAIN, [view], spine)
    assert answer["accounts__balance"].to_pylist() == [1.0, None, 2.0]
    assert answer.schema.field("account").type == pa.int64()


def test_asking_for_customers_of_no_row_at_all(store: FeatureStore) -> None:
    nobody = pd.DataFrame({"customer": ["nobody"], "event_timestamp": [pd.Timestamp(START)]})
    assert retrieve(store, nobody).to_arrow()["visits"].to_pylist() == [None]
