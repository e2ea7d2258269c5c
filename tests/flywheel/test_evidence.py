"""What an evaluation leaves behind can be read back, and is refused where it no longer answers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from flywheel.bootstrap import compare
from flywheel.evaluation import HARNESS_VERSION, average_precision, calibration, score
from flywheel.evidence import (
    ALL,
    THRESHOLD,
    Figure,
    StaleVerdictError,
    StoredVerdict,
    calibration_bins,
    decisions,
    figures,
    judge,
    verdicts_of,
)
from flywheel.gates import AtLeast, BeatsChampion, NoSliceRegression
from flywheel.slices import slice_scores
from flywheel.thresholds import Costs, threshold_table
from tests.flywheel.test_gates import cases_of, contest

COMMAND = "dg launch --assets flights/flight_delay_evaluation --partition 2013-03-01"
GATES = (AtLeast(), BeatsChampion(), NoSliceRegression(("carrier",)))
CASES = cases_of(better=0.5)


@pytest.fixture(scope="module")
def by_name() -> dict[tuple[str, str, str], Figure]:
    """The figures of candidate and champion, by contestant, slice and metric."""
    assert CASES.champion is not None
    found = figures(CASES, {"candidate": CASES.candidate, "champion": CASES.champion}, "candidate")
    keys = [(one.contestant, one.slice_value, one.metric) for one in found]
    assert len(set(keys)) == len(found)
    return dict(zip(keys, found, strict=True))


def test_the_figures_of_all_cases_are_the_scores_with_their_intervals(
    by_name: dict[tuple[str, str, str], Figure],
) -> None:
    scores = score(CASES.label, CASES.candidate).as_dict()
    scores["average_precision"] = average_precision(CASES.label, CASES.candidate)
    rows = scores.pop("rows")
    for metric, value in scores.items():
        one = by_name["candidate", ALL, metric]
        assert (one.rows, one.value) == (rows, pytest.approx(value))
    assert CASES.champion is not None
    gain = compare(CASES.label, CASES.day, CASES.candidate, CASES.champion).gain["log_loss"]
    stored = by_name["champion", ALL, "gain_log_loss"]
    assert (stored.value, stored.low, stored.high) == pytest.approx((gain.value, *gain.interval()))


def test_the_figures_of_slices_are_the_slices_scores(
    by_name: dict[tuple[str, str, str], Figure],
) -> None:
    assert CASES.champion is not None
    for one in slice_scores(CASES.label, CASES.champion, CASES.slices):
        for metric, value in one.metrics().items():
            if metric != "rows":
                stored = by_name["champion", one.value, metric]
                assert (stored.slice_column, stored.rows, stored.value) == (
                    "carrier", one.rows, pytest.approx(value),
                )  # fmt: skip
    selected = by_name["champion", "B6", "selection_rate"]
    assert selected.low is not None
    assert selected.high is not None
    assert selected.value is not None
    assert selected.low < selected.value < selected.high


def test_what_is_not_defined_is_null_and_not_nan() -> None:
    lone = np.where(np.asarray(CASES.label) == 1, "late", "in time").astype(object)
    cases = replace(CASES, slices={"answer": lone})
    found = figures(cases, {"candidate": cases.candidate}, "candidate")
    (auc,) = [one for one in found if (one.slice_value, one.metric) == ("late", "auc")]
    assert auc.value is None
    json.dumps([one.as_row() for one in found], allow_nan=False)


def test_verdicts_come_back_as_they_were_given() -> None:
    given = judge(GATES, contest(CASES))
    rows = [{"as_of": "2013-03-01", **one.as_row()} for one in given]
    back = [StoredVerdict.from_row(row) for row in reversed(rows)]
    assert verdicts_of(GATES, back, COMMAND) == [one.verdict for one in given]
    assert verdicts_of(GATES[:1], back, COMMAND) == [given[0].verdict]


def test_a_gate_that_was_declared_otherwise_is_asked_again() -> None:
    given = judge(GATES, contest(CASES))
    with pytest.raises(StaleVerdictError, match=r"not asked about AtLeast\(.*floor=0\.9") as stale:
        verdicts_of((AtLeast(floor=0.9), *GATES[1:]), given, COMMAND)
    assert str(stale.value).endswith(f"Ask again: {COMMAND}")


def test_verdicts_of_another_harness_are_made_again() -> None:
    given = [replace(one, harness=HARNESS_VERSION - 1) for one in judge(GATES, contest(CASES))]
    with pytest.raises(StaleVerdictError, match="harness 0, and this is 1. Make them again: dg"):
        verdicts_of(GATES, given, COMMAND)


def test_the_table_of_thresholds_is_figures_too() -> None:
    costs = Costs(false_alarm=1, miss=3)
    found = decisions(CASES, {"candidate": CASES.candidate}, costs)
    expected = threshold_table(CASES.label, CASES.candidate, costs)
    by_threshold = {(one.slice_value, one.metric): one.value for one in found}
    assert {one.slice_column for one in found} == {THRESHOLD}
    assert len(by_threshold) == len(found) == 5 * len(expected)
    for row in expected:
        assert by_threshold[f"{row.threshold:.2f}", "cost"] == row.cost
        assert by_threshold[f"{row.threshold:.2f}", "true_positive_rate"] == row.true_positive_rate


def test_the_reliability_diagram_is_figures_too() -> None:
    found = calibration_bins(CASES, {"candidate": CASES.candidate})
    expected = calibration(CASES.label, CASES.candidate)
    observed = [one.value for one in found if one.metric == "observed"]
    assert observed == pytest.approx(list(expected.observed))
    rows = sum(one.rows for one in found if one.metric == "observed")
    assert rows == len(CASES) == len(CASES.label)
    assert [one.slice_value for one in found] == sorted(one.slice_value for one in found)
