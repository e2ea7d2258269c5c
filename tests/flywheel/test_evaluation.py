"""The scores are scikit-learn's, and refuse what cannot be scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.calibration import calibration_curve

from flywheel.evaluation import (
    HARNESS_VERSION,
    NotComparableError,
    Origin,
    auc,
    average_precision,
    calibration,
    calibration_error,
    comparable,
    log_loss,
    precision_recall_curve,
    roc_curve,
    score,
)

Cases = tuple[NDArray[Any], NDArray[Any]]


def random_cases(seed: int, rows: int, levels: int | None) -> Cases:
    """Labels and probabilities; with `levels`, only so many distinct ones (ties)."""
    random = np.random.default_rng(seed)
    probability = random.random(rows)
    label = (random.random(rows) < probability).astype(int)
    if levels:
        probability = np.round(probability * levels) / levels
    return label, probability


cases = st.builds(
    random_cases,
    st.integers(0, 2**32 - 1),
    st.integers(2, 60),
    st.sampled_from([None, 1, 2, 5, 10]),
).filter(lambda drawn: drawn[0].min() != drawn[0].max())
FIGURES = {
    "rows": 500,
    "base_rate": 0.54,
    "mean_probability": 0.51068,
    "auc": 0.802190016103,
    "log_loss": 0.563779159527,
    "brier": 0.1815352,
    "ece": 0.06052,
}
compared = settings(max_examples=60, deadline=None)


@compared
@given(cases)
def test_auc_is_scikit_learns_ties_included(drawn: Cases) -> None:
    assert auc(*drawn) == pytest.approx(metrics.roc_auc_score(*drawn), abs=1e-12)


@compared
@given(cases)
def test_log_loss_is_scikit_learns_and_finite_at_0_and_1(drawn: Cases) -> None:
    label, probability = drawn
    wanted = metrics.log_loss(label, np.clip(probability, 1e-7, 1 - 1e-7))
    assert log_loss(label, probability) == pytest.approx(wanted, abs=1e-9)


@compared
@given(cases)
def test_the_roc_curve_is_scikit_learns(drawn: Cases) -> None:
    false_rate, true_rate, _ = metrics.roc_curve(*drawn, drop_intermediate=False)
    ours = roc_curve(*drawn)
    np.testing.assert_allclose(ours[0], false_rate, atol=1e-12)
    np.testing.assert_allclose(ours[1], true_rate, atol=1e-12)


@compared
@given(cases)
def test_the_precision_recall_curve_is_scikit_learns(drawn: Cases) -> None:
    precision, recall, _ = metrics.precision_recall_curve(*drawn)
    ours = precision_recall_curve(*drawn)
    np.testing.assert_allclose(ours[0], precision[::-1], atol=1e-12)
    np.testing.assert_allclose(ours[1], recall[::-1], atol=1e-12)
    assert average_precision(*drawn) == pytest.approx(metrics.average_precision_score(*drawn))


@pytest.mark.parametrize("seed", range(5))
def test_calibration_is_scikit_learns_where_bins_can_be_filled_equally(seed: int) -> None:
    label, probability = random_cases(seed, 15 * 20, None)
    observed, predicted = calibration_curve(label, probability, n_bins=15, strategy="quantile")
    ours = calibration(label, probability)
    np.testing.assert_allclose(ours.observed, observed)
    np.testing.assert_allclose(ours.predicted, predicted)
    assert ours.count.tolist() == [20] * 15


def test_calibration_of_fewer_cases_than_bins_puts_each_in_its_own() -> None:
    table = calibration([0, 1, 1], [0.9, 0.2, 0.4])
    assert table.predicted.tolist() == [0.2, 0.4, 0.9]
    assert table.observed.tolist() == [1.0, 1.0, 0.0]


def test_the_calibration_error_is_the_mean_distance_between_promise_and_outcome() -> None:
    # Two bins of two: |.5 - .15| and |1 - .75|.
    assert calibration_error([0, 1, 1, 1], [0.1, 0.2, 0.7, 0.8], bins=2) == pytest.approx(0.3)


def test_the_greatest_calibration_error_is_that_of_the_worst_bin() -> None:
    table = calibration([0, 1, 1, 1], [0.1, 0.2, 0.7, 0.8], bins=2)
    assert table.error == pytest.approx(0.3)
    assert table.greatest_error == pytest.approx(0.35)


def test_all_scores_of_one_set_agree_with_the_single_functions() -> None:
    label, probability = random_cases(3, 200, None)
    all_scores = score(label, probability)
    assert all_scores.rows == 200
    assert all_scores.base_rate == label.mean()
    assert all_scores.mean_probability == pytest.approx(probability.mean())
    assert all_scores.auc == auc(label, probability)
    assert all_scores.log_loss == log_loss(label, probability)
    assert all_scores.brier == pytest.approx(metrics.brier_score_loss(label, probability))
    assert all_scores.ece == calibration_error(label, probability)
    assert set(all_scores.as_dict()) == set(all_scores.__dataclass_fields__)


@pytest.mark.parametrize(
    ("label", "probability", "sentence"),
    [
        ([], [], "there is no case to score"),
        ([1, 1], [0.5, 0.6], "all 2 labels are 1"),
        ([0], [0.5], "all 1 labels are 0"),
        ([0, 1], [0.5], r"labels have shape \(2,\), probabilities \(1,\)"),
        ([[0, 1]], [[0.5, 0.5]], r"want equal \[n\]"),
        ([0, 1], [0.5, np.nan], "1 probabilities are not finite"),
        ([0, 1], [np.inf, -np.inf], "2 probabilities are not finite"),
        ([0, np.nan, 1], [0.1, 0.2, 0.3], "1 labels are neither 0 nor 1: score labelled cases"),
        ([0, 2], [0.1, 0.2], "1 labels are neither 0 nor 1"),
        ([0, 1], [-3.2, 1.5], r"between -3.2 and 1.5, outside \[0, 1\]: .* apply the sigmoid"),
    ],
)
def test_what_cannot_be_scored_is_refused(label: Any, probability: Any, sentence: str) -> None:
    for function in (
        score, auc, log_loss, calibration, roc_curve, average_precision,
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            function(label, probability)


def test_figures_that_move_need_a_new_harness_version() -> None:
    """If this fails, raise `HARNESS_VERSION` and write down the figures of the new one."""
    figures = {
        name: round(value, 12) for name, value in score(*random_cases(7, 500, 50)).as_dict().items()
    }
    assert (HARNESS_VERSION, figures) == (1, FIGURES)


FIRST = Origin("flights/flight_delay_evaluation", "2013-03-01", "c0ffee", harness=1)


def test_evaluations_by_one_harness_on_the_same_cases_compare() -> None:
    comparable(FIRST, Origin("flights/flight_delay_evaluation", "2013-03-02", "c0ffee", harness=1))


def test_evaluations_by_two_harnesses_are_refused_with_the_command_that_makes_the_older_again() -> (
    None
):
    newer = Origin("flights/flight_delay_evaluation", "2013-03-08", "c0ffee", harness=2)
    for pair in ((FIRST, newer), (newer, FIRST)):
        with pytest.raises(NotComparableError, match="do not mean the same") as refused:
            comparable(*pair)
        command = "dg launch --assets flights/flight_delay_evaluation --partition 2013-03-01"
        assert str(refused.value).endswith(command)


def test_evaluations_on_different_cases_are_refused() -> None:
    other = Origin("flights/flight_delay_evaluation", "2013-03-08", "decade", harness=1)
    with pytest.raises(NotComparableError, match="only scores on the same cases compare"):
        comparable(FIRST, other)
