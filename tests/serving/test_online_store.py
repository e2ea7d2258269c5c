"""The lean reader answers what Feast's own SDK answers, and fails only for real failures."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flywheel_serving.feast_codec import CodecError, EntityKeyEncoder, decode_value
from flywheel_serving.features import Row
from flywheel_serving.manifest import FeatureView, JoinKey, Manifest
from flywheel_serving.online_store import KeyedView, OnlineStoreError
from flywheel_serving.sqlite_store import SqliteOnlineStore, event_seconds

if TYPE_CHECKING:
    from feast import FeatureStore

PROJECT = "flywheel"
WHEN = datetime(2013, 5, 4, 14, 3, 27, tzinfo=UTC)
EVENT, CREATED = "event_timestamp", "created"


def write(store: FeatureStore, view: str, rows: list[dict[str, Any]]) -> None:
    """Write rows through Feast, as materialization does; None becomes Feast's null."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    frame[EVENT] = pd.to_datetime(frame[EVENT], utc=True)
    store.write_to_online_store(view, frame)


def feast_answer(store: FeatureStore, view: FeatureView, key: dict[str, Any]) -> dict[str, Any]:
    """What the SDK reads."""
    features = [f"{view.name}:{feature.name}" for feature in view.features]
    answer = store.get_online_features(features=features, entity_rows=[key]).to_dict()
    return {feature.name: answer[feature.name][0] for feature in view.features}


def read(reader: SqliteOnlineStore, view: FeatureView, *keys: object) -> Row | None:
    """One row; SQLite answers without waiting for anything."""
    lookup = KeyedView(view).lookup(keys)
    return asyncio.run(reader.read(PROJECT, [lookup]))[0] if lookup else None


def our_answer(path: Path, view: FeatureView, key: dict[str, Any]) -> Row | None:
    """What the lean reader reads."""
    reader = SqliteOnlineStore(path)
    try:
        return read(reader, view, *(key[item.name] for item in view.join_keys))
    finally:
        reader.close()


ROWS = [
    {
        "carrier": "AA",
        "delay_mean": 3.25,
        "tempo": 0.1,
        "flights": 12,
        "strike": True,
        "tier": "flag",
    },
    {
        "carrier": "",
        "delay_mean": -1e300,
        "tempo": -0.0,
        "flights": -1,
        "strike": False,
        "tier": "",
    },
    {
        "carrier": "Ünïcode ✈",
        "delay_mean": 0.0,
        "tempo": 1e-30,
        "flights": 2**62,
        "strike": True,
        "tier": "日本",
    },
    {
        "carrier": "x" * 200,
        "delay_mean": 1e-300,
        "tempo": 3e38,
        "flights": -(2**63),
        "strike": False,
        "tier": "y" * 300,
    },
]


def test_every_type_equals_feast(
    feast_store: FeatureStore, online_path: Path, manifest: Manifest
) -> None:
    view = manifest.view("carrier_stats")
    write(feast_store, view.name, [row | {EVENT: WHEN} for row in ROWS])
    for row in ROWS:
        key = {"carrier": row["carrier"]}
        found = our_answer(online_path, view, key)
        assert found is not None
        assert found.values == feast_answer(feast_store, view, key)
        assert found.event_timestamp == WHEN.timestamp()


def test_nulls_equal_feast(
    feast_store: FeatureStore, online_path: Path, manifest: Manifest
) -> None:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    view = manifest.view("carrier_stats")
    values = {feature.name: Value() for feature in view.features} | {"tempo": Value(float_val=2.5)}
    key = EntityKey(join_keys=["carrier"], entity_values=[Value(string_val="nulls")])
    feast_view = feast_store.get_feature_view(view.name)
    provider = feast_store._get_provider()
    provider.online_write_batch(
        feast_store.config, feast_view, [(key, values, WHEN, None)], progress=None
    )
    found = our_answer(online_path, view, {"carrier": "nulls"})
    assert found is not None
    assert found.values == feast_answer(feast_store, view, {"carrier": "nulls"})
    assert found.values["delay_mean"] is None
    assert found.values["tempo"] == 2.5


def test_composite_keys_equal_feast_in_any_order(
    feast_store: FeatureStore, online_path: Path, manifest: Manifest
) -> None:
    view = manifest.view("route_stats")
    rows = [
        {"origin": origin, "band": band, "route_mean": band + len(origin) / 8, EVENT: WHEN}
        for origin in ("JFK", "EWR", "")
        for band in (-(2**63), -1, 0, 3, 2**63 - 1)
    ]
    write(feast_store, view.name, rows)
    for row in rows:
        key = {"origin": row["origin"], "band": row["band"]}
        found = our_answer(online_path, view, key)
        assert found is not None
        assert found.values == feast_answer(feast_store, view, key)


@settings(max_examples=200, deadline=None)
@given(origin=st.text(max_size=40), band=st.integers(-(2**63), 2**63 - 1), name=st.text(max_size=9))
def test_entity_keys_equal_feasts_bytes(origin: str, band: int, name: str) -> None:
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    keys = [JoinKey(name="origin", dtype="string"), JoinKey(name=f"b{name}", dtype="int64")]
    expected = serialize_entity_key(
        EntityKey(
            join_keys=[key.name for key in keys],
            entity_values=[Value(string_val=origin), Value(int64_val=band)],
        ),
        entity_key_serialization_version=3,
    )
    assert EntityKeyEncoder(keys).encode([origin, band]) == expected


scalars = st.one_of(
    st.builds(lambda v: ("string_val", v), st.text(max_size=200)),
    st.builds(lambda v: ("int64_val", v), st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda v: ("int32_val", v), st.integers(-(2**31), 2**31 - 1)),
    st.builds(lambda v: ("double_val", v), st.floats()),
    st.builds(lambda v: ("float_val", v), st.floats(width=32)),
    st.builds(lambda v: ("bool_val", v), st.booleans()),
)


@settings(max_examples=300, deadline=None)
@given(scalar=scalars)
def test_values_equal_protobufs_bytes(scalar: tuple[str, Any]) -> None:
    from feast.protos.feast.types.Value_pb2 import Null, Value

    kind, value = scalar
    decoded = decode_value(Value(**{kind: value}).SerializeToString())
    assert type(decoded) is type(value)
    assert decoded == value or (math.isnan(value) and math.isnan(float(decoded or 0)))
    assert decode_value(Value().SerializeToString()) is None
    assert decode_value(Value(null_val=Null.NULL).SerializeToString()) is None


@settings(max_examples=200, deadline=None)
@given(data=st.binary(min_size=1, max_size=20))
def test_damaged_values_raise_nothing_but_codec_errors(data: bytes) -> None:
    try:
        decode_value(data)
    except CodecError as error:
        assert str(error)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(keys=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4, unique=True))
def test_any_key_written_by_feast_is_found(
    feast_store: FeatureStore, online_path: Path, manifest: Manifest, keys: list[str]
) -> None:
    view = manifest.view("carrier_stats")
    written = [ROWS[0] | {"carrier": key, "flights": n, EVENT: WHEN} for n, key in enumerate(keys)]
    write(feast_store, view.name, written)
    for index, key in enumerate(keys):
        found = our_answer(online_path, view, {"carrier": key})
        assert found is not None
        assert found.values["flights"] == index


def test_an_unknown_key_has_no_row(online_path: Path, manifest: Manifest) -> None:
    assert our_answer(online_path, manifest.view("carrier_stats"), {"carrier": "never"}) is None


def test_a_null_key_has_no_row(online_path: Path, manifest: Manifest) -> None:
    key = {"origin": "JFK", "band": None}
    assert our_answer(online_path, manifest.view("route_stats"), key) is None


def test_a_key_of_the_wrong_type_is_an_error(online_path: Path, manifest: Manifest) -> None:
    with pytest.raises(CodecError, match="'carrier' must be a string"):
        our_answer(online_path, manifest.view("carrier_stats"), {"carrier": 5})


def test_a_file_or_table_that_does_not_exist_yet_has_no_rows(
    tmp_path: Path, manifest: Manifest
) -> None:
    path = tmp_path / "online.db"
    view = manifest.view("carrier_stats")
    assert our_answer(path, view, {"carrier": "AA"}) is None
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    assert our_answer(path, view, {"carrier": "AA"}) is None


def test_a_damaged_file_is_an_error(tmp_path: Path, manifest: Manifest) -> None:
    path = tmp_path / "online.db"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(OnlineStoreError, match="cannot be read"):
        our_answer(path, manifest.view("carrier_stats"), {"carrier": "AA"})


def make_table(path: Path) -> sqlite3.Connection:
    """A table in Feast's layout with one row, for tests of SQLite's own behaviour."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(
        "CREATE TABLE flywheel_carrier_stats (entity_key BLOB, feature_name TEXT, value BLOB, "
        "event_ts timestamp, PRIMARY KEY(entity_key, feature_name))"
    )
    key = EntityKeyEncoder([JoinKey(name="carrier", dtype="string")]).encode(["AA"])
    connection.execute(
        "INSERT INTO flywheel_carrier_stats VALUES (?, 'flights', ?, ?)",
        (key, b"\x20\x07", int(WHEN.timestamp())),
    )
    return connection


def test_a_reader_sees_each_commit_of_a_wal_writer(tmp_path: Path, manifest: Manifest) -> None:
    path = tmp_path / "online.db"
    writer = make_table(path)
    view = manifest.view("carrier_stats")
    reader = SqliteOnlineStore(path)
    assert read(reader, view, "AA") == Row({"flights": 7}, WHEN.timestamp())
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE flywheel_carrier_stats SET value = ?", (b"\x20\x08",))
    assert read(reader, view, "AA") == Row({"flights": 7}, WHEN.timestamp())
    writer.execute("COMMIT")
    assert read(reader, view, "AA") == Row({"flights": 8}, WHEN.timestamp())
    writer.close()
    reader.close()
    assert our_answer(path, view, {"carrier": "AA"}) == Row({"flights": 8}, WHEN.timestamp())


def test_a_lock_that_stays_is_an_error_not_a_missing_row(
    tmp_path: Path, manifest: Manifest
) -> None:
    path = tmp_path / "online.db"
    writer = make_table(path)
    writer.execute("PRAGMA journal_mode=DELETE")
    writer.execute("BEGIN EXCLUSIVE")
    reader = SqliteOnlineStore(path, busy_seconds=0.05)
    with pytest.raises(OnlineStoreError, match="locked"):
        read(reader, manifest.view("carrier_stats"), "AA")
    writer.execute("ROLLBACK")
    assert read(reader, manifest.view("carrier_stats"), "AA") is not None


def test_a_replaced_file_is_noticed(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flywheel_serving.sqlite_store._REPLACED_CHECK_SECONDS", 0.0)
    path = tmp_path / "online.db"
    make_table(path).close()
    view = manifest.view("carrier_stats")
    reader = SqliteOnlineStore(path)
    assert read(reader, view, "AA") is not None
    path.unlink()
    assert read(reader, view, "AA") is None
    make_table(path).close()
    assert read(reader, view, "AA") is not None


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """The process's time zone, restored afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize("month", [1, 4, 7, 10])
def test_event_times_survive_feasts_local_time_on_any_host(month: int) -> None:
    from feast.infra.online_stores.sqlite import adapt_datetime_epoch
    from feast.utils import to_naive_utc

    moment = WHEN.replace(month=month)
    assert event_seconds(adapt_datetime_epoch(to_naive_utc(moment))) == moment.timestamp()


def test_event_times_may_be_naive_utc_text() -> None:
    assert event_seconds("2013-05-04 14:03:27") == WHEN.timestamp()
    with pytest.raises(OnlineStoreError, match="is no time"):
        event_seconds(None)
