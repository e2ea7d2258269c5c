"""The wheel turns once on two weeks of flights, with every real part."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import time
from datetime import date
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from assets.lifecycle import evaluation, release, training
from assets.lifecycle.histories import history_key
from assets.lifecycle.inputs import input_values
from assets.lifecycle.names import Lifecycle
from flywheel.gates import BeatsChampion
from flywheel.history import DEPLOYMENTS
from flywheel.settings import ROOT
from flywheel_serving.client import ServingClientError
from jobs.replay import replay
from resources.lakehouse import Window
from resources.ledger import Ledger
from tests.end_to_end.world import QUIET, World

pytestmark = pytest.mark.slow

AS_OF = "2013-01-15"
DAY = date(2013, 1, 15)


@pytest.fixture(scope="module")
def trained(world: World) -> World:
    """The world with a first champion behind Triton."""
    assert world.train(AS_OF).success
    return world


@pytest.fixture(scope="module")
def served(trained: World) -> World:
    """The world after one replayed day."""
    features = [v.name for v in trained.life.spec.views]
    keys = {trained.life.sibling(n) for n in ("departures", "weather", *features)}
    job = trained.definitions.get_repository_def().get_implicit_global_asset_job_def()
    assert (
        job.get_subset(asset_selection=keys)
        .execute_in_process(instance=trained.instance, partition_key=AS_OF, run_config=QUIET)
        .success
    )
    live_through(trained)
    assert trained.run("flight_delay_monitoring", AS_OF).success
    return trained


def live_through(world: World) -> int:
    return replay(
        world.life,
        DAY,
        world.resources["lakehouse"],
        world.resources["feature_store"],
        world.resources["serving"],
        lambda _done, _total: None,
    )


def table(world: World, step: str) -> pa.Table:
    return world.resources["lakehouse"].read(world.life.table(step))


def ledger_of(world: World) -> Ledger:
    return Ledger(world.resources["lakehouse"], world.resources["registry"])


def judged_anew(world: World, life: Lifecycle, as_of: str) -> Any:
    """Evaluate a morning's candidate by other gates, and let these decide."""
    evaluated = dg.materialize(
        [training.training_set(life), evaluation.evaluation(life)],
        selection=[life.key("evaluation")],
        instance=world.instance,
        partition_key=as_of,
        resources={
            k: world.resources[k]
            for k in ("lakehouse", "registry", "feature_store", "io_manager", "trials")
        },
        run_config=QUIET,
    )
    assert evaluated.success
    return dg.materialize(
        [release.champion(life), release.deployment(life)],
        instance=world.instance,
        resources={k: world.resources[k] for k in ("lakehouse", "registry", "serving")},
        raise_on_error=False,
        run_config=QUIET,
    )


def test_the_first_model_is_evaluated_crowned_and_served(trained: World) -> None:
    champion = ledger_of(trained).champion("flight_delay")
    served = trained.resources["serving"].client.models()
    assert champion is not None
    assert [(m.name, m.version) for m in served] == [("flight_delay", champion.number)]
    figures = trained.resources["lakehouse"].read("lifecycle.evaluations")
    contestants = set(figures.column("contestant").to_pylist())
    assert contestants == {"candidate", "logistic regression", "boosted trees"}
    assert trained.metadata("deployment")["probe_max_abs_diff"] <= 1e-5


def test_a_training_set_holds_only_answers_known_by_its_morning(trained: World) -> None:
    rows = table(trained, "training_set")
    morning = trained.life.spec.calendar.midnight(DAY)
    assert max(rows.column("label_known_at").to_pylist()) < morning
    assert max(rows.column("event_timestamp").to_pylist()) < morning
    assert set(rows.column("split").to_pylist()) == {"train", "holdout"}


def test_no_version_is_trained_on_a_stable_day(trained: World) -> None:
    """The 12th of January is one, and it is held out anyway: so ask for another stride."""
    spec = dataclasses.replace(trained.life.spec, stable_every_days=4)
    life = dataclasses.replace(trained.life, spec=spec)
    lakehouse = trained.resources["lakehouse"]
    cases = training.labelled_cases(life, DAY, lakehouse, {})
    rows = training.training_rows(
        spec, DAY, cases, input_values(spec, "flights", cases, trained.resources["feature_store"])
    )
    stable = rows.filter(pc.equal(rows.column("split"), "stable")).column("event_timestamp")
    days = {spec.calendar.day_of(moment) for moment in stable.to_pylist()}
    assert days == {date(2013, 1, 4)}
    trained_on = rows.filter(pc.equal(rows.column("split"), "train")).column("event_timestamp")
    assert not days & {spec.calendar.day_of(moment) for moment in trained_on.to_pylist()}


def test_every_flight_of_a_replayed_day_has_an_explained_prediction(served: World) -> None:
    predictions = table(served, "predictions")
    flights = served.resources["lakehouse"].read(
        "flights.departures", Window("flight_date", DAY, date(2013, 1, 16))
    )
    assert predictions.num_rows == flights.num_rows
    assert set(predictions.column("entity_id").to_pylist()) == set(
        flights.column("flight_id").to_pylist()
    )
    labels = dict(
        zip(*(predictions.column(c).to_pylist() for c in ("entity_id", "label")), strict=True)
    )
    assert labels == dict(
        zip(*(flights.column(c).to_pylist() for c in ("flight_id", "late")), strict=True)
    )


def test_what_was_served_is_what_training_would_have_used(served: World) -> None:
    """Parity: the gateway's inputs equal the offline join, value for value."""
    spec = served.life.spec
    flights = served.resources["lakehouse"].read(
        "flights.departures", Window("flight_date", DAY, date(2013, 1, 16))
    )
    offline = pa.table(
        input_values(spec, "flights", flights, served.resources["feature_store"])
    ).append_column("entity_id", flights.column("flight_id"))
    online = table(served, "predictions").select([*(i.name for i in spec.inputs), "entity_id"])
    by_id = [("entity_id", "ascending")]
    offline, online = offline.sort_by(by_id), online.sort_by(by_id)
    different = {
        name: (ours, theirs)
        for name in online.column_names
        for ours, theirs in zip(
            online.column(name).to_pylist(), offline.column(name).to_pylist(), strict=True
        )
        if ours != theirs
    }
    assert different == {}


def test_running_everything_twice_changes_nothing(served: World) -> None:
    lakehouse = served.resources["lakehouse"]
    names = [
        f"flights.{n}" for n in ("departures", "weather", "carrier_delays", "aircraft_legs")
    ] + [served.life.table(s) for s in ("training_set", "predictions", "drift")]
    names += ["lifecycle.models", "lifecycle.deployments"]
    before = {n: lakehouse.current_snapshot(n) for n in names}
    versions = len(served.resources["registry"].versions("flight_delay"))
    answered = live_through(served)
    assert served.run("flights_data", "2013-01-10", "2013-01-14").success
    assert served.train(AS_OF).success
    assert served.run("flight_delay_monitoring", AS_OF).success
    assert {n: lakehouse.current_snapshot(n) for n in before} == before
    assert len(served.resources["registry"].versions("flight_delay")) == versions
    assert table(served, "predictions").num_rows == answered


def test_a_candidate_that_is_not_better_is_kept_out_and_the_run_is_green(served: World) -> None:
    assert served.run("flights_data", AS_OF, AS_OF).success
    strict = dataclasses.replace(served.life.spec, gates=(BeatsChampion("auc", margin=1.0),))
    life = dataclasses.replace(served.life, spec=strict)
    before = ledger_of(served).champion("flight_delay")
    as_of = "2013-01-16"
    job = served.definitions.resolve_job_def("flight_delay_training")
    trained = job.execute_in_process(
        instance=served.instance,
        partition_key=as_of,
        run_config=QUIET,
        asset_selection=[life.key(s) for s in ("training_set", "model")],
    )
    assert trained.success
    result = judged_anew(served, life, as_of)
    assert result.success
    keys = {e.asset_key for e in result.get_asset_materialization_events()}
    assert keys == {history_key(DEPLOYMENTS)}
    ledger = ledger_of(served)
    assert ledger.champion("flight_delay") == before
    told = ledger.events("flight_delay")[-1]
    assert (told.action, told.actor) == ("kept_out", "gates")
    assert "asked for 1.0000" in told.reason


def test_a_better_candidate_takes_over_without_a_failed_request(served: World) -> None:
    easy = dataclasses.replace(served.life.spec, gates=(BeatsChampion("auc", margin=-1.0),))
    life = dataclasses.replace(served.life, spec=easy)
    client = served.resources["serving"].client
    fields = request_fields(served)
    with subprocess.Popen(
        [sys.executable, "-c", LOAD, served.settings.gateway_url],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    ) as load:  # fmt: skip
        assert load.stdin is not None
        assert load.stdout is not None
        load.stdin.write(repr(fields) + "\n")
        load.stdin.flush()
        assert load.stdout.readline().strip() == "going"
        result = judged_anew(served, life, "2013-01-16")
        time.sleep(1.0)
        load.stdin.write("stop\n")
        load.stdin.flush()
        counts = ast.literal_eval(load.stdout.readline())
    assert result.success
    champion = ledger_of(served).champion("flight_delay")
    assert champion is not None
    assert champion.tags["as_of"] == "2013-01-16"
    assert client.models()[0].version == champion.number
    assert counts["failed"] == 0
    assert set(counts["versions"]) == {champion.number, client.models()[0].previous}


def test_bad_requests_name_their_field_and_unknown_models_are_not_found(served: World) -> None:
    client = served.resources["serving"].client
    with pytest.raises(ServingClientError) as refused:
        client.predict("flight_delay", {**request_fields(served), "distance": "far"})
    assert (refused.value.status, refused.value.field) == (422, "distance")
    with pytest.raises(ServingClientError) as missing:
        client.predict("flight_delays", request_fields(served))
    assert missing.value.status == 404


def test_missing_features_are_flagged(served: World) -> None:
    unknown = {**request_fields(served), "tailnum": "N0NE"}
    answer = served.resources["serving"].client.predict("flight_delay", unknown)
    assert "aircraft_legs__age" in answer.defaulted_features
    assert 0.0 < answer.probability < 1.0


@pytest.mark.parametrize("seconds", [6.0, 14.0])
def test_training_killed_anywhere_and_run_again_gives_the_same_model(
    served: World, seconds: float
) -> None:
    """Kill -9 while a model is trained; the next run makes the one it would have made."""
    registry = served.resources["registry"]
    as_of = "2013-01-14"
    versions = len(registry.versions("flight_delay"))
    killed = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", TRAIN, as_of],
        cwd=ROOT, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(seconds)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    result = served.definitions.resolve_job_def("flight_delay_training").execute_in_process(
        instance=served.instance,
        partition_key=as_of,
        run_config=QUIET,
        asset_selection=[served.life.key(s) for s in ("training_set", "model")],
    )
    assert result.success
    made = [v for v in registry.versions("flight_delay") if v.tags["as_of"] == as_of]
    assert len(made) == 1
    assert len(registry.versions("flight_delay")) <= versions + 1
    onnx = (registry.bundle(made[0]) / "model.onnx").read_bytes()
    assert hashlib.sha256(onnx).hexdigest() == made[0].tags["onnx_sha256"]


def request_fields(world: World) -> dict[str, Any]:
    flights = world.resources["lakehouse"].read(
        "flights.departures", Window("flight_date", DAY, date(2013, 1, 16))
    )
    first = flights.slice(400, 1).to_pylist()[0]
    fields = {f.name: first[f.name] for f in world.life.spec.spine.request}
    return {k: v.isoformat() if hasattr(v, "isoformat") else v for k, v in fields.items()}


LOAD = """
import ast, select, sys
from flywheel_serving.client import ServingClient, ServingClientError
client = ServingClient(sys.argv[1])
fields = ast.literal_eval(sys.stdin.readline())
failed, versions = 0, set()
print("going", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        versions.add(client.predict("flight_delay", fields).model_version)
    except ServingClientError:
        failed += 1
print({"failed": failed, "versions": sorted(versions)}, flush=True)
"""

TRAIN = """
import sys
import dagster as dg
from definitions import build_definitions
job = build_definitions().resolve_job_def("flight_delay_training")
keys = [dg.AssetKey(["flights", "flight_delay_" + s]) for s in ("training_set", "model")]
job.execute_in_process(
    instance=dg.DagsterInstance.ephemeral(), partition_key=sys.argv[1], asset_selection=keys
)
"""
