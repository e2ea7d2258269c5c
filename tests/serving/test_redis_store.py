"""The lean Redis reader answers what Feast's own SDK answers, and says why when it cannot."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel_serving.feast_codec import CodecError, decode_timestamp
from flywheel_serving.features import Row
from flywheel_serving.manifest import FeatureView, JoinKey, ViewFeature
from flywheel_serving.online_store import BlockingReader, KeyedView, Lookup, OnlineStoreError
from flywheel_serving.redis_store import RedisOnlineStore
from flywheel_serving.resp import ReplyError, parse_address, parse_reply
from tests.serving.conftest import PROJECT, carrier_view, make_feast_store, route_view
from tests.serving.redis_server import RedisServer

if TYPE_CHECKING:
    from feast import FeatureStore

pytestmark = pytest.mark.skipif(not shutil.which("redis-server"), reason="there is no redis-server")

WHEN = datetime(2013, 5, 4, 14, 3, 27, 125000, tzinfo=UTC)
CARRIER, ROUTE = carrier_view(), route_view()
# A second view of the same entity: Feast keeps both in one hash.
TEMPO = FeatureView(
    name="carrier_tempo",
    join_keys=[JoinKey(name="carrier", dtype="string")],
    features=[ViewFeature(name="tempo", dtype="double")],
)
STATS = {"delay_mean": 3.25, "tempo": 0.5, "flights": 12, "strike": True, "tier": "flag"}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def feast_redis(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    online = {"type": "redis", "connection_string": f"127.0.0.1:{redis.port},db=0"}
    return make_feast_store(tmp_path_factory.mktemp("feast"), online, CARRIER, ROUTE, TEMPO)


def write(
    store: FeatureStore, view: FeatureView, *rows: dict[str, Any], when: datetime = WHEN
) -> None:
    """Write rows as Feast does; None becomes Feast's null."""
    from feast.infra.online_stores.helpers import get_online_store_from_config
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    kinds = {"double": "double", "float": "float", "int64": "int64", "bool": "bool"}

    def value(dtype: str, given: Any) -> Value:
        kind = kinds.get(dtype, "string")
        return Value() if given is None else Value(**{f"{kind}_val": given})

    data = [
        (
            EntityKey(
                join_keys=[k.name for k in view.join_keys],
                entity_values=[value(k.dtype, row[k.name]) for k in view.join_keys],
            ),
            {f.name: value(f.dtype, row[f.name]) for f in view.features},
            when,
            None,
        )
        for row in rows
    ]
    online = get_online_store_from_config(store.config.online_store)
    online.online_write_batch(store.config, store.get_feature_view(view.name), data, None)


def sdk_answer(store: FeatureStore, views: Sequence[FeatureView], key: dict[str, Any]) -> Any:
    """What the SDK reads, by view and feature."""
    features = [f"{view.name}:{feature.name}" for view in views for feature in view.features]
    answer = store.get_online_features(
        features=features, entity_rows=[key], full_feature_names=True
    ).to_dict()
    return {
        view.name: {f.name: answer[f"{view.name}__{f.name}"][0] for f in view.features}
        for view in views
    }


def lookups(*wanted: tuple[FeatureView, dict[str, Any]]) -> list[Lookup]:
    made = [
        KeyedView(view).lookup([key[part.name] for part in view.join_keys]) for view, key in wanted
    ]
    return [one for one in made if one is not None]


def our_answers(url: str, *wanted: tuple[FeatureView, dict[str, Any]]) -> list[Row | None]:
    async def run() -> list[Row | None]:
        store = RedisOnlineStore(url)
        try:
            return await store.read(PROJECT, lookups(*wanted))
        finally:
            store.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    "row",
    [
        STATS | {"carrier": "AA"},
        {"delay_mean": -1e300, "tempo": -0.0, "flights": -1, "strike": False, "tier": "",
         "carrier": ""},
        {"delay_mean": 0.0, "tempo": 2.5, "flights": 2**62, "strike": True, "tier": "日本",
         "carrier": "Ünïcode ✈"},
        {"delay_mean": 1e-300, "tempo": 0.0, "flights": -(2**63), "strike": False,
         "tier": "y\r\n" * 300, "carrier": "x\r\n$-1" * 40},
        dict.fromkeys(STATS, None) | {"carrier": "nulls"},
    ],
    ids=lambda row: repr(row["carrier"][:9]),
)  # fmt: skip
def test_every_type_and_null_equals_feast(
    redis: RedisServer, feast_redis: FeatureStore, row: dict[str, Any]
) -> None:
    write(feast_redis, CARRIER, row)
    key = {"carrier": row["carrier"]}
    (found,) = our_answers(redis.url, (CARRIER, key))
    assert found is not None
    assert found.values == sdk_answer(feast_redis, [CARRIER], key)[CARRIER.name]
    assert found.values == {name: row[name] for name in STATS}
    assert found.event_timestamp == WHEN.timestamp()


def test_views_that_share_an_entity_and_composite_keys_equal_feast_in_one_read(
    redis: RedisServer, feast_redis: FeatureStore
) -> None:
    write(feast_redis, CARRIER, STATS | {"carrier": "DL"})
    write(feast_redis, TEMPO, {"carrier": "DL", "tempo": 9.5}, when=WHEN - timedelta(hours=1))
    for band in (-(2**63), 0, 2**63 - 1):
        write(feast_redis, ROUTE, {"origin": "JFK", "band": band, "route_mean": band / 8})
        key = {"carrier": "DL", "origin": "JFK", "band": band}
        found = our_answers(redis.url, (CARRIER, key), (TEMPO, key), (ROUTE, key))
        expected = sdk_answer(feast_redis, [CARRIER, TEMPO, ROUTE], key)
        assert [row.values for row in found if row] == list(expected.values())
        assert [row.event_timestamp for row in found if row] == [
            WHEN.timestamp(), WHEN.timestamp() - 3600, WHEN.timestamp(),
        ]  # fmt: skip


def test_absent_rows_are_none_where_feast_answers_nulls(
    redis: RedisServer, feast_redis: FeatureStore
) -> None:
    write(feast_redis, CARRIER, STATS | {"carrier": "only stats"})
    unknown, half = {"carrier": "nobody"}, {"carrier": "only stats"}
    found = our_answers(redis.url, (CARRIER, unknown), (TEMPO, half), (CARRIER, half))
    assert [row is None for row in found] == [True, True, False]
    nulls = sdk_answer(feast_redis, [CARRIER], unknown)[CARRIER.name]
    assert set(nulls.values()) == {None}


def test_an_older_write_does_not_replace_a_newer_row(
    redis: RedisServer, feast_redis: FeatureStore
) -> None:
    write(feast_redis, TEMPO, {"carrier": "UA", "tempo": 2.0})
    write(feast_redis, TEMPO, {"carrier": "UA", "tempo": 1.0}, when=WHEN - timedelta(seconds=1))
    (found,) = our_answers(redis.url, (TEMPO, {"carrier": "UA"}))
    assert found == Row({"tempo": 2.0}, WHEN.timestamp())


def test_a_large_batch_keeps_its_order(redis: RedisServer, feast_redis: FeatureStore) -> None:
    names = [f"c{n}" for n in range(1300)]
    write(feast_redis, TEMPO, *({"carrier": c, "tempo": float(n)} for n, c in enumerate(names)))
    found = our_answers(redis.url, *((TEMPO, {"carrier": name}) for name in names))
    assert [row.values["tempo"] for row in found if row] == [float(n) for n in range(1300)]


def test_reads_under_way_together_get_their_own_answers(
    redis: RedisServer, feast_redis: FeatureStore
) -> None:
    write(feast_redis, TEMPO, *({"carrier": f"p{n}", "tempo": float(n)} for n in range(50)))

    async def run() -> list[list[Row | None]]:
        store = RedisOnlineStore(redis.url)
        reads = [
            asyncio.create_task(store.read(PROJECT, lookups((TEMPO, {"carrier": f"p{n}"}))))
            for n in range(50)
        ]
        await asyncio.sleep(0)
        reads[7].cancel()  # a client that went away leaves its answer in the pipe
        answers = await asyncio.gather(*reads, return_exceptions=True)
        assert isinstance(answers.pop(7), asyncio.CancelledError)
        store.close()
        return answers  # type: ignore[return-value]

    tempos = [rows[0].values["tempo"] for rows in asyncio.run(run()) if rows[0]]
    assert tempos == [float(n) for n in range(50) if n != 7]


def test_a_killed_redis_is_an_error_at_once_and_a_restarted_one_is_found_again(
    tmp_path: Path,
) -> None:
    server = RedisServer(tmp_path)
    wanted = lookups((TEMPO, {"carrier": "AA"}))

    async def run() -> None:
        store = RedisOnlineStore(server.url)
        assert await store.read(PROJECT, wanted) == [None]
        server.kill()
        for _ in range(3):
            start = time.monotonic()
            with pytest.raises(OnlineStoreError, match=r"127\.0\.0\.1.* cannot be read"):
                await store.read(PROJECT, wanted)
            assert time.monotonic() - start < 1
        server.start()
        await asyncio.sleep(0.3)
        assert await store.read(PROJECT, wanted) == [None]
        # Restarted between two requests: the connection is stale, and nobody notices.
        server.kill()
        server.start()
        assert await store.read(PROJECT, wanted) == [None]
        store.close()

    try:
        asyncio.run(run())
    finally:
        server.kill()


@pytest.fixture
def impostor() -> Iterator[Callable[[bytes], str]]:
    """Starts servers that answer whatever they are told to; gives their address."""
    listeners: list[socket.socket] = []

    def start(answer: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                peer.recv(65536)
                peer.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return f"redis://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "did not answer within 50 ms"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not Redis's protocol"),
        (b"*x\r\n", "not Redis's protocol"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "LOADING"),
        (b"$2\r\nhi\r\n", "carrier_tempo"),
        (b"*2\r\n$3\r\n\x12\x05a\r\n$2\r\n\x08\x01\r\n", "carrier_tempo.*text value .* cut short"),
        (b"*2\r\n$-1\r\n$3\r\nnow\r\n", "carrier_tempo.*no time"),
        (b"*2\r\n$-1\r\n$1\r\n\x08\r\n", "carrier_tempo.*cut short"),
    ],
)
def test_silence_and_nonsense_are_errors_that_say_so(
    impostor: Callable[[bytes], str], answer: bytes, reason: str
) -> None:
    with pytest.raises(OnlineStoreError, match=reason):
        our_answers(impostor(answer), (TEMPO, {"carrier": "AA"}))


def test_a_key_of_another_type_and_a_garbage_value_are_errors(
    redis: RedisServer, feast_redis: FeatureStore
) -> None:
    import mmh3
    import redis as client

    wanted = (TEMPO, {"carrier": "garbage"})
    write(feast_redis, TEMPO, {"carrier": "garbage", "tempo": 1.0})
    (lookup,) = lookups(wanted)
    key = lookup.key + PROJECT.encode()
    with client.Redis(port=redis.port) as raw:
        field = mmh3.hash("carrier_tempo:tempo", signed=False).to_bytes(4, "little")
        assert raw.hset(key, field, b"\x99garbage") == 0
        with pytest.raises(OnlineStoreError, match=r"'carrier_tempo'.*unsupported type"):
            our_answers(redis.url, wanted)
        raw.set(key, b"no hash")
        with pytest.raises(OnlineStoreError, match="WRONGTYPE"):
            our_answers(redis.url, wanted)
        raw.delete(key)


def test_password_and_database_come_from_the_url(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--requirepass", "s3cret/@")
    place = f"127.0.0.1:{server.port}"
    wanted = (TEMPO, {"carrier": "AA"})
    try:
        assert our_answers(f"redis://:s3cret%2F%40@{place}/3", wanted) == [None]
        with pytest.raises(OnlineStoreError, match="WRONGPASS") as refused:
            our_answers(f"redis://:wrong@{place}/3", wanted)
        assert "wrong@" not in str(refused.value)
        with pytest.raises(OnlineStoreError, match="NOAUTH"):
            our_answers(f"redis://{place}", wanted)
        with pytest.raises(OnlineStoreError, match="out of range"):
            our_answers(f"redis://:s3cret%2F%40@{place}/99", wanted)
    finally:
        server.kill()


@pytest.mark.parametrize(
    "url",
    ["redis://", "redis://host:port", "redis://host/db", "redis://host/0?ssl=1", "http://host"],
)
def test_a_malformed_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"write it as redis://"):
        parse_address(url)


def test_code_that_is_not_asynchronous_reads_the_same(
    redis: RedisServer, feast_redis: FeatureStore
) -> None:
    write(feast_redis, TEMPO, {"carrier": "sync", "tempo": 4.0})
    reader = BlockingReader(redis.url)
    try:
        wanted = lookups((TEMPO, {"carrier": "sync"}), (TEMPO, {"carrier": "nobody"}))
        assert reader.read(PROJECT, wanted) == [Row({"tempo": 4.0}, WHEN.timestamp()), None]
    finally:
        reader.close()


replies = st.recursive(
    st.one_of(st.none(), st.binary(max_size=20), st.integers(-(2**63), 2**63 - 1)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def encoded(reply: Any) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(encoded, reply))


@settings(max_examples=200, deadline=None)
@given(reply=replies, before=st.binary(max_size=5), after=st.binary(max_size=5))
def test_a_reply_is_parsed_once_it_is_complete_and_not_before(
    reply: Any, before: bytes, after: bytes
) -> None:
    data = encoded(reply)
    found, end = parse_reply(before + data + after, len(before))
    assert (found, end) == (reply, len(before) + len(data))
    for length in range(len(data)):
        assert parse_reply(data[:length], 0)[1] == -1


def test_a_refusal_is_a_reply_too() -> None:
    refusal, _ = parse_reply(b"-ERR no\r\n", 0)
    assert isinstance(refusal, ReplyError)
    assert parse_reply(b"+OK\r\n", 0) == (b"OK", 5)


@settings(max_examples=200, deadline=None)
@given(
    moment=st.datetimes(
        datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)  # noqa: DTZ001
    )
)  # fmt: skip
def test_event_times_equal_protobufs(moment: datetime) -> None:
    from google.protobuf.timestamp_pb2 import Timestamp

    stamp = Timestamp()
    stamp.FromDatetime(moment)
    assert decode_timestamp(stamp.SerializeToString()) == pytest.approx(
        moment.timestamp(), abs=1e-6
    )


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=20))
def test_damaged_event_times_raise_nothing_but_codec_errors(data: bytes) -> None:
    try:
        decode_timestamp(data)
    except CodecError as error:
        assert str(error)
