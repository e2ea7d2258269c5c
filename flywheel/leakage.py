"""Label leakage: an input that alone tells the answer was very likely made from it.

Each input is scored by itself. A number may rank the cases up or down, and missing values may rank
below or above all others: what is missing can leak as well. A category is ranked by the share of
positives of its values, learned on one half of the cases and scored on the other, since a column
of identifiers would rank its own cases perfectly. A number that tells the answer without ranking it
(both ends late, the middle in time) is not found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flywheel.evaluation import checked, mann_whitney

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

TOO_GOOD = 0.99


def leaking_features(
    label: ArrayLike, features: Mapping[str, ArrayLike], max_auc: float = TOO_GOOD
) -> dict[str, float]:
    """The features that alone reach an AUC above `max_auc`, with that AUC, the worst first.

    Args:
        label: 0 or 1 [n].
        features: Numbers with NaN for missing, or objects with None, [n] each.
        max_auc: What no honest input reaches.

    Raises:
        ValueError: The labels cannot be scored, or a feature has another length.
    """
    aucs = single_feature_aucs(label, features)
    worst = sorted(aucs.items(), key=lambda item: -item[1])
    return {name: auc for name, auc in worst if auc > max_auc}


def single_feature_aucs(label: ArrayLike, features: Mapping[str, ArrayLike]) -> dict[str, float]:
    """The AUC of each feature alone, in the direction that suits it: .5 to 1 for a number.

    Raises:
        ValueError: The labels cannot be scored, or a feature has another length.
    """
    import numpy as np

    y, _ = checked(label, np.zeros(np.shape(label)))
    found = {}
    for name, values in features.items():
        column = np.asarray(values)
        if column.shape != y.shape:
            raise ValueError(f"feature {name!r} has shape {column.shape}, labels {y.shape}")
        if column.dtype.kind in "fiub":
            found[name] = _number_auc(y, column.astype(np.float64))
        else:
            found[name] = _category_auc(y, column)
    return found


def _number_auc(y: NDArray[np.float64], value: NDArray[np.float64]) -> float:
    import numpy as np

    missing = np.isnan(value)
    ends = (-np.inf, np.inf) if missing.any() else (0.0,)
    aucs = [mann_whitney(y, np.where(missing, end, value)) for end in ends]
    return max(max(auc, 1.0 - auc) for auc in aucs)


def _category_auc(y: NDArray[np.float64], value: NDArray[np.generic]) -> float:
    import numpy as np

    # As text, None included: objects of several types have no order.
    _, code = np.unique(value.astype(str), return_inverse=True)
    half = np.random.default_rng(0).permutation(len(y)) % 2
    share = np.empty(len(y))
    for learned in (0, 1):
        known = half == learned
        prior = y[known].mean() if known.any() else 0.5
        rows = np.bincount(code[known], minlength=code.max() + 1)
        positives = np.bincount(code[known], y[known], minlength=code.max() + 1)
        scored = ~known
        # One case of prior belief: a value that was never learned ranks in the middle.
        share[scored] = ((positives + prior) / (rows + 1))[code[scored]]
    aucs = [
        mann_whitney(y[half == side], share[half == side])
        for side in (0, 1)
        if len(np.unique(y[half == side])) > 1
    ]
    return float(np.mean(aucs)) if aucs else 0.5
