"""Drift is found where there is some, and not where there is none."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flywheel.drift import BINS, DriftReport, Profile, compare, profile, stability

DAYS = 28
PER_DAY = 200
BLOCK = 7


def days(count: int = DAYS) -> NDArray[np.int64]:
    return np.repeat(np.arange(count), PER_DAY)


def normal(seed: int, count: int = DAYS, mean: float = 0.0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(mean, 1.0, count * PER_DAY)


def carriers(seed: int, shares: dict[str, float], count: int = DAYS) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    names = random.choice(list(shares), count * PER_DAY, p=list(shares.values()))
    return np.array(names.tolist(), dtype=object)


def verdict(reference: Profile, columns: dict[str, NDArray[Any]], **changes: Any) -> DriftReport:
    policy: dict[str, Any] = {
        "days": BLOCK,
        "signals": tuple(reference.inputs),
        "threshold": 0.25,
        "margin": 1.0,
        "min_rows": 1000,
    }
    return compare(reference, columns, **(policy | changes))


def test_the_stability_index_is_the_one_worked_out_by_hand() -> None:
    # Shares .5/.3/.2 against .25/.25/.5.
    wanted = -0.25 * math.log(0.25 / 0.5) - 0.05 * math.log(0.25 / 0.3) + 0.3 * math.log(0.5 / 0.2)
    found = stability(np.array([50, 30, 20]), np.array([10, 10, 20]))
    assert found == pytest.approx(wanted, abs=1e-12)
    assert found == pytest.approx(0.4572898, abs=1e-6)


def test_the_stability_index_of_equal_shares_is_zero_whatever_the_size() -> None:
    assert stability(np.array([10, 20, 70]), np.array([100, 200, 700])) == pytest.approx(0.0)


def test_an_empty_bin_counts_as_half_a_case_and_not_as_infinity() -> None:
    found = stability(np.array([10, 0]), np.array([0, 10]))
    assert found == pytest.approx(stability(np.array([10, 0.5]), np.array([0.5, 10])))
    assert math.isfinite(found)


def test_a_profile_fills_its_bins_equally_and_counts_missing_values_last() -> None:
    values = np.append(np.arange(100.0), [np.nan] * 7)
    one = profile({"x": values}, np.zeros(107, np.int64), 1).inputs["x"]
    assert len(one.edges) == BINS - 1
    assert one.counts == (10,) * BINS + (7,)


def test_a_value_on_an_edge_falls_where_it_fell_in_the_reference() -> None:
    values = np.repeat([1.0, 2.0, 3.0], 50)
    one = profile({"x": values}, np.zeros(150, np.int64), 1).inputs["x"]
    assert tuple(one.histogram(values)) == one.counts
    assert sum(count > 0 for count in one.counts) == 3


def test_the_same_distribution_does_not_drift_and_a_shifted_one_does() -> None:
    reference = profile({"still": normal(1), "moved": normal(2)}, days(), BLOCK)
    same = verdict(reference, {"still": normal(3, 7), "moved": normal(4, 7)})
    assert same.drifted == ()
    assert same.sentence() == "no signal drifted over 1400 predictions"
    shifted = verdict(reference, {"still": normal(3, 7), "moved": normal(4, 7, mean=1.0)})
    assert shifted.drifted == ("moved",)
    assert shifted.psi["moved"] > 0.25 > shifted.psi["still"]
    assert shifted.sentence().startswith("drifted: moved (PSI ")


def test_values_that_go_missing_are_drift() -> None:
    reference = profile({"x": normal(1)}, days(), BLOCK)
    current = normal(2, 7)
    current[::2] = np.nan
    assert verdict(reference, {"x": current}).drifted == ("x",)


def test_an_input_that_was_always_missing_drifts_when_it_appears() -> None:
    reference = profile({"x": np.full(DAYS * PER_DAY, np.nan)}, days(), BLOCK)
    assert verdict(reference, {"x": np.full(1400, np.nan)}).drifted == ()
    assert verdict(reference, {"x": normal(2, 7)}).drifted == ("x",)


def test_categories_are_compared_by_share_and_new_ones_count_as_unknown() -> None:
    shares = {"AA": 0.5, "B6": 0.3, "UA": 0.2}
    reference = profile({"carrier": carriers(1, shares)}, days(), BLOCK)
    assert reference.inputs["carrier"].vocabulary == ("AA", "B6", "UA")
    assert verdict(reference, {"carrier": carriers(2, shares, 7)}).drifted == ()
    shifted = carriers(3, {"AA": 0.1, "B6": 0.3, "UA": 0.6}, 7)
    assert verdict(reference, {"carrier": shifted}).drifted == ("carrier",)
    unheard = carriers(4, {"AA": 0.4, "B6": 0.2, "UA": 0.1, "VX": 0.3}, 7)
    assert verdict(reference, {"carrier": unheard}).drifted == ("carrier",)
    unheard[unheard == "VX"] = None
    assert reference.inputs["carrier"].histogram(unheard)[-1] == np.sum(unheard == None)  # noqa: E711


def test_a_category_that_was_always_missing_can_be_compared_when_it_appears() -> None:
    reference = profile({"c": np.full(DAYS * PER_DAY, None, object)}, days(), BLOCK)
    assert reference.inputs["c"].histogram(np.array(["AA", None], object)).tolist() == [2]


def test_too_few_predictions_give_no_verdict() -> None:
    reference = profile({"x": normal(1)}, days(), BLOCK)
    report = verdict(reference, {"x": normal(2, 1, mean=5.0)})
    assert (report.enough, report.drifted) == (False, ())
    assert report.psi["x"] > 1.0
    assert report.sentence() == "200 predictions on 7 days are too few for a verdict"
    assert not verdict(reference, {}, days=0, min_rows=0).enough


def test_too_few_days_give_no_verdict_however_many_predictions_they_hold() -> None:
    """A short window always looks unusual beside blocks of full length."""
    reference = profile({"x": normal(1)}, days(), BLOCK)
    moved = {"x": normal(2, 7, mean=5.0)}
    assert not verdict(reference, moved, days=BLOCK - 1).enough
    assert verdict(reference, moved, days=BLOCK - 1).drifted == ()
    assert verdict(reference, moved, days=BLOCK).drifted == ("x",)


def test_an_input_that_is_no_signal_is_measured_but_never_drifts() -> None:
    reference = profile({"x": normal(1), "y": normal(2)}, days(), BLOCK)
    report = verdict(reference, {"x": normal(3, 7), "y": normal(4, 7, mean=3.0)}, signals=("x",))
    assert report.psi["y"] > 0.25
    assert report.drifted == ()
    assert set(report.limits) == {"x"}


def test_the_worst_signal_is_named_first_and_the_rest_are_counted() -> None:
    shifts = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.9}
    reference = profile({n: normal(i) for i, n in enumerate(shifts)}, days(), BLOCK)
    served = {n: normal(9 + i, 7, mean=m) for i, (n, m) in enumerate(shifts.items())}
    report = verdict(reference, served)
    assert report.drifted == ("b", "c", "a", "d")
    assert report.sentence().endswith(" and 1 more")


def test_what_is_usual_inside_the_training_window_is_no_news() -> None:
    """A signal that swings from block to block raises its own limit."""
    weekly = normal(1) + np.where(days() // BLOCK % 2, 1.5, -1.5)
    reference = profile({"x": weekly}, days(), BLOCK)
    usual = reference.inputs["x"].usual
    assert usual > 0.25
    swing = normal(2, 7) + 1.5
    assert verdict(reference, {"x": swing}, margin=1.2).drifted == ()
    assert verdict(reference, {"x": swing}, margin=0.0).drifted == ("x",)
    assert verdict(reference, {"x": swing}, margin=1.2).limits["x"] == pytest.approx(1.2 * usual)


def test_an_oldest_block_that_is_cut_short_does_not_say_what_is_usual() -> None:
    odd = np.where(days(15) == 0, 50.0, normal(1, 15))
    cut = profile({"x": odd}, days(15), BLOCK)  # 1 + 7 + 7 days
    assert cut.inputs["x"].usual < 0.25
    whole = profile({"x": odd}, days(15), 5)  # 5 + 5 + 5 days
    assert whole.inputs["x"].usual > cut.inputs["x"].usual


def test_a_profile_survives_json() -> None:
    columns = {"x": normal(1), "c": carriers(1, {"AA": 0.9, "Ünï": 0.1})}
    described = profile(columns, days(), BLOCK)
    assert Profile.from_json(json.loads(json.dumps(described.as_json()))) == described
