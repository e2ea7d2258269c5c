"""An int8 network is smaller, nearly as good, the same each time, and honest about its batches."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from flywheel.contest import Contest
from flywheel.evaluation import score
from flywheel.gates import Quantized
from flywheel.onnx_runtime import predict
from flywheel.quantization import compare_with_original, quantize, quantized
from flywheel.trainers.linear import LogisticRegression
from flywheel.trainers.tabular import TabularNetwork
from flywheel.trainers.trees import GradientBoosting
from flywheel.training import TrainedModel, TrainingError
from tests.flywheel.training_cases import TRAIN, VALIDATION


@pytest.fixture(scope="module")
def network() -> TrainedModel:
    return TabularNetwork(hidden=(256, 128), epochs=4, batch_size=64).fit(TRAIN, VALIDATION, seed=3)


def test_int8_is_a_third_of_the_size_and_answers_nearly_the_same(network: TrainedModel) -> None:
    int8 = quantize(network.onnx)
    assert len(int8) < len(network.onnx) / 2.5
    ours, theirs = predict(int8, VALIDATION), predict(network.onnx, VALIDATION)
    assert 0 < np.abs(ours - theirs).max() < 0.05


def test_the_same_network_gives_the_same_bytes(network: TrainedModel) -> None:
    assert quantize(network.onnx) == quantize(network.onnx)


def test_the_float_original_stays_as_it_was(network: TrainedModel) -> None:
    made = quantized(network)
    assert made.original == network.onnx
    assert made.onnx == quantize(network.onnx)
    assert made.curves == network.curves
    assert made.metrics == {
        **network.metrics,
        "int8_bytes": float(len(made.onnx)),
        "float32_bytes": float(len(network.onnx)),
    }


def test_weights_keep_to_seven_bits_so_that_old_processors_add_up_right(
    network: TrainedModel,
) -> None:
    from onnx import load_from_string, numpy_helper

    weights = [
        numpy_helper.to_array(one)
        for one in load_from_string(quantize(network.onnx)).graph.initializer
    ]
    products = [one for one in weights if one.dtype == np.int8 and one.ndim == 2]
    assert len(products) == 3
    assert all(np.abs(one.astype(int)).max() <= 64 for one in products)


def test_quantising_gives_no_advice_about_images(
    network: TrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        quantize(network.onnx)
    assert caplog.records == []


@pytest.mark.parametrize("trainer", [GradientBoosting(trees=5), LogisticRegression()])
def test_what_has_no_float32_product_is_refused(
    trainer: GradientBoosting | LogisticRegression,
) -> None:
    onnx = trainer.fit(TRAIN, VALIDATION, seed=3).onnx
    with pytest.raises(TrainingError, match="leave precision at"):
        quantize(onnx)


def test_the_comparison_is_of_both_networks_on_the_same_cases(network: TrainedModel) -> None:
    int8 = quantize(network.onnx)
    found = compare_with_original(network.onnx, int8, VALIDATION)
    theirs, ours = predict(network.onnx, VALIDATION), predict(int8, VALIDATION)
    assert found.original == score(VALIDATION.label, theirs)
    assert (found.original_bytes, found.quantized_bytes) == (len(network.onnx), len(int8))
    assert found.max_abs_diff == pytest.approx(float(np.abs(ours - theirs).max()))
    contest = Contest(score(VALIDATION.label, ours), None, quantization=found)
    assert Quantized(tolerance=0.02).judge(contest).passed
    assert not Quantized(tolerance=-0.02).judge(contest).passed


def test_the_comparison_shows_that_an_answer_depends_on_its_batch(network: TrainedModel) -> None:
    int8 = quantize(network.onnx)
    found = compare_with_original(network.onnx, int8, VALIDATION)
    alone = [predict(int8, VALIDATION.rows(slice(i, i + 1)))[0] for i in range(len(VALIDATION))]
    gap = float(np.abs(np.array(alone) - predict(int8, VALIDATION)).max())
    assert found.batch_gap == pytest.approx(gap)
    assert gap > 0
    same = compare_with_original(network.onnx, network.onnx, VALIDATION)
    assert same.batch_gap < 1e-6
    assert same.max_abs_diff == 0.0


def test_a_network_that_was_ruined_on_the_way_does_not_pass(network: TrainedModel) -> None:
    from onnx import load_from_string, numpy_helper

    model = load_from_string(quantize(network.onnx))
    for one in model.graph.initializer:
        if one.data_type == 3 and len(one.dims) == 2:  # int8 weights
            array = numpy_helper.to_array(one)
            one.CopyFrom(numpy_helper.from_array(np.zeros_like(array), one.name))
    ruined = model.SerializeToString()
    found = compare_with_original(network.onnx, ruined, VALIDATION)
    contest = Contest(
        score(VALIDATION.label, predict(ruined, VALIDATION)), None, quantization=found
    )
    assert not Quantized(tolerance=0.02).judge(contest).passed
