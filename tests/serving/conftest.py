"""Fixtures of the serving tests: a tiny ONNX model, sealed bundles, a store written by Feast."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flywheel_serving.bundle import (
    FeatureView,
    JoinKey,
    Manifest,
    ModelInput,
    Probe,
    RequestField,
    RequestSchema,
    ViewFeature,
    seal,
    write_probe,
)

if TYPE_CHECKING:
    from feast import FeatureStore

PROJECT = "flywheel"
MODEL = "delay"
TRANSFORM = '''"""Request-time features of the test model."""

def request_features(request):
    moment = request["scheduled_departure"]
    distance = request["distance"]
    return {
        "hour": float(moment.hour),
        "weekday": str(moment.weekday()),
        "band": None if distance is None else int(distance // 500),
    }
'''


def carrier_view(**changes: Any) -> FeatureView:
    """A view keyed by one string, with a feature of each type."""
    settings: dict[str, Any] = {
        "name": "carrier_stats",
        "join_keys": [JoinKey(name="carrier", dtype="string")],
        "ttl_seconds": 86400.0,
        "features": [
            ViewFeature(name="delay_mean", dtype="double"),
            ViewFeature(name="tempo", dtype="float"),
            ViewFeature(name="flights", dtype="int64"),
            ViewFeature(name="strike", dtype="bool"),
            ViewFeature(name="tier", dtype="string"),
        ],
    }
    return FeatureView(**(settings | changes))


def route_view() -> FeatureView:
    """A view with a composite key, one part of which the transform computes."""
    return FeatureView(
        name="route_stats",
        join_keys=[JoinKey(name="origin", dtype="string"), JoinKey(name="band", dtype="int64")],
        features=[ViewFeature(name="route_mean", dtype="double")],
    )


def make_manifest(version: str = "1", **changes: Any) -> Manifest:
    """The manifest of the test model."""
    settings: dict[str, Any] = {
        "model": MODEL,
        "version": version,
        "created_at": datetime.now(UTC).isoformat(),
        "project": PROJECT,
        "transform": "transform.py",
        "request": RequestSchema(
            entity_id="flight_id",
            event_timestamp="scheduled_departure",
            fields=[
                RequestField(name="flight_id", dtype="string"),
                RequestField(name="scheduled_departure", dtype="timestamp"),
                RequestField(name="carrier", dtype="string"),
                RequestField(name="origin", dtype="string"),
                RequestField(name="distance", dtype="float", nullable=True),
                RequestField(name="seats", dtype="int", nullable=True),
            ],
        ),
        "feature_views": [carrier_view(), route_view()],
        "inputs": [
            ModelInput(name="distance", source="request:distance", kind="number"),
            ModelInput(
                name="carrier",
                source="request:carrier",
                kind="category",
                vocabulary=["AA", "DL", "UA"],
            ),
            ModelInput(name="seats", source="request:seats", kind="number", default=150.0),
            ModelInput(name="hour", source="transform:hour", kind="number"),
            ModelInput(
                name="weekday",
                source="transform:weekday",
                kind="category",
                vocabulary=["0", "1", "2", "3", "4", "5", "6"],
            ),
            ModelInput(
                name="delay_mean",
                source="view:carrier_stats:delay_mean",
                kind="number",
                default=5.0,
            ),
            ModelInput(name="tempo", source="view:carrier_stats:tempo", kind="number"),
            ModelInput(name="flights", source="view:carrier_stats:flights", kind="number"),
            ModelInput(
                name="strike", source="view:carrier_stats:strike", kind="number", default=0.0
            ),
            ModelInput(
                name="tier",
                source="view:carrier_stats:tier",
                kind="category",
                vocabulary=["basic", "flag"],
                default="basic",
            ),
            ModelInput(name="carrier_age", source="age:carrier_stats", kind="number"),
            ModelInput(name="route_mean", source="view:route_stats:route_mean", kind="number"),
        ],
        "metadata": {"run_id": "test"},
    }
    return Manifest(**(settings | changes))


def weights(manifest: Manifest, bias: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Small fixed weights of the test model."""
    numbers, categories = len(manifest.numbers), len(manifest.categories)
    return (
        np.linspace(-0.002, 0.003, numbers, dtype=np.float32).reshape(-1, 1),
        np.linspace(0.05, 0.1, categories, dtype=np.float32).reshape(-1, 1),
        bias,
    )


def write_model(path: Path, manifest: Manifest, bias: float) -> None:
    """Write ``sigmoid(nan_to_zero(numeric) @ w + categorical @ v + bias)`` as ONNX."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    w, v, b = weights(manifest, bias)
    tensors = {"w": w, "v": v, "b": np.array([b], np.float32), "zero": np.zeros((), np.float32)}
    nodes = [
        helper.make_node("IsNaN", ["numeric"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "numeric"], ["clean"]),
        helper.make_node("Cast", ["categorical"], ["codes"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["clean", "w"], ["x"]),
        helper.make_node("MatMul", ["codes", "v"], ["y"]),
        helper.make_node("Add", ["x", "y"], ["xy"]),
        helper.make_node("Add", ["xy", "b"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "test",
        [
            info("numeric", TensorProto.FLOAT, ["rows", len(w)]),
            info("categorical", TensorProto.INT64, ["rows", len(v)]),
        ],
        [info("probability", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def expected_probability(
    manifest: Manifest, bias: float, numeric: list[float], categorical: list[int]
) -> float:
    """What the test model answers, computed without ONNX."""
    w, v, b = weights(manifest, bias)
    clean = [0.0 if math.isnan(value) else value for value in numeric]
    logit = float(np.dot(clean, w[:, 0]) + np.dot(categorical, v[:, 0]) + b)
    return 1 / (1 + math.exp(-logit))


MakeBundle = Callable[..., Path]


def build_bundle(
    directory: Path, version: str, bias: float, probe_error: float = 0.0, **changes: Any
) -> Path:
    """Write and seal a bundle of the test model; ``probe_error`` falsifies its probe."""
    directory.mkdir(parents=True)
    manifest = make_manifest(version, **changes)
    write_model(directory / "model.onnx", manifest, bias)
    (directory / "transform.py").write_text(TRANSFORM)
    (directory / "MLmodel").write_text("flavors: {}\n")
    rng = np.random.default_rng(0)
    numeric = rng.normal(50, 20, (4, len(manifest.numbers))).round(3).tolist()
    numeric[1][0] = math.nan
    categorical = rng.integers(0, 3, (4, len(manifest.categories))).tolist()
    probability = [
        [expected_probability(manifest, bias, row, codes) + probe_error]
        for row, codes in zip(numeric, categorical, strict=True)
    ]
    write_probe(directory, Probe(numeric, categorical, probability))
    seal(directory, manifest)
    return directory


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """The manifest of the test model."""
    return make_manifest()


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Factory of sealed bundles below the test's directory; each version is made once."""

    def make(
        version: str = "1", bias: float = 0.0, probe_error: float = 0.0, **changes: Any
    ) -> Path:
        return build_bundle(tmp_path / f"bundle-{version}", version, bias, probe_error, **changes)

    return make


@pytest.fixture(scope="session")
def expect() -> Callable[[float, list[float], list[int]], float]:
    """What the test model answers for a vector, computed without ONNX: (bias, numbers, codes)."""
    manifest = make_manifest()
    return lambda bias, numeric, codes: expected_probability(manifest, bias, numeric, codes)


def make_feast_store(root: Path, online: dict[str, Any], *views: FeatureView) -> FeatureStore:
    """A Feast feature store with some views, whose online store is configured as given."""
    from feast import Entity, FeatureStore, Field, FileSource, RepoConfig, ValueType
    from feast import FeatureView as FeastView
    from feast.types import Bool, Float32, Float64, Int64, String

    store = FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry=str(root / "registry.db"),
            online_store=online,
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )
    source = FileSource(path=str(root / "none.parquet"), timestamp_field="event_timestamp")
    types = {"double": Float64, "float": Float32, "int64": Int64, "bool": Bool, "string": String}
    values = {"string": ValueType.STRING, "int64": ValueType.INT64}
    entities = {
        key.name: Entity(name=key.name, join_keys=[key.name], value_type=values[key.dtype])
        for view in views
        for key in view.join_keys
    }
    made: list[Any] = []
    for view in views:
        keys = [Field(name=key.name, dtype=types[key.dtype]) for key in view.join_keys]
        features = [Field(name=item.name, dtype=types[item.dtype]) for item in view.features]
        joined = [entities[key.name] for key in view.join_keys]
        made.append(
            FeastView(name=view.name, entities=joined, schema=keys + features, source=source)
        )
    store.apply([*entities.values(), *made])
    return store


@pytest.fixture(scope="session")
def feast_store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A Feast feature store with the test model's views and a SQLite online store."""
    root = tmp_path_factory.mktemp("feast")
    online = {"type": "sqlite", "path": str(root / "online.db")}
    return make_feast_store(root, online, carrier_view(), route_view())


@pytest.fixture(scope="session")
def online_path(feast_store: FeatureStore) -> Path:
    """Path of the Feast store's SQLite file."""
    return Path(feast_store.config.online_store.path)
