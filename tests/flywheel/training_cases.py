"""Cases that the trainers' tests learn from."""

from __future__ import annotations

import numpy as np

from flywheel.training import TrainingData

CARRIERS, HOURS = 4, 3


def cases(seed: int, rows: int) -> TrainingData:
    """Cases that can be learned: the label follows the first number and the first category."""
    random = np.random.default_rng(seed)
    numeric = random.normal(size=(rows, 3)).astype(np.float32)
    # Code 0 (unknown) is left out of training, as it is in a training set's own vocabulary.
    categorical = np.stack(
        [random.integers(1, CARRIERS, rows), random.integers(1, HOURS, rows)], axis=1
    )
    logit = 2 * numeric[:, 0] + categorical[:, 0] - 2
    label = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    numeric[random.random((rows, 3)) < 0.1] = np.nan
    return TrainingData(
        numeric, categorical, label, ("a", "b", "c"), ("carrier", "hour"), (CARRIERS, HOURS)
    )


TRAIN, VALIDATION = cases(1, 400), cases(2, 150)
