"""A bundle is accepted only whole, unchanged and consistent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flywheel_serving.bundle import (
    BundleError,
    Manifest,
    ModelInput,
    RequestSchema,
    load_transform,
    open_bundle,
    seal,
)
from flywheel_serving.manifest import JoinKey, ManifestError, check_manifest


def test_a_sealed_bundle_opens_and_its_transform_runs(make_bundle: Callable[..., Path]) -> None:
    bundle = open_bundle(make_bundle("3"))
    assert bundle.manifest.version == "3"
    assert set(bundle.manifest.files) == {"model.onnx", "transform.py", "probe.json", "MLmodel"}
    transform = load_transform(bundle)
    assert transform is not None
    assert len(bundle.probe.probability) == 4
    assert bundle.probe.numeric[1][0] is None


def test_sealing_twice_gives_the_same_digest(make_bundle: Callable[..., Path]) -> None:
    directory = make_bundle()
    first = open_bundle(directory)
    later = msgspec.structs.replace(first.manifest, created_at="2030-01-01T00:00:00Z")
    assert seal(directory, later).digest == first.digest
    assert open_bundle(directory).digest == first.digest


@pytest.mark.parametrize(
    "change", [{"version": "9"}, {"tolerance": 0.5}, {"project": "other"}], ids=str
)
def test_the_digest_covers_the_manifest(
    make_bundle: Callable[..., Path], change: dict[str, Any]
) -> None:
    manifest = open_bundle(make_bundle()).manifest
    assert msgspec.structs.replace(manifest, **change).digest != manifest.digest


@pytest.mark.parametrize("name", ["model.onnx", "transform.py", "probe.json", "MLmodel"])
def test_a_flipped_byte_is_refused_by_name(make_bundle: Callable[..., Path], name: str) -> None:
    directory = make_bundle()
    data = bytearray((directory / name).read_bytes())
    data[len(data) // 2] ^= 1
    (directory / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} differs from its hash"):
        open_bundle(directory)


def test_a_missing_file_is_refused(make_bundle: Callable[..., Path]) -> None:
    directory = make_bundle()
    (directory / "MLmodel").unlink()
    with pytest.raises(BundleError, match="MLmodel is missing"):
        open_bundle(directory)


def test_an_extra_file_is_refused(make_bundle: Callable[..., Path]) -> None:
    directory = make_bundle()
    (directory / "sub").mkdir()
    (directory / "sub" / "new.txt").write_text("new")
    with pytest.raises(BundleError, match=r"sub/new\.txt is not listed"):
        open_bundle(directory)


def test_a_link_is_refused(make_bundle: Callable[..., Path]) -> None:
    directory = make_bundle()
    (directory / "MLmodel").unlink()
    (directory / "MLmodel").symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match="symbolic link"):
        open_bundle(directory)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../MLmodel", "./MLmodel"])
def test_a_path_that_leaves_the_bundle_is_refused(
    make_bundle: Callable[..., Path], name: str
) -> None:
    directory = make_bundle()
    path = directory / "manifest.json"
    content = msgspec.json.decode(path.read_bytes())
    content["files"][name] = "0" * 64
    path.write_bytes(msgspec.json.encode(content))
    with pytest.raises(BundleError, match="leaves the bundle"):
        open_bundle(directory)


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}', "[1"])
def test_a_damaged_manifest_is_refused(make_bundle: Callable[..., Path], text: str) -> None:
    directory = make_bundle()
    (directory / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="not a valid manifest"):
        open_bundle(directory)


def test_an_unsealed_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="seal the bundle"):
        open_bundle(tmp_path)


def test_an_unknown_key_in_the_manifest_is_refused(make_bundle: Callable[..., Path]) -> None:
    directory = make_bundle()
    path = directory / "manifest.json"
    content = msgspec.json.decode(path.read_bytes())
    content["inputs"][0]["defalt"] = 1
    path.write_bytes(msgspec.json.encode(content))
    with pytest.raises(BundleError, match="defalt"):
        open_bundle(directory)


def test_nothing_is_written_when_sealing_is_refused(make_bundle: Callable[..., Path]) -> None:
    directory = make_bundle()
    before = (directory / "manifest.json").read_bytes()
    manifest = open_bundle(directory).manifest
    with pytest.raises(BundleError, match="'numeric' must be"):
        seal(directory, msgspec.structs.replace(manifest, inputs=manifest.inputs[1:]))
    assert (directory / "manifest.json").read_bytes() == before
    assert os.listdir(directory.parent) == [directory.name]


def test_a_transform_may_use_only_the_standard_library(make_bundle: Callable[..., Path]) -> None:
    directory = make_bundle()
    manifest = open_bundle(directory).manifest
    (directory / "transform.py").write_text("import math\n\nfrom numpy import nan\n")
    with pytest.raises(BundleError, match=r"line 3, imports 'numpy'"):
        seal(directory, manifest)


@pytest.mark.parametrize(
    ("source", "message"),
    [("x = 1\n", "must define request_features"), ("1 / 0\n", "ZeroDivisionError")],
)
def test_a_transform_that_cannot_be_loaded_is_refused(
    make_bundle: Callable[..., Path], source: str, message: str
) -> None:
    directory = make_bundle()
    (directory / "transform.py").write_text(source)
    seal(directory, open_manifest(directory))
    with pytest.raises(BundleError, match=message):
        load_transform(open_bundle(directory))


def open_manifest(directory: Path) -> Manifest:
    """The manifest of a bundle whose files may have changed."""
    return msgspec.json.decode((directory / "manifest.json").read_bytes(), type=Manifest)


def _with_input(manifest: Manifest, **changes: Any) -> Manifest:
    settings = {"name": "extra", "source": "request:distance", "kind": "number"} | changes
    extra = ModelInput(**settings)
    return msgspec.structs.replace(manifest, inputs=[*manifest.inputs, extra])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "request:altitude"}, "'altitude', which is not declared"),
        ({"source": "view:nowhere:x"}, "no feature view 'nowhere'"),
        ({"source": "view:carrier_stats:x"}, "'x', which view 'carrier_stats' does not list"),
        ({"source": "age:nowhere"}, "no feature view 'nowhere'"),
        ({"source": "distance"}, "write request:FIELD"),
        ({"source": "request:carrier"}, "its source is of type string"),
        ({"kind": "category"}, "declare its vocabulary"),
        ({"kind": "category", "vocabulary": ["a"]}, "its source is of type float"),
        ({"kind": "category", "vocabulary": ["a", "a"], "source": "request:carrier"}, "twice"),
        ({"default": "x"}, "drop its vocabulary and text default"),
        ({"name": "distance"}, "declared twice"),
    ],
    ids=str,
)
def test_a_contradictory_input_is_refused(
    make_bundle: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    manifest = open_bundle(make_bundle()).manifest
    with pytest.raises(ManifestError, match=message):
        check_manifest(_with_input(manifest, **changes))


@pytest.mark.parametrize(
    "changes", [{"entity_id": "tail"}, {"event_timestamp": "carrier"}, {"entity_id": "distance"}]
)
def test_entity_and_time_must_be_declared_fields(
    make_bundle: Callable[..., Path], changes: dict[str, str]
) -> None:
    manifest = open_bundle(make_bundle()).manifest
    request: RequestSchema = msgspec.structs.replace(manifest.request, **changes)
    with pytest.raises(ManifestError, match="must be a declared request field"):
        check_manifest(msgspec.structs.replace(manifest, request=request))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (JoinKey(name="k", dtype="int64", source="request:carrier"), "make them equal"),
        (JoinKey(name="k", dtype="string", source="request:nothing"), "has no source"),
    ],
    ids=["type", "source"],
)
def test_a_join_key_needs_a_source_of_its_type(
    make_bundle: Callable[..., Path], key: JoinKey, message: str
) -> None:
    manifest = open_bundle(make_bundle()).manifest
    view = msgspec.structs.replace(manifest.feature_views[0], join_keys=[key])
    views = [view, *manifest.feature_views[1:]]
    with pytest.raises(ManifestError, match=message):
        check_manifest(msgspec.structs.replace(manifest, feature_views=views))
