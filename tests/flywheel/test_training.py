"""Trainers give the same model twice, serve what they fitted, refuse what cannot be learned."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.onnx_runtime import predict
from flywheel.settings import ROOT
from flywheel.trainers.baselines import Baseline, GradientBoosting, LogisticRegression
from flywheel.trainers.tabular import TabularNetwork
from flywheel.training import (
    TrainedModel,
    TrainingData,
    TrainingError,
    stable_day,
    validation_cases,
)
from tests.flywheel.training_cases import TRAIN, VALIDATION

SMALL = TabularNetwork(hidden=(16,), epochs=2, batch_size=64)


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    return SMALL.fit(TRAIN, VALIDATION, seed=7)


def test_the_same_seed_gives_the_same_bytes(trained: TrainedModel) -> None:
    again = SMALL.fit(TRAIN, VALIDATION, seed=7)
    assert again.onnx == trained.onnx
    assert again.curves == trained.curves


def test_the_bytes_do_not_tell_where_they_were_made(trained: TrainedModel) -> None:
    assert str(ROOT).encode() not in trained.onnx
    assert b".py" not in trained.onnx


def test_the_fit_learns_and_tells_how_it_went(trained: TrainedModel) -> None:
    longer = replace(SMALL, epochs=8, learning_rate=1e-2).fit(TRAIN, VALIDATION, seed=8)
    from flywheel.evaluation import auc

    assert auc(VALIDATION.label, predict(longer.onnx, VALIDATION)) > 0.75
    assert longer.onnx != trained.onnx
    assert len(trained.curves["train_loss"]) == len(trained.curves["validation_loss"]) == 2
    assert trained.metrics["epochs"] == 2
    assert trained.metrics["best_validation_loss"] == min(trained.curves["validation_loss"])


def test_missing_numbers_and_unknown_categories_have_a_finite_answer(trained: TrainedModel) -> None:
    nothing = replace(
        VALIDATION,
        numeric=np.full_like(VALIDATION.numeric, np.nan),
        categorical=np.zeros_like(VALIDATION.categorical),
    )
    answers = predict(trained.onnx, nothing)
    assert answers.dtype == np.float32
    assert np.isfinite(answers).all()
    assert ((answers > 0) & (answers < 1)).all()
    assert np.ptp(answers) == 0


def test_extreme_numbers_have_a_finite_answer(trained: TrainedModel) -> None:
    extreme = np.where(np.arange(3) % 2, np.float32(3e38), np.float32(-3e38))
    answers = predict(trained.onnx, replace(VALIDATION, numeric=np.tile(extreme, (150, 1))))
    assert np.isfinite(answers).all()


def test_any_batch_size_gives_the_same_answers(trained: TrainedModel) -> None:
    whole = predict(trained.onnx, VALIDATION)
    np.testing.assert_allclose(predict(trained.onnx, VALIDATION, batch=1), whole, atol=1e-6)
    np.testing.assert_allclose(predict(trained.onnx, VALIDATION, batch=64), whole, atol=1e-6)
    assert len(predict(trained.onnx, VALIDATION.rows(slice(0, 0)))) == 0


def spoiled(**changes: Any) -> TrainingData:
    return replace(TRAIN, **changes)


def number(value: float) -> np.ndarray[Any, Any]:
    numeric = TRAIN.numeric.copy()
    numeric[3, 1] = value
    return numeric


def label(value: float) -> np.ndarray[Any, Any]:
    labels = TRAIN.label.copy()
    labels[3] = value
    return labels


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (TRAIN.rows(slice(0, 0)), "holds no labelled case"),
        (TRAIN.rows(TRAIN.label == 1), "have the same label; widen the training"),
        (TRAIN.rows(TRAIN.label == 0), "have the same label; widen the training"),
        (spoiled(label=label(np.nan)), "1 of 400 labels are neither 0 nor 1"),
        (spoiled(label=label(0.5)), "1 of 400 labels are neither 0 nor 1"),
        (spoiled(numeric=number(np.inf)), r"inputs \['b'\] hold infinite values"),
        (spoiled(numeric=number(-np.inf)), r"inputs \['b'\] hold infinite values"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_a_sentence(data: TrainingData, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        SMALL.fit(data, VALIDATION, seed=7)
    with pytest.raises(TrainingError, match=sentence):
        SMALL.fit(TRAIN, data, seed=7)


def test_it_is_said_whether_cases_to_learn_from_or_to_validate_by_are_missing() -> None:
    nothing, late = TRAIN.rows(slice(0, 0)), VALIDATION.rows(VALIDATION.label == 1)
    with pytest.raises(TrainingError, match="no labelled case to learn from"):
        SMALL.fit(nothing, VALIDATION, seed=7)
    with pytest.raises(TrainingError, match=f"all {len(late)} labelled cases to validate by"):
        SMALL.fit(TRAIN, late, seed=7)


def test_a_fit_that_diverges_says_what_to_look_at() -> None:
    wild = replace(SMALL, learning_rate=1e38, weight_decay=1e3, epochs=4)
    with pytest.raises(TrainingError, match=r"the loss became .* in epoch \d: lower the learning"):
        wild.fit(TRAIN, VALIDATION, seed=7)


def test_a_constant_and_an_always_missing_number_do_no_harm() -> None:
    numeric = TRAIN.numeric.copy()
    numeric[:, 1], numeric[:, 2] = 4.0, np.nan
    model = SMALL.fit(spoiled(numeric=numeric), VALIDATION, seed=7)
    assert np.isfinite(predict(model.onnx, VALIDATION)).all()


@pytest.mark.parametrize("baseline", [LogisticRegression(), GradientBoosting(trees=20)], ids=repr)
def test_a_baseline_gives_better_than_random_probabilities(baseline: Baseline) -> None:
    from flywheel.evaluation import auc

    answers = baseline.score(TRAIN, VALIDATION, seed=7)
    assert answers.shape == (len(VALIDATION),)
    assert ((answers >= 0) & (answers <= 1)).all()
    assert auc(VALIDATION.label, answers) > 0.75


def test_a_day_validates_whole_and_the_last_one_always_does() -> None:
    day = np.repeat(np.arange(100, 135), 3)
    validation = validation_cases(day)
    assert sorted(set(day[validation])) == [104, 114, 124, 134]
    assert validation.sum() == 12
    with pytest.raises(TrainingError, match="holds no labelled case"):
        validation_cases(day[:0])


@given(st.dates(date(2013, 1, 1), date(2100, 1, 1)), st.sampled_from([2, 7, 20]))
def test_of_every_stretch_of_days_exactly_one_is_stable(start: date, every: int) -> None:
    days = [start + timedelta(days=n) for n in range(every)]
    assert sum(stable_day(day, every) for day in days) == 1


def test_stable_days_fall_on_every_weekday() -> None:
    days = [date(2013, 1, 1) + timedelta(days=n) for n in range(140)]
    weekdays = [day.weekday() for day in days if stable_day(day, 20)]
    assert sorted(weekdays) == list(range(7))
