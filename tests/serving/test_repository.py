"""The model repository holds complete, equal models for both backends."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from flywheel_serving.bundle import open_bundle
from flywheel_serving.manifest import Manifest
from flywheel_serving.repository import ModelRepository, onnxruntime_config, python_config


def parse(text: str) -> Any:
    """Parse a config.pbtxt with Triton's own schema, which refuses unknown keys."""
    config: Any = model_config_pb2
    return text_format.Parse(text, config.ModelConfig())


def test_the_python_config_is_complete(manifest: Manifest) -> None:
    config = parse(python_config(manifest))
    assert config.name == "delay__v1"
    assert config.backend == "python"
    assert config.max_batch_size == 4096
    assert [(item.name, list(item.dims)) for item in config.input] == [
        ("numeric", [9]),
        ("categorical", [3]),
    ]
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert not config.dynamic_batching.HasField("default_queue_policy")
    assert config.instance_group[0].count == 1
    assert set(config.model_warmup[0].inputs) == {"numeric", "categorical"}


def test_the_gateway_cannot_tell_the_backends_apart(manifest: Manifest) -> None:
    ours, container = parse(python_config(manifest)), parse(onnxruntime_config(manifest))
    assert container.backend == "onnxruntime"
    assert container.parameters["intra_op_thread_count"].string_value == "1"
    assert container.input == ours.input
    assert container.output == ours.output
    assert container.max_batch_size == ours.max_batch_size


@pytest.mark.parametrize("backend", ["python", "onnxruntime"])
def test_a_model_is_written_whole(
    make_bundle: Callable[..., Path], tmp_path: Path, backend: str
) -> None:
    bundle = open_bundle(make_bundle("7"))
    repository = ModelRepository(tmp_path / "repository", backend)
    assert repository.add(bundle) == "delay__v7"
    place = tmp_path / "repository" / "delay__v7"
    assert (place / "1" / "model.onnx").read_bytes() == bundle.model_path.read_bytes()
    assert (place / "1" / "model.py").exists() is (backend == "python")
    numeric = struct.unpack("<9f", (place / "warmup" / "numeric").read_bytes())
    assert numeric == pytest.approx(bundle.probe.numeric[0])
    assert repository.names() == ["delay__v7"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle-7", "repository"]


def test_adding_again_changes_nothing_and_another_content_replaces(
    make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = open_bundle(make_bundle("7"))
    repository = ModelRepository(tmp_path / "repository")
    repository.add(bundle)
    path = tmp_path / "repository" / "delay__v7" / "config.pbtxt"
    first = path.stat()
    repository.add(bundle)
    assert path.stat().st_ino == first.st_ino
    (path.parent / "bundle.sha256").write_text("of another bundle")
    repository.add(bundle)
    assert path.stat().st_ino != first.st_ino
    repository.remove("delay__v7")
    repository.remove("delay__v7")
    assert repository.names() == []
