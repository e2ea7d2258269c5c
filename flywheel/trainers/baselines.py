"""Two yardsticks: what a straight line reaches, and what boosted trees reach, on the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flywheel.training import TrainingData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Baseline(Protocol):
    """A model that is fitted only to be compared with; it is never deployed."""

    def score(self, train: TrainingData, cases: TrainingData, seed: int) -> NDArray[np.float64]:
        """Fit on `train` and return float64 [n] probabilities of `cases`."""
        ...


@dataclass(frozen=True)
class LogisticRegression:
    """L2-regularised logistic regression on standardised numbers and one-hot categories."""

    regularisation: float = 0.1

    def score(self, train: TrainingData, cases: TrainingData, seed: int) -> NDArray[np.float64]:
        """Fit and score."""
        import numpy as np
        from sklearn.linear_model import LogisticRegression as Regression

        center = np.nanmedian(train.numeric, axis=0)
        center = np.nan_to_num(center)
        spread = np.nanstd(train.numeric, axis=0)
        spread = np.where(spread > 0, spread, 1.0)

        def design(data: TrainingData) -> NDArray[np.float64]:
            missing = np.isnan(data.numeric)
            numeric = np.clip((np.where(missing, center, data.numeric) - center) / spread, -5, 5)
            one_hot = [
                np.eye(size)[data.categorical[:, i]] for i, size in enumerate(data.cardinalities)
            ]
            return np.concatenate([numeric, *one_hot], axis=1)

        model = Regression(C=self.regularisation, max_iter=200, random_state=seed)
        model.fit(design(train), train.label)
        return model.predict_proba(design(cases))[:, 1]


@dataclass(frozen=True)
class GradientBoosting:
    """LightGBM on one thread (its spinning thread pool collapses on a busy machine)."""

    trees: int = 150
    learning_rate: float = 0.07

    def score(self, train: TrainingData, cases: TrainingData, seed: int) -> NDArray[np.float64]:
        """Fit and score."""
        import lightgbm
        import numpy as np

        def design(data: TrainingData) -> NDArray[np.float64]:
            return np.concatenate([data.numeric, data.categorical], axis=1).astype(np.float64)

        width = train.numeric.shape[1]
        parameters = {
            "objective": "binary",
            "learning_rate": self.learning_rate,
            "num_threads": 1,
            "seed": seed,
            "deterministic": True,
            "verbose": -1,
        }
        categorical = list(range(width, width + train.categorical.shape[1]))
        rows = lightgbm.Dataset(design(train), train.label, categorical_feature=categorical)
        booster = lightgbm.train(parameters, rows, self.trees)
        return np.asarray(booster.predict(design(cases)), dtype=np.float64)
