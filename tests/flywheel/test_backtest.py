"""Each day is scored by the version that would have served; figures mean what they say."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.backtest import (
    AUC,
    AUC_GAIN,
    CALIBRATION_GAP,
    ECE,
    FROZEN,
    LOG_LOSS,
    LOG_LOSS_GAIN,
    MEANINGS,
    MONTHLY,
    WEEKLY,
    BacktestError,
    Measure,
    Policy,
    measure,
    plan_of,
    policy_of,
)
from flywheel.evaluation import auc, calibration_error, log_loss

START = date(2013, 1, 20)
DAYS = 50  # to 10 March: parts of January and March, all of February

policies = st.one_of(
    st.just(FROZEN), st.just(MONTHLY), st.integers(1, 40).map(lambda n: Policy(f"every {n}", n))
)
dates = st.dates(date(2011, 1, 1), date(2014, 12, 31))


@given(policy=policies, start=dates, length=st.integers(1, 120), unasked=st.sets(dates, max_size=9))
@settings(deadline=None)
def test_each_day_has_the_newest_version_of_its_policy_and_never_one_of_later(
    policy: Policy, start: date, length: int, unasked: set[date]
) -> None:
    end = start + timedelta(days=length)
    mornings = policy.mornings(start, end)
    plan = plan_of([policy], {*mornings, *unasked}, start, end)
    served = plan.served[policy.name]
    assert list(served) == [start + timedelta(days=n) for n in range(length)]
    for day, morning in served.items():
        assert morning <= day
        assert morning == max(m for m in mornings if m <= day)
    assert set(plan.mornings) == set(mornings)


@given(policy=policies, start=dates, length=st.integers(1, 120), data=st.data())
@settings(deadline=None)
def test_a_policy_that_lacks_a_morning_is_left_out_and_says_which(
    policy: Policy, start: date, length: int, data: st.DataObject
) -> None:
    end = start + timedelta(days=length)
    mornings = policy.mornings(start, end)
    lost = data.draw(st.sets(st.sampled_from(mornings), min_size=1))
    plan = plan_of([policy], set(mornings) - lost, start, end)
    assert plan.served == {}
    assert plan.missing == {policy.name: tuple(sorted(lost))}


def test_a_frozen_policy_never_trains_again_and_the_others_on_their_days() -> None:
    end = START + timedelta(days=DAYS)
    assert FROZEN.mornings(START, end) == [START]
    assert MONTHLY.mornings(START, end) == [START, date(2013, 2, 1), date(2013, 3, 1)]
    assert WEEKLY.mornings(START, end) == [START + timedelta(days=n) for n in range(0, DAYS, 7)]


@pytest.mark.parametrize(
    ("every", "wanted"),
    [("month", MONTHLY), ("week", WEEKLY), ("day", Policy("daily", 1)),
     ("10 days", Policy("every 10 days", 10)), ("3d", Policy("every 3 days", 3))],
)  # fmt: skip
def test_a_cadence_is_asked_for_in_words(every: str, wanted: Policy) -> None:
    assert policy_of(every) == wanted


@pytest.mark.parametrize("every", ["", "monthly", "0 days", "-3 days", "2 weeks"])
def test_what_is_no_cadence_is_refused(every: str) -> None:
    with pytest.raises(BacktestError, match="cadence"):
        policy_of(every)


def test_a_period_without_a_day_and_a_policy_asked_for_twice_are_refused() -> None:
    with pytest.raises(BacktestError, match="has no day"):
        plan_of([FROZEN], {START}, START, START)
    with pytest.raises(BacktestError, match=r"\['weekly'\] are asked for twice"):
        plan_of([WEEKLY, WEEKLY], {START}, START, START + timedelta(days=1))


RANDOM = np.random.default_rng(7)
DAY = np.datetime64(START, "D") + np.sort(RANDOM.integers(0, DAYS, 3000))
TRUTH = RANDOM.random(3000)
LABEL = RANDOM.random(3000) < TRUTH
WORSE = np.clip(0.5 * TRUTH + 0.5 * RANDOM.random(3000) - 0.1, 0.0, 1.0)
FOUND = measure(LABEL, DAY, {"frozen": WORSE, "weekly": TRUTH})


def one(found: list[Measure], policy: str, month: date | None, metric: str) -> Measure:
    return next(m for m in found if (m.policy, m.month, m.metric) == (policy, month, metric))


@pytest.mark.parametrize("month", [date(2013, 1, 1), date(2013, 2, 1), date(2013, 3, 1), None])
def test_each_month_and_the_whole_have_the_scores_of_their_cases(month: date | None) -> None:
    rows = np.array([month is None or d.item().replace(day=1) == month for d in DAY])
    for policy, probability in (("frozen", WORSE), ("weekly", TRUTH)):
        y, p = LABEL[rows], probability[rows]
        for metric, wanted in (
            (AUC, auc(y, p)), (LOG_LOSS, log_loss(y, p)), (ECE, calibration_error(y, p)),
            (CALIBRATION_GAP, p.mean() - y.mean()),
        ):  # fmt: skip
            found = one(FOUND, policy, month, metric)
            assert found.value == pytest.approx(wanted, abs=1e-12)
            assert found.rows == rows.sum()


def test_a_gain_is_positive_where_the_policy_is_better_and_beyond_the_luck_of_days() -> None:
    better, worse = (one(FOUND, policy, None, LOG_LOSS) for policy in ("weekly", "frozen"))
    gain = one(FOUND, "weekly", None, LOG_LOSS_GAIN)
    assert gain.value == pytest.approx((worse.value or 0) - (better.value or 0))
    for metric in (AUC_GAIN, LOG_LOSS_GAIN):
        gain = one(FOUND, "weekly", None, metric)
        assert 0 < (gain.low or 0) < (gain.value or 0) < (gain.high or 0)


def test_a_policy_gains_nothing_over_itself_and_the_frozen_one_has_no_gain() -> None:
    found = measure(LABEL, DAY, {"frozen": WORSE, "weekly": WORSE})
    gain = one(found, "weekly", None, AUC_GAIN)
    assert (gain.value, gain.low, gain.high) == (0.0, 0.0, 0.0)
    assert {m.metric for m in found if m.policy == "frozen"} == set(MEANINGS) - {
        AUC_GAIN,
        LOG_LOSS_GAIN,
    }


def test_a_month_of_one_day_has_no_interval_and_one_class_has_no_auc() -> None:
    day = np.array(["2013-01-31"] * 3 + ["2013-02-01", "2013-02-02"], dtype="datetime64[D]")
    p = [0.1, 0.8, 0.3, 0.2, 0.3]
    found = measure([0, 1, 0, 0, 0], day, {"frozen": p})
    lonely = one(found, "frozen", date(2013, 1, 1), AUC)
    assert (lonely.value, lonely.low, lonely.high) == (1.0, None, None)
    assert one(found, "frozen", date(2013, 2, 1), AUC).value is None
    assert one(found, "frozen", date(2013, 2, 1), LOG_LOSS).low is not None


def test_gains_need_the_frozen_version_and_figures_need_cases() -> None:
    with pytest.raises(BacktestError, match="frozen version"):
        measure(LABEL, DAY, {"weekly": TRUTH})
    with pytest.raises(BacktestError, match="known label"):
        measure([], np.array([], dtype="datetime64[D]"), {"frozen": []})
