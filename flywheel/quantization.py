"""From a float32 network to an int8 one, after the fit and without data.

Dynamic quantisation by ONNX Runtime: weights become int8 once, activations at each call. What it
costs and saves is measured by `python -m bench gates`, and judged by the gate `Quantized`.

Two traps. The scale of an activation is taken over the whole batch, so an answer moves a little
with the cases that share its batch: `Quantization.batch_gap` says by how much. And x86 without VNNI
saturates when it adds up products of 8 bits, so weights get 7 (`reduce_range`): then a bundle
answers its probe on an old processor as it did where it was trained.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flywheel.contest import Quantization
from flywheel.evaluation import score
from flywheel.training import TrainedModel, TrainingData, TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Changes whenever the recipe changes what it produces.
QUANTIZATION_VERSION = "int8-1"

FLOAT_FILE = "model_float32.onnx"

# Embeddings stay float: they are small, and their lookups cost nothing to begin with.
_OPERATORS = ["MatMul"]  # a Gemm is taken apart into a MatMul and an Add first

_SINGLE_ROWS = 200


def quantize(onnx: bytes) -> bytes:
    """An int8 network from a float32 one; the same bytes for the same bytes.

    Raises:
        TrainingError: It has no float32 matrix product to quantise, as trees have none.
    """
    from onnx import helper, load_from_string
    from onnxruntime.quantization import quantize_dynamic

    model = load_from_string(onnx)
    # Else each call advises, through the root logger, a preparation that fuses convolutions.
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory(prefix="flywheel-int8-") as folder:
        file = Path(folder) / "int8.onnx"
        quantize_dynamic(model, file, op_types_to_quantize=_OPERATORS, reduce_range=True)
        int8 = load_from_string(file.read_bytes())
    if not any(node.op_type == "MatMulInteger" for node in int8.graph.node):
        raise TrainingError(
            "the model has no float32 matrix product, so int8 would change nothing: leave "
            'precision at "float32" or train a network'
        )
    return int8.SerializeToString(deterministic=True)


def quantized(trained: TrainedModel) -> TrainedModel:
    """A fitted model in int8, with its float original beside it.

    Raises:
        TrainingError: See `quantize`.
    """
    int8 = quantize(trained.onnx)
    figures = {"int8_bytes": float(len(int8)), "float32_bytes": float(len(trained.onnx))}
    return replace(
        trained, onnx=int8, original=trained.onnx, metrics={**trained.metrics, **figures}
    )


def compare_with_original(original: bytes, int8: bytes, cases: TrainingData) -> Quantization:
    """What the int8 network lost, on cases that neither was trained on.

    Args:
        original: The float32 network.
        int8: The network that is served.
        cases: The held-out cases, encoded.

    Raises:
        ValueError: The cases cannot be scored.
    """
    import numpy as np

    from flywheel.onnx_runtime import predict

    theirs, ours = predict(original, cases), predict(int8, cases)
    some = slice(0, _SINGLE_ROWS)
    alone = predict(int8, cases.rows(some), batch=1)
    together: NDArray[np.float32] = predict(int8, cases.rows(some))
    return Quantization(
        original=score(cases.label, theirs),
        original_bytes=len(original),
        quantized_bytes=len(int8),
        max_abs_diff=float(np.abs(ours - theirs).max()),
        batch_gap=float(np.abs(alone - together).max()),
    )
