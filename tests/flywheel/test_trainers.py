"""Lines and trees are trainers like the network: what they export answers as they do."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from flywheel.evaluation import auc
from flywheel.onnx_runtime import predict
from flywheel.trainers.linear import LogisticRegression
from flywheel.trainers.tabular import TabularNetwork
from flywheel.trainers.tree_onnx import trees_to_onnx
from flywheel.trainers.trees import GradientBoosting
from flywheel.training import Pruned, Trainer, TrainingData, TrainingError
from tests.flywheel.training_cases import CARRIERS, TRAIN, VALIDATION

TRAINERS = [
    LogisticRegression(),
    GradientBoosting(trees=20),
    TabularNetwork(hidden=(16,), epochs=2, batch_size=64, learning_rate=1e-2),
]


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda t: t.version)
def test_every_trainer_keeps_the_contract(trainer: Trainer) -> None:
    trained = trainer.fit(TRAIN, VALIDATION, 7)
    assert trainer.fit(TRAIN, VALIDATION, 7, None) == trained
    assert auc(VALIDATION.label, predict(trained.onnx, VALIDATION)) > 0.7
    assert trained.metrics["best_validation_loss"] == min(trained.curves["validation_loss"])
    # A number of numpy's is none to Dagster's metadata.
    curves = [value for curve in trained.curves.values() for value in curve]
    assert {type(value) for value in (*curves, *trained.metrics.values())} <= {float, int}
    graph = onnx.load_from_string(trained.onnx).graph
    tensors = {
        t.name: (t.type.tensor_type.elem_type, [d.dim_value for d in t.type.tensor_type.shape.dim])
        for t in (*graph.input, *graph.output)
    }
    assert tensors == {
        "numeric": (onnx.TensorProto.FLOAT, [0, 3]),
        "categorical": (onnx.TensorProto.INT64, [0, 2]),
        "probability": (onnx.TensorProto.FLOAT, [0, 1]),
    }


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda t: t.version)
def test_an_input_without_any_value_is_named(
    trainer: Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    numeric = TRAIN.numeric.copy()
    numeric[:, 1] = np.nan
    # A category without any value has a vocabulary without any word.
    sizes = (CARRIERS, 1)
    nothing, nobody = (
        replace(d, categorical=d.categorical * [1, 0], cardinalities=sizes)
        for d in (TRAIN, VALIDATION)
    )
    with caplog.at_level(logging.WARNING):
        trained = trainer.fit(replace(nothing, numeric=numeric), nobody, 7)
    assert "inputs ['b', 'hour'] are null in all 400 training cases" in caplog.text
    assert trained.metrics["all_null_inputs"] == 2
    assert np.isfinite(predict(trained.onnx, nobody)).all()


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda t: t.version)
def test_what_cannot_be_learned_is_refused_by_all(trainer: Trainer) -> None:
    with pytest.raises(TrainingError, match="holds no labelled case"):
        trainer.fit(TRAIN.rows(slice(0, 0)), VALIDATION, 7)
    with pytest.raises(TrainingError, match="have the same label"):
        trainer.fit(TRAIN.rows(TRAIN.label == 1), VALIDATION, 7)
    for code in (-1, 4):
        categorical = VALIDATION.categorical.copy()
        categorical[3, 0] = code
        with pytest.raises(TrainingError, match=r"vocabularies of carrier \(0 to 3\); encode"):
            trainer.fit(TRAIN, replace(VALIDATION, categorical=categorical), 7)


def wild(random: np.random.Generator, rows: int, sizes: tuple[int, ...]) -> TrainingData:
    """Numbers of many scales, some missing, some zero, some equal; categories with many codes."""
    numeric = random.normal(size=(rows, 4)) * [1, 1e6, 1e-6, 3] + [0, 1e7, 0, 0]
    numeric[:, 3] = np.round(numeric[:, 3])
    numeric[random.random((rows, 4)) < [0.3, 0.0, 0.1, 0.05]] = np.nan
    categorical = np.stack([random.integers(0, size, rows) for size in sizes], axis=1)
    effects = [np.random.default_rng(i).normal(size=size) for i, size in enumerate(sizes)]
    logit = np.nan_to_num(numeric[:, 0], nan=1.5) + np.isnan(numeric[:, 3])
    logit = logit + sum(e[c] for e, c in zip(effects, categorical.T, strict=True))
    label = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    names = tuple("abcd"), tuple("xyz")
    return TrainingData(numeric.astype(np.float32), categorical, label, *names, sizes)


def design(data: TrainingData) -> np.ndarray[Any, Any]:
    return np.concatenate([data.numeric, data.categorical], axis=1).astype(np.float64)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("unused", ["any", "never missing"])
def test_exported_trees_answer_as_lightgbm_does(seed: int, unused: str) -> None:
    import lightgbm

    random, sizes = np.random.default_rng(seed), (3, 40, 120)
    train, asked = wild(random, 3000, sizes), wild(random, 2000, sizes)
    if unused == "never missing":  # where none is missing, LightGBM takes a missing one for zero
        train = replace(train, numeric=np.nan_to_num(train.numeric))
    rows = lightgbm.Dataset(design(train), train.label, categorical_feature=[4, 5, 6])
    parameters = {
        "objective": "binary", "verbose": -1, "num_threads": 1, "seed": seed,
        "min_data_per_group": 5, "cat_smooth": 1, "max_cat_to_onehot": [1, 4, 64][seed % 3],
    }  # fmt: skip
    booster = lightgbm.train(parameters, rows, 40)
    onnx_bytes = trees_to_onnx(booster.dump_model(), 4, 3)
    # Unknown categories, codes that no vocabulary has, and cases without any number.
    categorical = asked.categorical.copy()
    categorical[:200] = 0
    categorical[200:400] += 500
    categorical[400:500] = -3
    numeric = asked.numeric.copy()
    numeric[300:600] = np.nan
    # Numbers that sit on a threshold exactly, and beside it.
    numeric[600:1000, 3] = np.float32(0.5)
    numeric[1000:1200, :] = 0
    asked = replace(asked, numeric=numeric, categorical=categorical)
    expected = np.asarray(booster.predict(design(asked)))
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(predict(onnx_bytes, asked), expected, rtol=0, atol=1e-6)


def test_trees_that_never_split_answer_with_the_base_rate() -> None:
    few = TRAIN.rows(slice(0, 12))
    trained = GradientBoosting(trees=3).fit(few, VALIDATION, 7)
    np.testing.assert_allclose(predict(trained.onnx, VALIDATION), few.label.mean(), atol=1e-6)


def test_the_trees_after_the_best_one_are_left_out() -> None:
    overfitted = GradientBoosting(trees=200, learning_rate=0.5).fit(TRAIN, VALIDATION, 7)
    best = int(overfitted.metrics["trees"])
    assert 1 <= best < 200
    assert overfitted.curves["validation_loss"][best - 1] == min(
        overfitted.curves["validation_loss"]
    )
    again = GradientBoosting(trees=best, learning_rate=0.5).fit(TRAIN, VALIDATION, 7)
    assert again.onnx == overfitted.onnx


def test_another_objective_is_refused() -> None:
    with pytest.raises(TrainingError, match="only objective 'binary sigmoid:1' is exported"):
        trees_to_onnx({"objective": "regression", "tree_info": []}, 1, 0)


def test_an_exported_line_answers_as_scikit_learn_does() -> None:
    random, sizes = np.random.default_rng(3), (3, 40, 120)
    train, asked = wild(random, 3000, sizes), wild(random, 2000, sizes)
    line = LogisticRegression()
    trained = line.fit(train, asked, 7)
    expected = line.score(train, asked, 7)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(predict(trained.onnx, asked), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("trainer", TRAINERS[1:], ids=lambda t: t.version)
def test_a_fit_tells_how_each_step_went_and_ends_when_it_is_told_to(trainer: Trainer) -> None:
    told: list[tuple[int, float]] = []

    def watch(step: int, loss: float) -> None:
        told.append((step, loss))

    trained = trainer.fit(TRAIN, VALIDATION, 7, report=watch)
    assert told == list(enumerate(trained.curves["validation_loss"], start=1))
    assert trained == trainer.fit(TRAIN, VALIDATION, 7)

    def stop(step: int, _loss: float) -> None:
        if step == 2:
            raise Pruned

    with pytest.raises(Pruned):
        trainer.fit(TRAIN, VALIDATION, 7, report=stop)
