"""The gates let a candidate pass for the right reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flywheel.evaluation import Scores
from flywheel.gates import AtLeast, BeatsChampion, Contest

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
