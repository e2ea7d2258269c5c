"""Gradient-boosted trees by LightGBM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flywheel.trainers.export import hold_to
from flywheel.trainers.tree_onnx import trees_to_onnx
from flywheel.training import Report, TrainedModel, TrainingData, check

if TYPE_CHECKING:
    import lightgbm
    import numpy as np
    from lightgbm.callback import CallbackEnv
    from numpy.typing import NDArray

    from flywheel.checkpoints import Checkpoints


@dataclass(frozen=True)
class GradientBoosting:
    """LightGBM on one thread (its spinning thread pool collapses on a busy machine).

    Attributes:
        trees: At most this many.
        learning_rate: Weight of each tree.
    """

    trees: int = 150
    learning_rate: float = 0.07

    @property
    def version(self) -> str:
        """Recipe version."""
        return "trees-1"

    @property
    def kind(self) -> str:
        """What fits it."""
        return "lightgbm"

    def score(self, train: TrainingData, cases: TrainingData, seed: int) -> NDArray[np.float64]:
        """Fit all trees on `train` and return float64 [n] probabilities of `cases`."""
        import numpy as np

        booster = self._boost(self._rows(train), seed)
        return np.asarray(booster.predict(_design(cases)), dtype=np.float64)

    def fit(
        self,
        train: TrainingData,
        validation: TrainingData,
        seed: int,
        checkpoints: Checkpoints | None = None,
        report: Report | None = None,
    ) -> TrainedModel:
        """Fit in seconds, without checkpoints; keeps the trees up to the least validation loss.

        Raises:
            TrainingError: The data cannot be learned from.
            Pruned: `report` raised it; a step is a tree.
        """
        import lightgbm
        import numpy as np

        del checkpoints
        figures = check(train, validation)
        losses: dict[str, dict[str, list[float]]] = {}
        rows = self._rows(train)
        booster = self._boost(
            rows,
            seed,
            valid_sets=[rows, rows.create_valid(_design(validation), validation.label)],
            valid_names=["train", "validation"],
            callbacks=[lightgbm.record_evaluation(losses), *([_told(report)] if report else [])],
        )
        curves = {
            f"{name}_loss": [float(loss) for loss in of["binary_logloss"]]
            for name, of in losses.items()
        }
        best = int(np.argmin(curves["validation_loss"])) + 1
        dump = booster.dump_model(num_iteration=best)
        onnx = trees_to_onnx(dump, len(train.numbers), len(train.categories))
        answers = booster.predict(_design(validation), num_iteration=best)
        hold_to(np.asarray(answers), onnx, validation)
        loss = curves["validation_loss"][best - 1]
        figures = {"best_validation_loss": loss, "trees": float(best), **figures}
        return TrainedModel(onnx, curves, figures)

    def _rows(self, train: TrainingData) -> lightgbm.Dataset:
        import lightgbm

        width = train.numeric.shape[1]
        categorical = list(range(width, width + train.categorical.shape[1]))
        return lightgbm.Dataset(_design(train), train.label, categorical_feature=categorical)

    def _boost(self, rows: lightgbm.Dataset, seed: int, **more: Any) -> lightgbm.Booster:
        import lightgbm

        parameters = {
            "objective": "binary",
            "learning_rate": self.learning_rate,
            "num_threads": 1,
            "seed": seed,
            "deterministic": True,
            "verbose": -1,
        }
        return lightgbm.train(parameters, rows, self.trees, **more)


def _told(report: Report) -> Callable[[CallbackEnv], None]:
    """LightGBM's callback that hands on the validation loss after each tree."""

    def after_tree(state: CallbackEnv) -> None:
        for name, _measure, loss, *_rest in state.evaluation_result_list or []:
            if name == "validation":
                report(state.iteration + 1, float(loss))

    return after_tree


def _design(data: TrainingData) -> NDArray[np.float64]:
    """Float64 [n, numbers + categories]."""
    import numpy as np

    return np.concatenate([data.numeric, data.categorical], axis=1).astype(np.float64)
