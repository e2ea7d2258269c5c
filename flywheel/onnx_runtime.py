"""Run an ONNX model in process, as Triton will: one thread, the same two inputs and one output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flywheel.training import TrainingData


def predict(onnx: bytes, data: TrainingData, batch: int = 8192) -> NDArray[np.float32]:
    """Probabilities of encoded cases.

    Args:
        onnx: The model.
        data: Cases; labels are not looked at.
        batch: Rows per call.

    Returns:
        float32 [n].
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    wanted = {one.name for one in session.get_inputs()}
    parts = [
        np.asarray(
            session.run(
                ["probability"],
                {
                    name: tensor[start : start + batch]
                    for name, tensor in (
                        ("numeric", data.numeric),
                        ("categorical", data.categorical),
                    )
                    if name in wanted
                },
            )[0]
        )[:, 0]
        for start in range(0, len(data), batch)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)
