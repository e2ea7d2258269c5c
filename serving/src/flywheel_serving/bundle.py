"""The deployed artifact: a directory of hashed files with a manifest, a model and a probe.

Sealing, opening and verifying a bundle live here, and loading its request-time transform. Neither
numpy nor any server code may be imported: training code uses this module.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, cast

import msgspec

from flywheel_serving.manifest import (
    FeatureView,
    JoinKey,
    Manifest,
    ManifestError,
    ModelInput,
    RequestField,
    RequestSchema,
    ViewFeature,
    check_manifest,
)

__all__ = [
    "Bundle",
    "BundleError",
    "FeatureView",
    "JoinKey",
    "Manifest",
    "ModelInput",
    "Probe",
    "RequestFeatures",
    "RequestField",
    "RequestSchema",
    "ViewFeature",
    "load_transform",
    "open_bundle",
    "seal",
    "write_probe",
]

MANIFEST = "manifest.json"
MODEL = "model.onnx"
PROBE = "probe.json"

RequestFeatures = Callable[[Mapping[str, Any]], Mapping[str, float | str | None]]
"""The transform: decoded request (timestamps as aware datetimes) to request-time features."""


class BundleError(ValueError):
    """A bundle is refused; the message names the file and says what to do."""


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows with the output that training computed for them.

    Attributes:
        numeric: Rows of the FP32 tensor; None stands for NaN.
        categorical: Rows of the INT64 tensor.
        probability: Expected output, one row of one value each.
    """

    numeric: list[list[float | None]]
    categorical: list[list[int]]
    probability: list[list[float]]


class Bundle(msgspec.Struct, frozen=True):
    """A verified bundle on disk.

    Attributes:
        directory: Where it lies.
        manifest: Its manifest, checked.
        probe: Its probe, whose shapes fit the manifest.
    """

    directory: Path
    manifest: Manifest
    probe: Probe

    @property
    def digest(self) -> str:
        """Identity of the content, see :attr:`Manifest.digest`."""
        return self.manifest.digest

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.directory / MODEL


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _walk(directory: Path) -> dict[str, Path]:
    """Every regular file below a directory but the manifest, by its relative POSIX path."""
    found: dict[str, Path] = {}
    for root, folders, names in os.walk(directory):
        for name in folders + names:
            path = Path(root) / name
            if path.is_symlink():
                raise BundleError(
                    f"{path} is a symbolic link; a bundle holds only files, copy the target."
                )
        for name in names:
            path = Path(root) / name
            if not path.is_file():
                raise BundleError(f"{path} is not a regular file; remove it from the bundle.")
            relative = path.relative_to(directory).as_posix()
            if relative != MANIFEST:
                found[relative] = path
    return found


def write_probe(directory: Path, probe: Probe) -> None:
    """Write ``probe.json`` into a bundle that is not sealed yet; NaN becomes null."""
    (directory / PROBE).write_bytes(msgspec.json.encode(probe))


def seal(directory: Path | str, manifest: Manifest) -> Manifest:
    """Hash every file of a directory and write its manifest last, atomically.

    Sealing a sealed directory again replaces the manifest, so a retry is harmless.

    Args:
        directory: Holds ``model.onnx``, ``probe.json`` and whatever else travels with the model.
        manifest: The manifest; its ``files`` are ignored.

    Returns:
        The manifest as written, with ``files`` filled in.

    Raises:
        BundleError: If something is missing or contradictory; nothing is written then.
    """
    directory = Path(directory)
    hashes = {name: _sha256(path) for name, path in sorted(_walk(directory).items())}
    sealed = msgspec.structs.replace(manifest, files=hashes)
    _check_content(directory, sealed)
    aside = directory.parent / f".{directory.name}.{MANIFEST}.{os.getpid()}"
    with aside.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(sealed), indent=2))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(directory / MANIFEST)
    return sealed


def open_bundle(directory: Path | str) -> Bundle:
    """Open a bundle and verify all of it.

    Raises:
        BundleError: If a file is missing, extra, changed, a link or outside the bundle, or if the
            manifest, the probe or the transform do not fit together.
    """
    directory = Path(directory)
    path = directory / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise BundleError(
            f"{path} does not exist; seal the bundle with flywheel_serving.bundle.seal."
        )
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except msgspec.DecodeError as error:
        raise BundleError(
            f"{path} is not a valid manifest ({error}); seal the bundle again."
        ) from error
    found = _walk(directory)
    for name, expected in manifest.files.items():
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or pure.as_posix() != name:
            raise BundleError(
                f"The manifest lists '{name}', which leaves the bundle; seal it again."
            )
        if name not in found:
            raise BundleError(
                f"{directory / name} is missing; copy the bundle again from its source."
            )
        if _sha256(found[name]) != expected:
            raise BundleError(
                f"{directory / name} differs from its hash in the manifest: it was changed or "
                "damaged after sealing; copy the bundle again from its source."
            )
    if extra := sorted(set(found) - set(manifest.files)):
        raise BundleError(
            f"{directory / extra[0]} is not listed in the manifest; remove it or seal the bundle "
            "again."
        )
    probe = _check_content(directory, manifest)
    return Bundle(directory, manifest, probe)


def _check_content(directory: Path, manifest: Manifest) -> Probe:
    """Check that manifest, files, probe and transform fit together; returns the probe."""
    try:
        check_manifest(manifest)
    except ManifestError as error:
        raise BundleError(f"{directory / MANIFEST}: {error}") from error
    for name in (MODEL, PROBE, manifest.transform):
        if name is not None and name not in manifest.files:
            raise BundleError(f"{directory / name} is missing; write it before sealing the bundle.")
    if manifest.transform is not None:
        _check_imports(directory / manifest.transform)
    return _read_probe(directory / PROBE, manifest)


def _read_probe(path: Path, manifest: Manifest) -> Probe:
    try:
        probe = msgspec.json.decode(path.read_bytes(), type=Probe)
    except msgspec.DecodeError as error:
        raise BundleError(f"{path} is not a valid probe ({error}); write it again.") from error
    rows = len(probe.probability)
    shapes = (
        ("numeric", probe.numeric, len(manifest.numbers)),
        ("categorical", probe.categorical, len(manifest.categories)),
        ("probability", probe.probability, 1),
    )
    for name, table, width in shapes:
        if len(table) != rows or not rows or any(len(row) != width for row in table):
            raise BundleError(
                f"{path}: '{name}' must be {max(rows, 1)} row(s) of {width} value(s), as the "
                "inputs of the manifest say; compute the probe with the same inputs."
            )
    return probe


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise BundleError(
            f"{path} is not valid Python ({error}); correct the transform."
        ) from error


def _check_imports(path: Path) -> None:
    """Refuse a transform that needs more than the standard library."""
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        else:
            continue
        for name in names:
            if name.partition(".")[0] not in sys.stdlib_module_names:
                raise BundleError(
                    f"{path}, line {node.lineno}, imports '{name}'; a transform may use only the "
                    "standard library, because the server has nothing else."
                )


def load_transform(bundle: Bundle) -> RequestFeatures | None:
    """Load the request-time transform of a verified bundle; None if it has none.

    Raises:
        BundleError: If the file cannot be run or does not define ``request_features``.
    """
    name = bundle.manifest.transform
    if name is None:
        return None
    path = bundle.directory / name
    module = types.ModuleType(f"flywheel_transform_{bundle.digest[:16]}")
    try:
        exec(compile(_parse(path), str(path), "exec"), module.__dict__)  # noqa: S102  # verified code
    except Exception as error:
        raise BundleError(f"{path} fails when it is loaded: {error!r}.") from error
    function = module.__dict__.get("request_features")
    if not callable(function):
        raise BundleError(f"{path} must define request_features(request).")
    return cast(RequestFeatures, function)
