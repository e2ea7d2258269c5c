"""The day-block bootstrap is the loop that everybody would write, and tells days from cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from flywheel.bootstrap import (
    METRICS,
    BootstrapError,
    compare,
    day_codes,
    day_sums,
    draw_days,
    quantiles,
)

Array = NDArray[Any]


def random_cases(seed: int, rows: int, days: int, levels: int | None) -> tuple[Array, ...]:
    """Labels, days, and two models' probabilities; with `levels` only so many distinct ones."""
    random = np.random.default_rng(seed)
    day = random.integers(0, days, rows)
    truth = random.random(rows)
    label = (random.random(rows) < truth).astype(int)
    models = [np.clip(truth + random.normal(0, s, rows), 0, 1) for s in (0.2, 0.3)]
    if levels:
        models = [np.round(p * levels) / levels for p in models]
    return label, day, *models


def brute_force_auc(label: Array, weight: Array, probability: Array) -> float:
    """All pairs, each as often as the weights of its two cases say."""
    won = total = 0.0
    for i in np.flatnonzero(label == 1):
        for j in np.flatnonzero(label == 0):
            pairs = weight[i] * weight[j]
            total += pairs
            won += pairs * (
                1.0 if probability[i] > probability[j] else 0.5 * (probability[i] == probability[j])
            )
    return won / total if total else float("nan")


cases = st.builds(
    random_cases,
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 6),
    st.sampled_from([None, 1, 2, 5]),
)
compared = settings(max_examples=60, deadline=None)


@compared
@given(cases, st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_the_scores_of_a_resample_are_those_of_its_weighted_cases(
    drawn: tuple[Array, ...], times: list[int]
) -> None:
    """Ties, days of one class and days without a case (the last two of 8) included."""
    label, day, probability, _ = drawn
    weight = np.array(times, dtype=float)
    scores = day_sums(label, day, 8, probability).scores(weight[None, :])
    of_case = weight[day]
    assert scores["auc"][0] == pytest.approx(
        brute_force_auc(label, of_case, probability), abs=1e-12, nan_ok=True
    )
    if not of_case.sum():
        assert np.isnan(scores["log_loss"][0])
        return
    clipped = np.clip(probability, 1e-7, 1 - 1e-7)
    assert scores["log_loss"][0] == pytest.approx(
        metrics.log_loss(label, clipped, sample_weight=of_case, labels=[0, 1]), abs=1e-9
    )
    assert scores["brier"][0] == pytest.approx(
        np.average((probability - label) ** 2, weights=of_case), abs=1e-12
    )


@pytest.mark.parametrize("levels", [None, 4])
def test_every_draw_is_what_scikit_learn_says_of_the_repeated_days(levels: int | None) -> None:
    label, day, ours, theirs = random_cases(5, 600, 9, levels)
    found = compare(label, day, ours, theirs, draws=25, seed=3)
    for draw, times in enumerate(draw_days(9, 25, 3)):
        rows = np.concatenate(
            [np.flatnonzero(day == d) for d in range(9) for _ in range(int(times[d]))]
        )
        one, other = (metrics.roc_auc_score(label[rows], p[rows]) for p in (ours, theirs))
        assert found.candidate["auc"].draws[draw] == pytest.approx(one, abs=1e-12)
        assert found.gain["auc"].draws[draw] == pytest.approx(one - other, abs=1e-12)
        brier = [metrics.brier_score_loss(label[rows], p[rows]) for p in (ours, theirs)]
        assert found.gain["brier"].draws[draw] == pytest.approx(brier[1] - brier[0], abs=1e-12)


def test_the_values_are_those_of_the_cases_as_they_are_and_a_gain_is_positive_if_better() -> None:
    label, day, ours, theirs = random_cases(1, 3000, 10, None)
    found = compare(label, day, ours, theirs)
    assert (found.rows, found.days) == (3000, 10)
    assert found.champion["auc"].value == pytest.approx(metrics.roc_auc_score(label, theirs))
    for metric in METRICS:
        gain = found.gain[metric]
        assert gain.value > 0
        low, high = gain.interval(0.9)
        assert low < gain.value < high
        assert gain.lower(0.95) == pytest.approx(low)
        assert compare(label, day, theirs, ours).gain[metric].value == pytest.approx(-gain.value)


def test_the_interval_of_a_mean_loss_is_scipys() -> None:
    """scipy resamples D days, this D - 1: undone by the known factor of the standard error."""
    label, day, ours, theirs = random_cases(2, 4000, 40, None)
    day = np.sort(day)
    sums = [day_sums(label, day, 40, p) for p in (ours, theirs)]
    wanted = scipy.stats.bootstrap(
        (sums[1].brier - sums[0].brier, sums[0].rows),
        lambda loss, rows, axis: loss.sum(axis) / rows.sum(axis),
        paired=True, method="percentile", n_resamples=20_000, confidence_level=0.9, rng=1,
    )  # fmt: skip
    found = compare(label, day, ours, theirs, draws=20_000, seed=4).gain["brier"]
    low, high = found.interval(0.9)
    factor = np.sqrt(40 / 39)
    width = wanted.confidence_interval.high - wanted.confidence_interval.low
    assert high - low == pytest.approx(width * factor, rel=0.03)
    assert found.draws.std() == pytest.approx(wanted.standard_error * factor, rel=0.03)


def test_a_model_that_is_better_on_some_days_only_is_not_called_better() -> None:
    """The day decides which model is right: an interval over cases would be far too narrow."""
    random = np.random.default_rng(8)
    day = np.repeat(np.arange(14), 500)
    label = (random.random(7000) < 0.3).astype(int)
    favour = np.where(random.permutation(14) < 8, 1.0, -1.0)[day]
    ours, theirs = (
        np.clip(0.3 + 0.1 * side * favour * (label - 0.3), 0, 1) for side in (1.0, -1.0)
    )
    gain = compare(label, day, ours, theirs).gain["log_loss"]
    by_case = compare(label, np.arange(7000), ours, theirs, draws=200).gain["log_loss"]
    assert by_case.lower(0.95) > 0
    assert gain.lower(0.9) < 0 < gain.value
    assert gain.draws.std() > 5 * by_case.draws.std()


def test_two_equal_models_are_called_different_about_as_often_as_was_asked_for() -> None:
    """A week per trial, days that share their luck: 10 % may pass a bound of 90 %."""
    random = np.random.default_rng(6)
    passed, trials = 0, 400
    for trial in range(trials):
        luck = np.repeat(random.normal(0, 0.05, 7), 40)
        label = (random.random(280) < 0.5).astype(int)
        ours = np.clip(0.5 + luck * (label - 0.5), 0, 1)
        found = compare(label, np.repeat(np.arange(7), 40), ours, np.full(280, 0.5), seed=trial)
        passed += found.gain["brier"].lower(0.9) > 0
    assert passed / trials == pytest.approx(0.10, abs=0.05)


def test_the_same_seed_draws_the_same_days_and_another_does_not() -> None:
    first = draw_days(7, 50, 1)
    np.testing.assert_array_equal(first, draw_days(7, 50, 1))
    assert (first != draw_days(7, 50, 2)).any()
    assert set(first.sum(axis=1)) == {6.0}


def test_days_may_be_anything_that_can_be_sorted() -> None:
    days, code = day_codes(np.array(["2013-07-02", "2013-07-01", "2013-07-02"], "datetime64[D]"))
    assert days.astype(str).tolist() == ["2013-07-01", "2013-07-02"]
    assert code.tolist() == [1, 0, 1]


def test_draws_without_a_value_are_left_out_of_quantiles() -> None:
    draws = np.array([[1.0, np.nan, 0.0], [2.0, np.nan, np.nan], [3.0, np.nan, 4.0]])
    np.testing.assert_array_equal(quantiles(draws, (0.5,)), [[2.0, np.nan, 2.0]])


def test_a_single_day_is_refused() -> None:
    with pytest.raises(BootstrapError, match="fall on 1 day.*hold out more days"):
        compare([0, 1], [3, 3], [0.1, 0.2], [0.1, 0.2])


@pytest.mark.parametrize(
    ("label", "day", "probability", "sentence"),
    [
        ([0, np.nan], [1, 2], [0.5, 0.5], "1 labels are neither 0 nor 1"),
        ([0, 1], [1, 2], [0.5, np.nan], "1 probabilities are not finite"),
        ([0, 1], [1, 2, 3], [0.5, 0.5], r"labels have shape \(2,\), days \(3,\)"),
        ([], [], [], "there is no case to score"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    label: Any, day: Any, probability: Any, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        compare(label, day, probability, probability)
