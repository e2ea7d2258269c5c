"""Decisions at a threshold are counted right, and the cheapest is the cheapest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from flywheel.thresholds import Costs, best_threshold, threshold_table
from tests.flywheel.test_evaluation import Cases, cases

compared = settings(max_examples=60, deadline=None)


def brute_force_cost(drawn: Cases, threshold: float, costs: Costs) -> float:
    label, probability = drawn
    selected = probability >= threshold
    false_alarms = (selected & (label == 0)).sum()
    misses = (~selected & (label == 1)).sum()
    return (costs.false_alarm * false_alarms + costs.miss * misses) / len(label)


@compared
@given(cases, st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]))
def test_a_row_of_the_table_is_the_confusion_matrix(drawn: Cases, threshold: float) -> None:
    label, probability = drawn
    costs = Costs(2.0, 3.0)
    (row,) = threshold_table(label, probability, costs, [threshold])
    selected = probability >= threshold
    tn, fp, fn, tp = metrics.confusion_matrix(label, selected, labels=[0, 1]).ravel()
    assert row.selection_rate == pytest.approx(selected.mean())
    assert row.true_positive_rate == pytest.approx(tp / (tp + fn))
    assert row.false_positive_rate == pytest.approx(fp / (fp + tn))
    if selected.any():
        assert row.precision == pytest.approx(tp / (tp + fp))
    else:
        assert math.isnan(row.precision)
    assert row.cost == pytest.approx(brute_force_cost(drawn, threshold, costs))


@compared
@given(cases, st.floats(0.1, 10))
def test_no_threshold_is_cheaper_than_the_best(drawn: Cases, miss: float) -> None:
    costs = Costs(1.0, miss)
    best = best_threshold(*drawn, costs)
    assert best.cost == pytest.approx(brute_force_cost(drawn, best.threshold, costs))
    for threshold in (*np.unique(drawn[1]), math.inf):
        assert best.cost <= brute_force_cost(drawn, threshold, costs) + 1e-12


def test_of_calibrated_probabilities_the_best_threshold_follows_from_the_costs() -> None:
    random = np.random.default_rng(4)
    probability = random.random(200_000)
    label = random.random(200_000) < probability
    costs = Costs(false_alarm=1.0, miss=4.0)
    assert costs.calibrated_threshold == 0.2
    assert best_threshold(label, probability, costs).threshold == pytest.approx(0.2, abs=0.03)


def test_where_a_false_alarm_costs_too_much_nothing_is_selected() -> None:
    best = best_threshold([0, 1, 0], [0.9, 0.5, 0.8], Costs(false_alarm=100.0, miss=1.0))
    assert best.threshold == math.inf
    assert best.selection_rate == 0.0
    assert best.cost == pytest.approx(1 / 3)


@pytest.mark.parametrize("wrong", [(0.0, 1.0), (1.0, -1.0), (math.nan, 1.0), (1.0, math.inf)])
def test_costs_must_be_positive(wrong: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="both costs must be positive and finite"):
        Costs(*wrong)
