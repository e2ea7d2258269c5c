"""Writes the Triton model repository: one Triton model for each deployed version.

Each version is a Triton model of its own, ``<model>__v<version>``, so both stay loaded while a
route moves from one to the other. A model directory is written aside and renamed into place,
because Triton may look at any moment. The repository is a generated work directory, never a
source tree.
"""

from __future__ import annotations

import os
import shutil
import struct
from importlib import resources
from pathlib import Path

from flywheel_serving.bundle import Bundle
from flywheel_serving.manifest import Manifest

MAX_BATCH = 4096
"""Rows one inference call may carry."""

_DIGEST = "bundle.sha256"


def _tensors(manifest: Manifest) -> list[tuple[str, str, int]]:
    """Name, Triton type and width of each input tensor; an empty one does not exist."""
    tensors = [
        ("numeric", "TYPE_FP32", len(manifest.numbers)),
        ("categorical", "TYPE_INT64", len(manifest.categories)),
    ]
    return [tensor for tensor in tensors if tensor[2]]


def _config(manifest: Manifest, backend: str, extra: str) -> str:
    inputs = ",\n".join(
        f'  {{ name: "{name}" data_type: {dtype} dims: [ {width} ] }}'
        for name, dtype, width in _tensors(manifest)
    )
    warmup = "\n".join(
        f'  inputs {{ key: "{name}" value {{ data_type: {dtype} dims: [ {width} ]'
        f' input_data_file: "{name}" }} }}'
        for name, dtype, width in _tensors(manifest)
    )
    return f"""name: "{manifest.triton_name}"
backend: "{backend}"
max_batch_size: {MAX_BATCH}
input [
{inputs}
]
output [
  {{ name: "probability" data_type: TYPE_FP32 dims: [ 1 ] }}
]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
dynamic_batching {{ }}
version_policy {{ latest {{ num_versions: 1 }} }}
model_warmup [ {{
  name: "probe"
  batch_size: 1
{warmup}
}} ]
{extra}"""


def python_config(manifest: Manifest) -> str:
    """``config.pbtxt`` for the Python backend, which is all that Triton's wheel carries.

    It is complete, so that Triton runs with auto-completion off and a load takes 0.3 s, not 2 s. No
    queue policy is set: with one, Triton 2.51 stalls each batch for 500 ms.
    """
    return _config(manifest, "python", "")


def onnxruntime_config(manifest: Manifest) -> str:
    """``config.pbtxt`` for the ONNX Runtime backend of the Triton container, with equal tensors."""
    return _config(
        manifest,
        "onnxruntime",
        """default_model_filename: "model.onnx"
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
parameters { key: "inter_op_thread_count" value { string_value: "1" } }
""",
    )


def _warmup_rows(bundle: Bundle) -> dict[str, bytes]:
    """The probe's first row, as the raw little-endian tensors Triton reads for its warm-up."""
    rows: dict[str, bytes] = {}
    for name, _, width in _tensors(bundle.manifest):
        if name == "numeric":
            row = [float("nan") if value is None else value for value in bundle.probe.numeric[0]]
            rows[name] = struct.pack(f"<{width}f", *row)
        else:
            rows[name] = struct.pack(f"<{width}q", *bundle.probe.categorical[0])
    return rows


class ModelRepository:
    """The model repository of one Triton server.

    Args:
        directory: Created if absent; owned by the gateway.
        backend: ``python`` for the wheel, ``onnxruntime`` for the container.
    """

    def __init__(self, directory: Path, backend: str = "python") -> None:
        self.directory = directory
        self._backend = backend
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.parent.glob(f".{directory.name}-*"):
            shutil.rmtree(leftover)

    def add(self, bundle: Bundle) -> str:
        """Write the Triton model of a bundle; does nothing if that very bundle is there already.

        Returns:
            Its name in Triton.
        """
        manifest = bundle.manifest
        name = manifest.triton_name
        place = self.directory / name
        mark = f"{bundle.digest} {self._backend}"
        if (place / _DIGEST).is_file() and (place / _DIGEST).read_text() == mark:
            return name
        # Beside the repository: Triton must not see a half-written model inside it.
        aside = self.directory.parent / f".{self.directory.name}-{name}.{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        version = aside / "1"
        version.mkdir(parents=True)
        shutil.copyfile(bundle.model_path, version / "model.onnx")
        if self._backend == "python":
            source = resources.files("flywheel_serving").joinpath("triton_model.py")
            (version / "model.py").write_bytes(source.read_bytes())
            config = python_config(manifest)
        else:
            config = onnxruntime_config(manifest)
        (aside / "warmup").mkdir()
        for tensor, data in _warmup_rows(bundle).items():
            (aside / "warmup" / tensor).write_bytes(data)
        (aside / "config.pbtxt").write_text(config)
        (aside / _DIGEST).write_text(mark)
        if place.exists():
            self.remove(name)
        aside.replace(place)
        return name

    def touch(self, name: str) -> None:
        """Mark a model as changed: only then does Triton's load start a new stub process."""
        for file in (self.directory / name / "1").iterdir():
            os.utime(file)

    def names(self) -> list[str]:
        """Names of the models in the repository."""
        return sorted(path.name for path in self.directory.iterdir() if path.is_dir())

    def remove(self, name: str) -> None:
        """Remove a model that is not loaded; absent ones are no error."""
        place = self.directory / name
        if not place.exists():
            return
        grave = self.directory.parent / f".{self.directory.name}-gone-{name}.{os.getpid()}"
        shutil.rmtree(grave, ignore_errors=True)
        place.replace(grave)
        shutil.rmtree(grave)
