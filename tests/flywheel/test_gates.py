"""The gates let a candidate pass for the right reason."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flywheel.evaluation import Scores, score
from flywheel.gates import (
    AtLeast,
    BeatsChampion,
    Calibrated,
    Cases,
    Contest,
    Fairness,
    Gate,
    NoLeakage,
    NoSliceRegression,
    slice_columns,
)

CHAMPION = Scores(
    rows=500, base_rate=0.2, mean_probability=0.2, auc=0.75, log_loss=0.45, brier=0.14, ece=0.02
)


@pytest.mark.parametrize(
    ("metric", "better", "worse"),
    [("auc", 0.76, 0.74), ("log_loss", 0.44, 0.46), ("brier", 0.13, 0.15)],
)
def test_the_better_candidate_passes_and_the_worse_does_not(
    metric: str, better: float, worse: float
) -> None:
    gate = BeatsChampion(metric)  # type: ignore[arg-type]
    won = gate.judge(Contest(replace(CHAMPION, **{metric: better}), CHAMPION))
    assert won.passed
    assert won.gate == f"beats_champion({metric})"
    assert won.evidence["gain"] == pytest.approx(0.01)
    assert won.sentence.endswith("on 500 cases: better by 0.0100")
    lost = gate.judge(Contest(replace(CHAMPION, **{metric: worse}), CHAMPION))
    assert not lost.passed
    assert lost.evidence["gain"] == pytest.approx(-0.01)
    assert lost.sentence.endswith("worse by 0.0100")


def test_a_candidate_that_is_exactly_as_good_does_not_replace_the_champion() -> None:
    assert not BeatsChampion().judge(Contest(CHAMPION, CHAMPION)).passed


def test_an_improvement_below_the_margin_is_not_enough() -> None:
    contest = Contest(replace(CHAMPION, log_loss=0.44), CHAMPION)
    asked = BeatsChampion(margin=0.02).judge(contest)
    assert not asked.passed
    assert asked.sentence.endswith("better by 0.0100, asked for 0.0200")
    assert BeatsChampion(margin=0.005).judge(contest).passed


def test_the_first_version_has_nobody_to_beat() -> None:
    verdict = BeatsChampion().judge(Contest(CHAMPION, None))
    assert verdict.passed
    assert verdict.sentence == "there is no champion yet"


@pytest.mark.parametrize(("auc", "passed"), [(0.599, False), (0.6, True), (0.9, True)])
def test_a_useless_model_stays_below_the_floor(auc: float, passed: bool) -> None:
    verdict = AtLeast(floor=0.6).judge(Contest(replace(CHAMPION, auc=auc), None))
    assert verdict.passed is passed
    assert verdict.sentence == f"auc {auc:.4f}, floor 0.60"
    assert verdict.evidence == {"candidate": auc, "floor": 0.6}


DAYS = 14


def cases_of(seed: int = 0, *, better: float = 0.0, **changes: Any) -> Cases:
    """Flights of two weeks: a champion, and a candidate that is `better` where it matters."""
    random = np.random.default_rng(seed)
    rows = 300 * DAYS
    truth = random.random(rows)
    label = (random.random(rows) < truth).astype(int)
    theirs, ours = (np.clip(truth + random.normal(0, 0.15, rows), 0.02, 0.98) for _ in range(2))
    ours = ours + better * (truth - ours)
    given: dict[str, Any] = {
        "label": label,
        "day": np.repeat(np.arange(DAYS), 300),
        "candidate": ours,
        "champion": theirs,
        "slices": {"carrier": np.array(["AA", "B6", "UA"], dtype=object)[np.arange(rows) % 3]},
        "features": {"forecast": truth, "carrier": np.array(["AA", "B6"], dtype=object)[label * 0]},
    }
    return Cases(**{**given, **changes})


def contest(cases: Cases) -> Contest:
    champion = None if cases.champion is None else score(cases.label, cases.champion)
    return Contest(score(cases.label, cases.candidate), champion, cases=cases)


@pytest.mark.parametrize("metric", ["auc", "log_loss", "brier"])
def test_a_candidate_that_is_better_beyond_the_luck_of_the_days_takes_over(metric: Any) -> None:
    verdict = BeatsChampion(metric).judge(contest(cases_of(better=0.9)))
    assert verdict.passed
    assert 0 < verdict.evidence["low"] < verdict.evidence["gain"] < verdict.evidence["high"]
    assert verdict.evidence["days"] == DAYS
    assert verdict.sentence.endswith("each bound holds with 90% confidence over 14 days)")


def test_a_gain_that_may_be_luck_is_not_enough() -> None:
    """Two models that are equally good: half of the candidates score better, few may take over."""
    judged = [BeatsChampion(confidence=0.9).judge(contest(cases_of(seed))) for seed in range(60)]
    assert 20 <= sum(verdict.evidence["gain"] > 0 for verdict in judged) <= 40
    assert sum(verdict.passed for verdict in judged) <= 60 * 0.2


def test_a_negative_margin_asks_only_that_the_candidate_is_not_worse_by_that_much() -> None:
    equal = contest(cases_of(3))
    assert not BeatsChampion("auc", margin=0.05).judge(equal).passed
    assert BeatsChampion("auc", margin=-0.05).judge(equal).passed


def test_the_margin_is_compared_with_the_bound_and_not_with_the_gain() -> None:
    judged = contest(cases_of(better=0.9))
    found = BeatsChampion("auc").judge(judged).evidence
    between = (found["low"] + found["gain"]) / 2
    assert not BeatsChampion("auc", margin=between).judge(judged).passed
    assert BeatsChampion("auc", margin=found["low"] - 1e-9).judge(judged).passed


def test_one_held_out_day_proves_nothing() -> None:
    one_day = cases_of(better=0.9, day=np.zeros(300 * DAYS))
    verdict = BeatsChampion().judge(contest(one_day))
    assert not verdict.passed
    assert verdict.sentence.endswith("hold out more days")
    assert not NoSliceRegression(("carrier",)).judge(contest(one_day)).passed


def worse_for(cases: Cases, carrier: str) -> Cases:
    """The same, but for one carrier the candidate says nothing."""
    ours = np.where(np.asarray(cases.slices["carrier"]) == carrier, 0.5, cases.candidate)
    return replace(cases, candidate=ours)


@pytest.mark.parametrize("metric", ["auc", "log_loss", "brier"])
def test_a_slice_that_falls_behind_is_named_though_the_whole_is_better(metric: Any) -> None:
    gate = NoSliceRegression(("carrier",), metric)
    kept = gate.judge(contest(cases_of(better=0.9)))
    assert kept.passed
    assert kept.sentence.startswith("none of 3 slices regressed by more than 0.0100")
    fell = gate.judge(contest(worse_for(cases_of(better=0.9), "B6")))
    assert not fell.passed
    assert fell.sentence.startswith("carrier=B6 lost")
    assert fell.evidence["regressed"] == 1
    assert fell.evidence["drop carrier=B6"] > 0.01 > 0 > fell.evidence["drop carrier=AA"]


def test_a_loss_that_may_be_luck_or_is_small_is_no_regression() -> None:
    judged = contest(worse_for(cases_of(), "B6"))
    assert NoSliceRegression(("carrier",), max_drop=1.0).judge(judged).passed
    few = np.where(np.arange(300 * DAYS) % 60 == 0, "OO", "AA").astype(object)
    lucky = [
        NoSliceRegression(("carrier",), max_drop=0.0, min_rows=1, confidence=0.999)
        .judge(contest(cases_of(seed, slices={"carrier": few})))
        for seed in range(5)
    ]  # fmt: skip
    assert any(verdict.evidence["drop carrier=OO"] > 0 for verdict in lucky)
    assert all(verdict.passed for verdict in lucky)


def test_slices_that_are_too_small_are_not_judged_and_if_all_are_the_gate_stays_shut() -> None:
    verdict = NoSliceRegression(("carrier",), min_rows=2000).judge(contest(cases_of()))
    assert not verdict.passed
    assert verdict.sentence == "no slice has 2000 cases: lower min_rows or hold out more days"


def test_carriers_that_are_treated_alike_pass_and_others_do_not() -> None:
    gate = Fairness("carrier", "demographic_parity_difference", max_gap=0.1)
    assert gate.judge(contest(cases_of())).passed
    verdict = gate.judge(contest(worse_for(cases_of(), "B6")))
    assert not verdict.passed
    assert "selection_rate of B6" in verdict.sentence
    assert verdict.evidence["gap"] > 0.4
    lone = Fairness("carrier", min_rows=2000).judge(contest(cases_of()))
    assert not lone.passed
    assert lone.sentence.startswith("fewer than two values of carrier have 2000 cases")


@pytest.mark.parametrize(("ece", "passed"), [(0.02, True), (0.05, True), (0.051, False)])
def test_probabilities_that_do_not_mean_what_they_say_are_kept_out(
    ece: float, passed: bool
) -> None:
    verdict = Calibrated(max_ece=0.05).judge(Contest(replace(CHAMPION, ece=ece), None))
    assert verdict.passed is passed
    assert verdict.sentence == f"expected calibration error {ece:.4f}, limit 0.0500"


def test_an_input_that_tells_the_answer_is_named() -> None:
    honest = cases_of()
    assert NoLeakage().judge(contest(honest)).passed
    leaky = replace(honest, features={**honest.features, "arr_delay": 20.0 * honest.label})
    verdict = NoLeakage().judge(contest(leaky))
    assert not verdict.passed
    assert verdict.sentence.startswith("arr_delay (AUC 1.0000) alone tell the answer")
    assert verdict.evidence["arr_delay"] == 1.0


@pytest.mark.parametrize(
    "gate", [NoSliceRegression(("carrier",)), Fairness("carrier"), NoLeakage()]
)
def test_no_evidence_is_no_permission(gate: Gate) -> None:
    verdict = gate.judge(Contest(CHAMPION, CHAMPION))
    assert not verdict.passed
    assert "were given to judge" in verdict.sentence


def test_the_first_version_cannot_regress() -> None:
    first = contest(cases_of(champion=None))
    assert NoSliceRegression(("carrier",)).judge(first).passed
    assert BeatsChampion().judge(first).passed


@pytest.mark.parametrize("gate", [NoSliceRegression(("origin",)), Fairness("origin")])
def test_a_slice_column_that_is_not_there_is_a_mistake_and_not_a_verdict(gate: Gate) -> None:
    with pytest.raises(
        ValueError, match=r"slices by 'origin', but the cases come with \['carrier'"
    ):
        gate.judge(contest(cases_of()))


def test_gates_say_which_slices_they_need() -> None:
    gates = (AtLeast(), Fairness("origin"), NoSliceRegression(("carrier", "origin")))
    assert slice_columns(gates) == ("origin", "carrier")


def test_all_evidence_is_finite() -> None:
    """It is stored, and JSON has no NaN."""
    gates: tuple[Gate, ...] = (
        AtLeast(), BeatsChampion(), Calibrated(), Fairness("carrier"), NoLeakage(),
        NoSliceRegression(("carrier",)), NoSliceRegression(("carrier",), "auc", min_rows=1),
    )  # fmt: skip
    for gate in gates:
        assert all(map(math.isfinite, gate.judge(contest(cases_of())).evidence.values())), gate
