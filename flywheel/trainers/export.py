"""What every export is held to before it leaves its trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flywheel.training import TrainingData, TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

GREATEST_DIFFERENCE = 1e-5


def hold_to(expected: NDArray[Any], onnx: bytes, data: TrainingData) -> None:
    """Refuse an export that computes something else than the fitted model.

    Args:
        expected: Float [n], what the fitted model answers in its own library.
        onnx: The export.
        data: The cases it was asked about.

    Raises:
        TrainingError: The two differ by more than 1e-5.
    """
    import numpy as np

    from flywheel.onnx_runtime import predict

    difference = float(np.abs(predict(onnx, data) - expected).max())
    if not difference <= GREATEST_DIFFERENCE:
        raise TrainingError(
            f"the ONNX export differs from the fitted model by {difference:.2e} (limit "
            f"{GREATEST_DIFFERENCE:.0e})"
        )


def log_loss(data: TrainingData, probability: NDArray[Any]) -> float:
    """Mean log-loss in nats of float [n] probabilities of cases."""
    import numpy as np

    certain = np.clip(probability.astype(np.float64), 1e-15, 1 - 1e-15)
    return float(-np.log(np.where(data.label == 1, certain, 1 - certain)).mean())
