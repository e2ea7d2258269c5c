"""The whole server: a real Triton, the gateway as a process, and a store written by Feast."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import http.client
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import msgspec
import pytest

from flywheel_serving.admin import Admin
from flywheel_serving.client import (
    BundleRefusedError,
    ModelNotFoundError,
    ServingClient,
    ServingClientError,
    ServingUnavailableError,
)
from flywheel_serving.control import TritonControl
from flywheel_serving.gateway import Gateway
from flywheel_serving.online_store import EmptyOnlineStore
from flywheel_serving.prediction_log import PredictionRecord, read_spool
from flywheel_serving.supervisor import ExternalTriton
from flywheel_serving.triton import TritonProcess, find_triton
from tests.serving.conftest import carrier_view, make_feast_store, make_manifest, route_view
from tests.serving.redis_server import RedisServer

if TYPE_CHECKING:
    from feast import FeatureStore

TRITON_VENV = Path(
    os.environ.get("FLYWHEEL_TRITON_VENV", Path(__file__).parents[2] / ".venv-triton")
)
pytestmark = pytest.mark.skipif(
    not (TRITON_VENV / "bin" / "python3").exists(),
    reason=f"there is no Triton environment at {TRITON_VENV}",
)
REQUEST: dict[str, Any] = {
    "flight_id": "f1",
    "scheduled_departure": "2013-05-04T14:03:00-04:00",
    "carrier": "AA",
    "origin": "JFK",
    "distance": 1000.0,
    "seats": 90,
}
PATIENCE = 90.0
versions = itertools.count(1)
MakeBundle = Callable[..., Path]


class Server:
    """A gateway process on a free port."""

    def __init__(
        self,
        work: Path,
        online_store: Path | str,
        arguments: Sequence[str] = ("--triton-venv", str(TRITON_VENV)),
        **environment: str,
    ) -> None:
        self.work = work
        command = [sys.executable, "-m", "flywheel_serving", "serve", "--port", "0"]
        command += ["--work", str(work), "--online-store", str(online_store)]
        command += arguments
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | environment
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "is ready at" in line, line
        self.url = line.split()[4]
        token = environment.get("FLYWHEEL_ADMIN_TOKEN")
        self.client = ServingClient(self.url, token, timeout=PATIENCE)

    def stop(self) -> int:
        """Stop in order; returns the exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def triton_pid(self) -> int:
        """Process id of its Triton."""
        pid = self.process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)

    def call(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One plain HTTP call: status, headers and body."""
        connection = self.connect()
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        found = {key.lower(): value for key, value in answer.getheaders()}
        return answer.status, found, answer.read()

    def connect(self) -> http.client.HTTPConnection:
        """A keep-alive connection."""
        return http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=PATIENCE)

    def records(self) -> list[PredictionRecord]:
        """Its prediction log."""
        return list(read_spool(self.work / "spool", "delay"))


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)


class Load:
    """Clients that predict without a pause; collects every (status, version)."""

    def __init__(self, server: Server, clients: int = 3) -> None:
        self.answers: list[tuple[int, str | None]] = []
        self._server = server
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        connection = self._server.connect()
        body = json.dumps(REQUEST)
        while not self._end.is_set():
            connection.request("POST", "/v1/models/delay/predict", body)
            answer = connection.getresponse()
            content = json.loads(answer.read())
            self.answers.append((answer.status, content.get("model_version")))

    def wait(self, count: int) -> None:
        """Wait for that many more answers."""
        target = len(self.answers) + count
        until(lambda: len(self.answers) >= target)


@pytest.fixture(scope="module")
def online_store(feast_store: FeatureStore, online_path: Path) -> Path:
    """Feature rows of one carrier and one route, written by Feast."""
    put_online(feast_store)
    return online_path


def put_online(feast_store: FeatureStore) -> None:
    """Write feature rows of two carriers, one of them old, and of one route."""
    import pandas as pd

    when = pd.Timestamp("2013-05-04T17:33:00Z")
    stats = {"delay_mean": 3.5, "tempo": 0.5, "flights": 12, "strike": True, "tier": "flag"}
    carrier = pd.DataFrame([{"carrier": "AA", **stats, "event_timestamp": when}])
    old = when - pd.Timedelta(days=2)
    late = pd.DataFrame([{"carrier": "DL", **stats, "event_timestamp": old}])
    feast_store.write_to_online_store("carrier_stats", pd.concat([carrier, late]))
    route = {"origin": "JFK", "band": 2, "route_mean": -1.25, "event_timestamp": when}
    feast_store.write_to_online_store("route_stats", pd.DataFrame([route]))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, online_store: Path) -> Iterator[Server]:
    """The server most tests share; each deploys what it needs."""
    running = Server(tmp_path_factory.mktemp("work"), online_store)
    try:
        yield running
    finally:
        assert running.stop() == 0


@pytest.fixture
def version() -> str:
    """A version no other test deploys."""
    return str(next(versions))


def test_a_fresh_server_has_no_models(tmp_path: Path, server: Server) -> None:
    if next(versions) == 1:
        assert server.client.models() == []
        with pytest.raises(ModelNotFoundError, match="none yet"):
            server.client.predict("delay", REQUEST)
    assert server.client.ready()


def test_a_prediction_is_what_the_model_computes_from_features(
    server: Server, make_bundle: MakeBundle, version: str, expect: Callable[..., float]
) -> None:
    deployed = server.client.deploy(make_bundle(version, bias=0.25), "test", "first")
    assert deployed.changed
    assert deployed.version == version
    assert deployed.probe_max_abs_diff < 1e-5
    answer = server.client.predict("delay", REQUEST, request_id="mine")
    numeric = [1000.0, 90.0, 14.0, 3.5, 0.5, 12.0, 1.0, 30.0, -1.25]
    assert answer.probability == pytest.approx(expect(0.25, numeric, [1, 6, 2]), abs=1e-6)
    assert answer.defaulted_features == []
    assert answer.request_id == "mine"
    assert answer.model_version == version
    record = server.records()[-1]
    assert record.request_id == "mine"
    assert record.model_version == version
    assert record.role == "champion"
    assert record.entity_id == "f1"
    assert record.event_timestamp == "2013-05-04T18:03:00+00:00"
    assert record.probability == answer.probability
    numbers = [value for value in record.features.values() if not isinstance(value, str)]
    assert numbers == numeric
    assert record.features["tier"] == "flag"
    assert record.request["scheduled_departure"] == REQUEST["scheduled_departure"]


@pytest.mark.parametrize("carrier", ["DL", "ZZ"], ids=["older than its TTL", "unknown key"])
def test_missing_features_take_defaults_and_are_flagged(
    server: Server,
    make_bundle: MakeBundle,
    version: str,
    expect: Callable[..., float],
    carrier: str,
) -> None:
    server.client.deploy(make_bundle(version), "test", "missing features")
    request = REQUEST | {"carrier": carrier, "distance": None}
    answer = server.client.predict("delay", request)
    missing = ["delay_mean", "tempo", "flights", "strike", "tier", "carrier_age", "route_mean"]
    assert answer.defaulted_features == missing
    nan = math.nan
    numeric = [nan, 90.0, 14.0, 5.0, nan, nan, 0.0, nan, nan]
    codes = [2 if carrier == "DL" else 0, 6, 1]
    assert answer.probability == pytest.approx(expect(0.0, numeric, codes), abs=1e-6)
    record = server.records()[-1]
    assert record.defaulted_features == missing
    assert record.features["flights"] is None
    _, _, metrics = server.call("GET", "/metrics")
    name = b'flywheel_defaulted_features_total{feature="route_mean",model="delay"}'
    assert name in metrics
    stale = b'flywheel_stale_rows_total{answer="default",model="delay",view="carrier_stats"}'
    assert stale in metrics


def test_a_view_that_refuses_stale_rows_answers_503_with_view_key_and_age(
    server: Server, make_bundle: MakeBundle, version: str
) -> None:
    views = [carrier_view(stale="refuse"), route_view()]
    server.client.deploy(make_bundle(version, feature_views=views), "test", "refuse")
    assert server.client.predict("delay", REQUEST | {"origin": "nowhere"}).defaulted_features
    old = r"'carrier_stats' is stale for carrier='DL': its row is 174600 s old, and 86400 s may be"
    with pytest.raises(ServingUnavailableError, match=old):
        server.client.predict("delay", REQUEST | {"carrier": "DL"})
    with pytest.raises(ServingUnavailableError, match=r"Instance 1: .*'ZZ': it has no row"):
        server.client.predict_many("delay", [REQUEST, REQUEST | {"carrier": "ZZ"}])
    _, _, metrics = server.call("GET", "/metrics")
    name = b'flywheel_stale_rows_total{answer="refuse",model="delay",view="carrier_stats"} 2.0'
    assert name in metrics


@pytest.mark.skipif(not shutil.which("redis-server"), reason="there is no redis-server")
def test_on_redis_a_loss_is_503_until_it_is_back_and_secrets_stay_out_of_the_log(
    tmp_path: Path, make_bundle: MakeBundle, version: str
) -> None:
    redis = RedisServer(tmp_path)
    online = {"type": "redis", "connection_string": f"127.0.0.1:{redis.port}"}
    feast = make_feast_store(tmp_path, online, carrier_view(), route_view())
    put_online(feast)
    schema = make_manifest().request
    classified = {"carrier": "pii", "distance": "sensitive"}
    fields = [
        msgspec.structs.replace(field, classification=classified.get(field.name))
        for field in schema.fields
    ]
    request = msgspec.structs.replace(schema, fields=fields)
    server = Server(tmp_path / "work", redis.url, FLYWHEEL_PSEUDONYM_KEY="secret")
    try:
        server.client.deploy(make_bundle(version, request=request), "test", "redis")
        assert server.client.predict("delay", REQUEST).defaulted_features == []
        assert server.client.predict("delay", REQUEST).probability > 0
        redis.kill()
        with pytest.raises(ServingUnavailableError, match="online store redis://.* cannot be read"):
            server.client.predict("delay", REQUEST)
        redis.start()
        time.sleep(0.3)
        assert server.client.predict("delay", REQUEST).defaulted_features
        put_online(feast)
        assert server.client.predict("delay", REQUEST).defaulted_features == []
        record = server.records()[-1]
        pseudonym = hmac.digest(b"secret", b"AA", "sha256").hex()[:32]
        assert record.request["carrier"] == record.features["carrier"] == pseudonym
        assert len(record.request["distance"]) == 32
        assert record.features["distance"] is None
        assert record.request["origin"] == "JFK"
    finally:
        redis.kill()
        assert server.stop() == 0


def test_a_batch_equals_single_predictions(
    server: Server, make_bundle: MakeBundle, version: str
) -> None:
    server.client.deploy(make_bundle(version), "test", "batch")
    carriers = ["AA", "DL", "ZZ", "UA"] * 80
    requests = [
        REQUEST | {"carrier": carrier, "distance": 10.0 * index, "flight_id": f"b{index}"}
        for index, carrier in enumerate(carriers)
    ]
    answers = server.client.predict_many("delay", requests, request_id="batch")
    assert [answer.request_id for answer in answers] == [f"batch/{n}" for n in range(320)]
    for index in (0, 1, 2, 100, 319):
        single = server.client.predict("delay", requests[index])
        assert single.probability == pytest.approx(answers[index].probability, abs=1e-6)
        assert single.defaulted_features == answers[index].defaulted_features
    logged = [item.entity_id for item in server.records() if item.request_id.startswith("batch/")]
    assert logged == [request["flight_id"] for request in requests]


def test_wrong_requests_are_refused_with_a_reason(
    server: Server, make_bundle: MakeBundle, version: str
) -> None:
    server.client.deploy(make_bundle(version), "test", "errors")
    predict = "/v1/models/delay/predict"
    with pytest.raises(ModelNotFoundError, match="no model 'nope'. Deployed: delay"):
        server.client.predict("nope", REQUEST)
    with pytest.raises(ServingClientError, match="'carrier' is wrong") as caught:
        server.client.predict("delay", REQUEST | {"carrier": 1})
    assert (caught.value.status, caught.value.field) == (422, "carrier")
    status, _, body = server.call("POST", predict, b"not json")
    assert status == 422
    assert set(json.loads(body)) == {"error", "field"}
    status, headers, _ = server.call("GET", predict)
    assert (status, headers["allow"]) == (405, "POST")
    assert server.call("POST", predict, b"x" * (8 << 20 | 1))[0] == 413
    status, _, body = server.call("POST", predict, b"{}", x_request_id="x" * 200)
    assert (status, json.loads(body)["field"]) == (422, "X-Request-Id")
    status, _, body = server.call("GET", "/nowhere")
    assert (status, "error" in json.loads(body)) == (404, True)
    status, _, body = server.call("DELETE", "/v1/models")
    assert (status, "error" in json.loads(body)) == (405, True)
    status, _, body = server.call("PUT", "/v1/models/delay", b'{"bundel": "x"}')
    assert status == 422
    _, _, metrics = server.call("GET", "/metrics")
    assert b'flywheel_requests_total{code="404",model="unknown",version=""}' in metrics
    assert b"nope" not in metrics


def test_deploys_and_rollbacks_under_load_fail_no_request(
    server: Server, make_bundle: MakeBundle
) -> None:
    first, second, third = (str(next(versions)) for _ in range(3))
    server.client.deploy(make_bundle(first), "test", "one")
    with Load(server) as load:
        load.wait(50)
        deployed = server.client.deploy(make_bundle(second, bias=1.0), "test", "two")
        assert deployed.previous == first
        load.wait(50)
        assert server.client.rollback("delay", "test", "worse").version == first
        load.wait(50)
        assert server.client.rollback("delay").version == second
        load.wait(50)
        server.client.deploy(make_bundle(third), "test", "three")
        load.wait(50)
    assert {status for status, _ in load.answers} == {200}
    seen = [name for name, _ in itertools.groupby(load.answers, key=lambda item: item[1])]
    assert set(seen) == {first, second, third}
    (model,) = server.client.models()
    assert (model.version, model.previous) == (third, second)
    assert [item.action for item in model.history[-5:]] == [
        "deploy",
        "deploy",
        "rollback",
        "rollback",
        "deploy",
    ]
    # Only the routed versions stay on disk.
    kept = sorted(path.name for path in (server.work / "repository").iterdir())
    assert kept == sorted([f"delay__v{second}", f"delay__v{third}"])
    assert len(list((server.work / "bundles").iterdir())) == 2


def test_deploying_again_changes_nothing(
    server: Server, make_bundle: MakeBundle, version: str
) -> None:
    directory = make_bundle(version)
    first = server.client.deploy(directory, "test", "once")
    again = server.client.deploy(directory, "test", "twice")
    assert not again.changed
    assert (again.version, again.previous) == (first.version, first.previous)


def test_a_version_cannot_change_its_content(
    server: Server, make_bundle: MakeBundle, tmp_path: Path, version: str
) -> None:
    server.client.deploy(make_bundle(version), "test", "original")
    (tmp_path / f"bundle-{version}").rename(tmp_path / "moved")
    with pytest.raises(BundleRefusedError, match="register the changed model") as caught:
        server.client.deploy(make_bundle(version, bias=2.0), "test", "changed")
    assert caught.value.status == 409


def flip_a_byte(directory: Path) -> None:
    """Damage the model after sealing."""
    data = bytearray((directory / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (directory / "model.onnx").write_bytes(data)


def break_the_model(directory: Path) -> None:
    """Seal a file that is no ONNX model."""
    import msgspec

    from flywheel_serving.bundle import Manifest, seal

    manifest = msgspec.json.decode((directory / "manifest.json").read_bytes(), type=Manifest)
    (directory / "model.onnx").write_bytes(b"no model at all")
    seal(directory, manifest)


def leave_it(_: Path) -> None:
    """Leave the bundle alone."""


@pytest.mark.parametrize(
    ("probe_error", "damage", "message"),
    [
        (0.0, flip_a_byte, "differs from its hash"),
        (0.0, break_the_model, "does not load"),
        (0.01, leave_it, r"differs from what training computed by 0\.01"),
    ],
    ids=["flipped byte", "no model", "wrong probe"],
)
def test_a_bad_bundle_is_refused_and_the_old_version_serves_on(
    server: Server,
    make_bundle: MakeBundle,
    probe_error: float,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    good, bad = str(next(versions)), str(next(versions))
    server.client.deploy(make_bundle(good), "test", "good")
    directory = make_bundle(bad, probe_error=probe_error)
    damage(directory)
    with Load(server, clients=1) as load:
        load.wait(5)
        with pytest.raises(BundleRefusedError, match=message) as caught:
            server.client.deploy(directory, "test", "bad")
        load.wait(5)
    assert caught.value.status == 422
    assert set(load.answers) == {(200, good)}
    assert server.client.models()[0].version == good
    assert not (server.work / "repository" / f"delay__v{bad}").exists()
    assert not list((server.work / "bundles").glob(f"*v{bad}-*"))


def test_a_bundle_of_another_model_is_refused(
    server: Server, make_bundle: MakeBundle, version: str
) -> None:
    with pytest.raises(BundleRefusedError, match="is of model 'delay', not 'other'"):
        server.client.deploy(make_bundle(version), "test", "wrong name", model="other")


def test_a_killed_triton_gives_503_and_comes_back(
    server: Server, make_bundle: MakeBundle, version: str
) -> None:
    server.client.deploy(make_bundle(version), "test", "crash")
    before = server.triton_pid()
    os.kill(before, signal.SIGKILL)
    with pytest.raises(ServingUnavailableError) as caught:
        while True:
            server.client.predict("delay", REQUEST)
    assert caught.value.status == 503
    assert caught.value.retry_after is not None
    with contextlib.suppress(ServingUnavailableError):
        assert server.client.models()[0].version == version
    until(lambda: _answers(server))
    until(server.client.ready)
    assert server.triton_pid() != before
    assert server.client.predict("delay", REQUEST).model_version == version
    assert server.client.rollback("delay").changed  # the previous version is loaded again too
    assert server.client.predict("delay", REQUEST).probability > 0
    _, _, metrics = server.call("GET", "/metrics")
    assert b"flywheel_triton_restarts_total 1.0" in metrics


def _answers(server: Server) -> bool:
    try:
        server.client.predict("delay", REQUEST)
    except ServingUnavailableError:
        return False
    return True


def test_a_killed_model_process_is_healed_without_a_restart(
    server: Server, make_bundle: MakeBundle, version: str
) -> None:
    server.client.deploy(make_bundle(version), "test", "stub crash")
    triton = server.triton_pid()
    stubs = Path(f"/proc/{triton}/task").glob("*/children")
    children = {int(pid) for path in stubs for pid in path.read_text().split()}
    wanted = f"delay__v{version}".encode()
    (stub,) = [pid for pid in children if wanted in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(stub, signal.SIGKILL)
    until(lambda: not server.client.ready())
    until(lambda: server.client.ready() and _answers(server))
    assert server.triton_pid() == triton
    _, _, metrics = server.call("GET", "/metrics")
    assert f'flywheel_model_heals_total{{model="delay__v{version}"}}'.encode() in metrics


class External(NamedTuple):
    """A gateway with an admin token on a Triton that is not its own."""

    server: Server
    triton: TritonProcess
    store: Path


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory) -> Iterator[External]:
    """Both servers; the gateway must leave the other one alone when it stops."""
    root = tmp_path_factory.mktemp("external")
    (root / "work" / "repository").mkdir(parents=True)
    (root / "triton").mkdir()
    install = find_triton(TRITON_VENV)
    triton = TritonProcess(install, root / "triton", root / "work" / "repository")
    triton.start()
    try:
        asyncio.run(triton.wait_live())
        addresses = ["--triton-http", f"127.0.0.1:{triton.http_port}"]
        addresses += ["--triton-grpc", f"127.0.0.1:{triton.grpc_port}"]
        store = root / "online.db"
        server = Server(root / "work", store, addresses, FLYWHEEL_ADMIN_TOKEN="secret")
        yield External(server, triton, store)
        assert server.stop() == 0
        assert triton.exit_code() is None
    finally:
        asyncio.run(triton.stop())


def test_admin_calls_need_the_token(
    external: External, make_bundle: MakeBundle, version: str
) -> None:
    directory = make_bundle(version)
    for token in (None, "wrong"):
        with pytest.raises(ServingClientError, match="FLYWHEEL_ADMIN_TOKEN") as caught:
            ServingClient(external.server.url, token).deploy(directory, "test", "")
        assert caught.value.status == 401
    assert external.server.client.deploy(directory, "test", "with the token").changed


def test_a_damaged_online_store_gives_503_and_an_absent_one_defaults(
    external: External, make_bundle: MakeBundle, version: str
) -> None:
    client = external.server.client
    client.deploy(make_bundle(version), "test", "store")
    assert len(client.predict("delay", REQUEST).defaulted_features) == 7
    external.store.write_bytes(b"no database" * 1000)
    with pytest.raises(ServingUnavailableError, match="online store .* cannot be read"):
        client.predict("delay", REQUEST)
    external.store.unlink()
    until(lambda: _answers(external.server))


def test_an_external_triton_that_lost_a_model_gets_it_back(
    external: External, make_bundle: MakeBundle, version: str
) -> None:
    server = external.server
    server.client.deploy(make_bundle(version), "test", "external")
    assert server.client.predict("delay", REQUEST).model_version == version
    asyncio.run(forget(external.triton, f"delay__v{version}"))
    with pytest.raises(ServingUnavailableError):
        server.client.predict("delay", REQUEST)
    until(lambda: _answers(server))


def test_routes_and_records_survive_kill_9_of_the_gateway(
    tmp_path: Path, online_store: Path, make_bundle: MakeBundle
) -> None:
    first, second = str(next(versions)), str(next(versions))
    server = Server(tmp_path / "work", online_store)
    triton = server.triton_pid()
    server.client.deploy(make_bundle(first), "test", "one")
    server.client.deploy(make_bundle(second), "test", "two")
    ids = [server.client.predict("delay", REQUEST).request_id for _ in range(20)]
    server.process.kill()
    server.process.wait()
    assert [record.request_id for record in server.records()] == ids
    again = Server(tmp_path / "work", online_store)
    try:
        (model,) = again.client.models()
        assert (model.version, model.previous) == (second, first)
        assert again.client.ready()
        assert again.client.predict("delay", REQUEST).model_version == second
        assert again.client.rollback("delay").version == first
        assert again.client.predict("delay", REQUEST).model_version == first
        assert len(again.records()) == 22
        until(lambda: not Path(f"/proc/{triton}").exists())
    finally:
        assert again.stop() == 0
    for process in (again.process, server.process):
        assert not list(Path("/dev/shm").glob(f"flywheel_{process.pid}_*"))
    _a_damaged_stored_bundle_stops_only_its_own_version(tmp_path, online_store, first, second)


def _a_damaged_stored_bundle_stops_only_its_own_version(
    root: Path, online_store: Path, champion: str, previous: str
) -> None:
    """The work directory of the test above is started once more, with a damaged champion."""
    (stored,) = (root / "work" / "bundles").glob(f"delay__v{champion}-*")
    flip_a_byte(stored)
    server = Server(root / "work", online_store)
    try:
        assert not server.client.ready()
        with pytest.raises(ServingUnavailableError, match="differs from its hash"):
            server.client.predict("delay", REQUEST)
        repaired = server.client.deploy(root / f"bundle-{champion}", "test", "repair")
        assert (repaired.changed, repaired.previous) == (True, previous)
        assert server.client.predict("delay", REQUEST).model_version == champion
        until(server.client.ready)
    finally:
        assert server.stop() == 0


async def forget(triton: TritonProcess, name: str) -> None:
    """Unload a model behind the gateway's back, as a restart of a container does."""
    control = TritonControl(f"127.0.0.1:{triton.grpc_port}")
    await control.unload(name)
    await control.close()


@pytest.mark.parametrize(("host", "status"), [("10.1.2.3", 403), ("127.0.0.1", 422), ("::1", 422)])
def test_without_a_token_only_this_host_may_deploy(tmp_path: Path, host: str, status: int) -> None:
    async def call() -> httpx.Response:
        external = ExternalTriton("127.0.0.1", 1, "127.0.0.1:1")
        gateway = Gateway(tmp_path, EmptyOnlineStore(), external)
        transport = httpx.ASGITransport(Admin(gateway, None).application(), client=(host, 5))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                body = {"bundle": str(tmp_path / "none")}
                return await client.put("/v1/models/delay", json=body)
        finally:
            await gateway.stop()

    answer = asyncio.run(call())
    assert answer.status_code == status
    assert answer.json()["error"]


def test_a_stop_lets_requests_end_and_refuses_a_second_gateway(
    tmp_path: Path, online_store: Path, make_bundle: MakeBundle, version: str
) -> None:
    server = Server(tmp_path / "work", online_store)
    server.client.deploy(make_bundle(version), "test", "stop")
    command = [sys.executable, "-m", "flywheel_serving", "serve", "--port", "0"]
    command += ["--work", str(server.work), "--triton-venv", str(TRITON_VENV)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert second.returncode == 2
    assert "Another gateway uses" in second.stderr
    triton = server.triton_pid()
    instances = [REQUEST | {"flight_id": str(n)} for n in range(4096)]
    answers: list[int] = []
    thread = threading.Thread(
        target=lambda: answers.append(len(server.client.predict_many("delay", instances)))
    )
    thread.start()
    time.sleep(0.05)
    assert server.stop() == 0
    thread.join()
    assert answers == [4096]
    assert len(server.records()) == 4096
    assert not Path(f"/proc/{triton}").exists()
