"""Rates and gaps by subgroup are those of fairlearn, whose names they have."""

from __future__ import annotations

import numpy as np
import pytest
from fairlearn import metrics as fairlearn
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flywheel.slices import GAPS, RATES, Gap, group_codes, largest_gap, rate_intervals, slice_scores

ORACLE = {
    "selection_rate": fairlearn.selection_rate,
    "true_positive_rate": fairlearn.true_positive_rate,
    "false_positive_rate": fairlearn.false_positive_rate,
    "base_rate": lambda label, selected: fairlearn.selection_rate(selected, label),
    "rows": fairlearn.count,
}


@st.composite
def contests(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Labels, probabilities and groups of some cases, and a threshold; each group has both labels.

    A rate of nothing is NaN here and 0 in fairlearn, so such groups are another test's.
    """
    rows = draw(st.integers(20, 300))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    label = random.integers(0, 2, rows)
    group = np.array(list("abcd"), dtype=object)[random.integers(0, draw(st.integers(2, 4)), rows)]
    probability = np.round(random.random(rows), draw(st.integers(1, 3)))
    assume(all(len(set(label[group == one])) == 2 for one in set(group)))
    assume(len(set(group)) > 1)
    return label, probability, group, draw(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))


@given(contests())
@settings(deadline=None, max_examples=20)
def test_rates_are_fairlearns(
    contest: tuple[np.ndarray, np.ndarray, np.ndarray, float],
) -> None:
    label, probability, group, threshold = contest
    selected = (probability >= threshold).astype(int)
    frame = fairlearn.MetricFrame(
        metrics=ORACLE, y_true=label, y_pred=selected, sensitive_features=group
    ).by_group
    scores = slice_scores(label, probability, {"group": group}, threshold)
    intervals = rate_intervals(
        label, probability, np.arange(len(label)) % 5, "group", group,
        threshold=threshold, draws=5,
    )  # fmt: skip
    assert [one.value for one in scores] == intervals.values == list(frame.index)
    for place, one in enumerate(scores):
        expected = frame.loc[one.value]
        assert one.rows == intervals.rows[place] == expected["rows"]
        for rate in RATES:
            assert getattr(one, rate) == pytest.approx(expected[rate], abs=1e-12)
            assert intervals.rate[rate][place] == pytest.approx(expected[rate], abs=1e-12)


@given(contests())
@settings(deadline=None, max_examples=20)
def test_gaps_are_fairlearns(
    contest: tuple[np.ndarray, np.ndarray, np.ndarray, float],
) -> None:
    label, probability, group, threshold = contest
    selected = (probability >= threshold).astype(int)
    scores = slice_scores(label, probability, {"group": group}, threshold)
    for name in GAPS:
        expected = getattr(fairlearn, name)(label, selected, sensitive_features=group)
        found = largest_gap(scores, "group", name, min_rows=1)
        assert found is not None
        assert found.size == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("gap", GAPS)
def test_small_groups_are_left_out_as_if_they_were_not_there(gap: Gap) -> None:
    random = np.random.default_rng(5)
    label, probability = random.integers(0, 2, 400), random.random(400)
    group = np.array(["a"] * 200 + ["b"] * 190 + ["tiny"] * 10, dtype=object)
    scores = slice_scores(label, probability, {"group": group})
    found = largest_gap(scores, "group", gap, min_rows=100)
    names, code = group_codes("group", group, 400)
    kept = code != names.index("tiny")
    expected = getattr(fairlearn, gap)(
        label[kept], (probability >= 0.5)[kept].astype(int), sensitive_features=group[kept]
    )
    assert found is not None
    assert found.size == pytest.approx(expected, abs=1e-12)
