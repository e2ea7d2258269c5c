"""Feast gets the whole definition: what a notebook asks it for is what the gateway sees."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from assets.flights.flight_delay import FLIGHT_DELAY
from assets.flights.request import request_features
from assets.lifecycle.inputs import manifest_of
from flywheel_serving.features import Vectorizer
from flywheel_serving.online_store import BlockingReader, KeyedView
from resources.feature_store import FeatureStore

# Importing Feast alone takes fourteen CPU seconds.
pytestmark = pytest.mark.slow

DOMAIN = "flights"
SPEC = FLIGHT_DELAY
MOMENT = datetime(2013, 3, 10, 12, 15, tzinfo=UTC)
REQUEST: dict[str, Any] = {
    "flight_id": "f1",
    "carrier": "AA",
    "tailnum": "N123AA",
    "origin": "JFK",
    "dest": "LAX",
    "distance": 2475.0,
    "scheduled_departure": MOMENT,
    "scheduled_arrival": MOMENT + timedelta(minutes=371),
}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """The flights' definition, and one row a view online; one view has none."""
    folder: Path = tmp_path_factory.mktemp("feast")
    made = FeatureStore(
        registry=f"sqlite:///{folder}/registry.db",
        online_store=f"{folder}/online.db",
        catalog_uri=f"sqlite:///{folder}/catalog.db",
        warehouse=f"file://{folder}/warehouse",
    )
    made.apply(DOMAIN, SPEC.views, [SPEC])
    event = MOMENT - timedelta(minutes=10)
    for place, view in enumerate(SPEC.views[:-1]):
        row: dict[str, Any] = {name: REQUEST[name] for name in view.key_names}
        row |= {name: math.pi * (n + place) for n, name in enumerate(view.feature_names)}
        row |= {view.feature_names[0]: None, "event_timestamp": event, "created_timestamp": event}
        assert made.push(DOMAIN, view, [row]) == 1
    return made


def gateway_sees(features: FeatureStore) -> dict[str, Any]:
    """The inputs of the request as the gateway makes them."""
    manifest = manifest_of(SPEC, DOMAIN, "1", "", {name: [] for name in SPEC.categories}, {})
    reader = BlockingReader(features.online_store)
    rows = {}
    for view in manifest.feature_views:
        lookup = KeyedView(view).lookup([REQUEST[key.name] for key in view.join_keys])
        assert lookup is not None
        (rows[view.name],) = reader.read(DOMAIN, [lookup])
    reader.close()
    vector = Vectorizer(manifest).vector(
        REQUEST, request_features(REQUEST), rows, MOMENT.timestamp()
    )
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in vector.features.items()
    }


def test_the_feature_service_answers_what_the_gateway_sees(features: FeatureStore) -> None:
    store = features.store(DOMAIN)
    answer = store.get_online_features(
        features=store.get_feature_service("flight_delay"),
        entity_rows=[REQUEST, REQUEST | {"carrier": "nobody"}],
        full_feature_names=True,
    ).to_dict()
    seen = gateway_sees(features)
    compared = 0
    for one in SPEC.inputs:
        kind, *rest = one.source.split(":")
        if kind in ("request", "age"):
            continue
        name = f"{rest[0]}__{rest[1]}" if kind == "view" else f"flight_delay_request__{rest[0]}"
        assert answer[name][0] == seen[one.name], one
        compared += answer[name][0] is not None
    assert compared > 30
    assert answer["carrier_delays__arr_delay_7d"][1] is None
    assert answer["flight_delay_request__hour"][1] == seen["hour"]


def test_a_reader_of_the_registry_needs_nothing_of_this_project(features: FeatureStore) -> None:
    read = features.store(DOMAIN).get_on_demand_feature_view("flight_delay_request")
    columns = {name: [value, value] for name, value in REQUEST.items()}
    for form in (lambda m: m, lambda m: m.timestamp(), lambda m: m.isoformat()):
        given = columns | {n: [form(REQUEST[n])] * 2 for n in REQUEST if n.startswith("scheduled")}
        answer = read.feature_transformation.udf(given)
        expected = request_features(REQUEST)
        assert {name: answer[name] for name in expected} == {n: [v, v] for n, v in expected.items()}


@pytest.mark.parametrize("full", [False, True])
def test_the_offline_side_of_feast_gets_the_same_columns_once(
    features: FeatureStore, full: bool
) -> None:
    import pyarrow as pa

    read = features.store(DOMAIN).get_on_demand_feature_view("flight_delay_request")
    rows = pa.Table.from_pylist([REQUEST | {"event_timestamp": MOMENT}] * 2)
    answer = read.transform_arrow(rows, full_feature_names=full).to_pylist()
    prefix = "flight_delay_request__" if full else ""
    expected = {f"{prefix}{name}": value for name, value in request_features(REQUEST).items()}
    assert answer == [expected] * 2


def test_views_entities_and_services_say_what_they_are(features: FeatureStore) -> None:
    store = features.store(DOMAIN)
    for view in SPEC.views:
        compiled = store.get_feature_view(view.name)
        assert (compiled.owner, compiled.description) == (view.owner, view.description)
        assert compiled.ttl == view.ttl
        assert compiled.tags["domain"] == DOMAIN
        assert compiled.stream_source is not None
        assert compiled.stream_source.name == f"{view.name}_push"
        # What the offline store reads.
        source = compiled.batch_source
        assert (type(source).__name__, source.iceberg_table) == ("IcebergSource", view.name)
    assert all(e.description for e in store.list_entities() if e.name in REQUEST)
    service = store.get_feature_service("flight_delay")
    assert (service.owner, service.description) == (SPEC.owner, SPEC.description)
    assert service.tags["model"] == "flight_delay"
    assert not store.get_on_demand_feature_view("flight_delay_request").singleton


def test_applying_again_changes_nothing(features: FeatureStore) -> None:
    def registered() -> dict[str, list[Any]]:
        with closing(sqlite3.connect(features.registry.removeprefix("sqlite:///"))) as registry:
            tables = registry.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return {
                name: registry.execute(f"SELECT * FROM {name}").fetchall()
                for (name,) in tables.fetchall()
            }

    before = registered()
    assert len(before["feature_views"]) == len(SPEC.views)
    assert len(before["on_demand_feature_views"]) == len(before["feature_services"]) == 1
    features.apply(DOMAIN, SPEC.views, [SPEC])
    assert registered() == before
