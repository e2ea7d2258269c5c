"""Logistic regression: what a straight line reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flywheel.trainers.export import hold_to, log_loss
from flywheel.training import Report, TrainedModel, TrainingData, check

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flywheel.checkpoints import Checkpoints

# Standardised numbers are clipped to this many standard deviations.
CLIP = 5.0
OPSET, IR_VERSION = 17, 8


@dataclass(frozen=True)
class LogisticRegression:
    """L2-regularised logistic regression on standardised numbers and one-hot categories.

    Attributes:
        regularisation: Inverse of its strength: smaller is stronger.
    """

    regularisation: float = 0.1

    @property
    def version(self) -> str:
        """Recipe version."""
        return "logistic-1"

    @property
    def kind(self) -> str:
        """What fits it."""
        return "scikitlearn"

    def score(self, train: TrainingData, cases: TrainingData, seed: int) -> NDArray[np.float64]:
        """Fit on `train` and return float64 [n] probabilities of `cases`."""
        return self._line(train, seed).predict(cases)

    def fit(
        self,
        train: TrainingData,
        validation: TrainingData,
        seed: int,
        checkpoints: Checkpoints | None = None,
        report: Report | None = None,
    ) -> TrainedModel:
        """Fit in seconds and one step, without checkpoints; `validation` is only measured.

        Raises:
            TrainingError: The data cannot be learned from.
        """
        del checkpoints, report
        figures = check(train, validation)
        line = self._line(train, seed)
        onnx, answers = line.export(), line.predict(validation)
        hold_to(answers, onnx, validation)
        loss = log_loss(validation, answers)
        curves = {"train_loss": [log_loss(train, line.predict(train))], "validation_loss": [loss]}
        return TrainedModel(onnx, curves, {"best_validation_loss": loss, **figures})

    def _line(self, train: TrainingData, seed: int) -> _Line:
        import warnings

        import numpy as np
        from sklearn.linear_model import LogisticRegression as Regression
        from threadpoolctl import threadpool_limits

        with warnings.catch_warnings():
            # A column without any value has no middle and no spread; it stays at zero.
            warnings.simplefilter("ignore", RuntimeWarning)
            center = np.nan_to_num(np.nanmedian(train.numeric, axis=0))
            spread = np.nanstd(train.numeric, axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        model = Regression(C=self.regularisation, max_iter=200, random_state=seed)
        # The sums of several threads come in another order, which moves the weights.
        with threadpool_limits(1):
            model.fit(_design(train, center, spread), train.label)
        return _Line(center, spread, model.coef_[0], float(np.ravel(model.intercept_)[0]), train)


@dataclass(frozen=True)
class _Line:
    """The fitted line.

    Attributes:
        center: Float [numbers], the medians; they stand in for missing values.
        spread: Float [numbers], the standard deviations.
        weights: float64 [numbers + sum of cardinalities].
        intercept: Log odds of a case with all inputs at zero.
        like: Data whose columns these are.
    """

    center: NDArray[np.float32]
    spread: NDArray[np.float32]
    weights: NDArray[np.float64]
    intercept: float
    like: TrainingData

    def predict(self, data: TrainingData) -> NDArray[np.float64]:
        """Probabilities, float64 [n]."""
        import numpy as np
        from scipy.special import expit

        design = _design(data, self.center, self.spread)
        return np.asarray(expit(design @ self.weights + self.intercept))

    def export(self) -> bytes:
        """The line as ONNX; a category is a table of weights to look its code up in."""
        import numpy as np
        from onnx import TensorProto, checker, helper, numpy_helper

        width = len(self.like.numbers)
        constants = {
            "center": self.center.astype(np.float64),
            "spread": self.spread.astype(np.float64),
            "low": np.float64(-CLIP),
            "high": np.float64(CLIP),
            "weights": self.weights[:width, None],
            "intercept": np.float64(self.intercept),
        }
        # A number is worked on in float64, as it is when the line is fitted.
        nodes = [
            helper.make_node("Cast", ["numeric"], ["wide"], to=TensorProto.DOUBLE),
            helper.make_node("IsNaN", ["wide"], ["missing"]),
            helper.make_node("Where", ["missing", "center", "wide"], ["filled"]),
            helper.make_node("Sub", ["filled", "center"], ["centred"]),
            helper.make_node("Div", ["centred", "spread"], ["scaled"]),
            helper.make_node("Clip", ["scaled", "low", "high"], ["standard"]),
            helper.make_node("MatMul", ["standard", "weights"], ["line"]),
            helper.make_node("Add", ["line", "intercept"], ["sum"]),
        ]
        total, start = "sum", width
        for i, size in enumerate(self.like.cardinalities):
            constants[f"table{i}"] = self.weights[start : start + size]
            constants[f"column{i}"] = np.array([i], np.int64)
            nodes += [
                helper.make_node("Gather", ["categorical", f"column{i}"], [f"code{i}"], axis=1),
                helper.make_node("Gather", [f"table{i}", f"code{i}"], [f"weight{i}"]),
                helper.make_node("Add", [total, f"weight{i}"], [f"sum{i}"]),
            ]
            total, start = f"sum{i}", start + size
        nodes += [
            helper.make_node("Sigmoid", [total], ["wide_probability"]),
            helper.make_node("Cast", ["wide_probability"], ["probability"], to=TensorProto.FLOAT),
        ]
        graph = helper.make_graph(
            nodes,
            "logistic_regression",
            [
                helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["batch", width]),
                helper.make_tensor_value_info(
                    "categorical", TensorProto.INT64, ["batch", len(self.like.categories)]
                ),
            ],
            [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", 1])],
            [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        checker.check_model(model)
        return model.SerializeToString(deterministic=True)


def _design(
    data: TrainingData, center: NDArray[np.float32], spread: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Float64 [n, numbers + sum of cardinalities]."""
    import numpy as np

    missing = np.isnan(data.numeric)
    numeric = (np.where(missing, center, data.numeric) - center) / spread
    one_hot = [np.eye(size)[data.categorical[:, i]] for i, size in enumerate(data.cardinalities)]
    return np.concatenate([np.clip(numeric, -CLIP, CLIP), *one_hot], axis=1, dtype=np.float64)
