"""Training is started by evidence, once per data day, and the reason is told."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from flywheel.triggers import Cause, Evidence, decide

TODAY = date(2013, 5, 1)


def champion_of(age: int) -> date:
    return TODAY - timedelta(days=age)


def test_without_a_champion_nothing_trains_even_when_all_has_drifted() -> None:
    decision = decide(Evidence(TODAY, drifted="all of it"), [], retrain_every_days=1)
    assert not decision.train
    assert decision.cause is None
    assert "train the first one by hand" in decision.reason


def test_drift_trains_and_its_verdict_is_the_reason() -> None:
    decision = decide(
        Evidence(TODAY, "drifted: x (PSI 0.40)", champion_of(1)), [], retrain_every_days=None
    )
    assert (decision.train, decision.cause) == (True, Cause.DRIFT)
    assert decision.reason == "drifted: x (PSI 0.40)"


def test_a_day_that_was_trained_is_not_trained_again_whatever_asks() -> None:
    evidence = Evidence(TODAY, "drifted: x", champion_of(99))
    decision = decide(evidence, {TODAY}, retrain_every_days=1)
    assert not decision.train
    assert decision.reason == "2013-05-01 has been trained already"


def test_drift_on_one_data_day_trains_once_however_often_it_is_asked_for() -> None:
    trained: list[date] = []
    evidence = Evidence(TODAY, "drifted: x", champion_of(1))
    for _ in range(5):
        if decide(evidence, trained, retrain_every_days=1).train:
            trained.append(evidence.as_of)
    assert trained == [TODAY]


def test_another_trained_day_does_not_stand_in_the_way() -> None:
    evidence = Evidence(TODAY, "drifted: x", champion_of(1))
    assert decide(evidence, {TODAY - timedelta(days=1)}, retrain_every_days=None).train


@pytest.mark.parametrize(("age", "train"), [(27, False), (28, True), (29, True)])
def test_a_champion_is_replaced_when_it_reaches_its_age_limit(age: int, train: bool) -> None:
    decision = decide(Evidence(TODAY, None, champion_of(age)), [], retrain_every_days=28)
    assert decision.train is train
    assert f"{age} days old" in decision.reason
    assert decision.cause is (Cause.SCHEDULE if train else None)


def test_without_an_age_limit_a_champion_may_grow_old() -> None:
    decision = decide(Evidence(TODAY, None, champion_of(400)), [], retrain_every_days=None)
    assert not decision.train
    assert decision.reason == "nothing drifted and the champion is 400 days old"


def test_drift_comes_before_age() -> None:
    decision = decide(Evidence(TODAY, "drifted: x", champion_of(99)), [], retrain_every_days=28)
    assert decision.cause is Cause.DRIFT


@pytest.mark.parametrize("age", [0, -30])
def test_an_old_day_that_is_measured_again_trains_nothing(age: int) -> None:
    evidence = Evidence(TODAY, "drifted: x", champion_of(age))
    decision = decide(evidence, [], retrain_every_days=1)
    assert not decision.train
    assert "knows more" in decision.reason
