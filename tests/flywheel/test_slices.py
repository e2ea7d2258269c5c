"""Scores by subgroup are those of the subgroup's rows; small subgroups decide nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from flywheel.bootstrap import BootstrapError, draw_days
from flywheel.evaluation import calibration_error, log_loss
from flywheel.slices import (
    RATES,
    SliceScores,
    bands,
    largest_gap,
    rate_intervals,
    slice_scores,
    worst,
)

CARRIERS = np.array(["AA", "B6", "UA", None], dtype=object)


def flights(seed: int, rows: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    probability = np.round(random.random(rows), 2)
    return pd.DataFrame(
        {
            "label": (random.random(rows) < probability).astype(int),
            "probability": probability,
            "day": random.integers(0, 5, rows),
            "carrier": CARRIERS[random.integers(0, 4, rows)],
            "hour": random.integers(5, 8, rows),
        }
    )


def scores_of(frame: pd.DataFrame, threshold: float = 0.5) -> list[SliceScores]:
    return slice_scores(
        frame["label"],
        frame["probability"],
        {"carrier": frame["carrier"].to_numpy(), "hour": frame["hour"].to_numpy()},
        threshold,
    )


def rates(frame: pd.DataFrame, threshold: float) -> dict[str, float]:
    """As one would write them down."""
    selected = frame["probability"] >= threshold
    return {
        "selection_rate": selected.mean(),
        "true_positive_rate": selected[frame["label"] == 1].mean(),
        "false_positive_rate": selected[frame["label"] == 0].mean(),
        "base_rate": frame["label"].mean(),
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 120), st.sampled_from([0.0, 0.3, 0.5]))
def test_every_figure_is_that_of_the_subgroups_rows(seed: int, rows: int, threshold: float) -> None:
    frame = flights(seed, rows).fillna({"carrier": "(missing)"})
    found = {(one.column, one.value): one for one in scores_of(flights(seed, rows), threshold)}
    assert set(found) == {
        (column, str(value)) for column in ("carrier", "hour") for value in frame[column].unique()
    }
    for (column, value), one in found.items():
        of = frame[frame[column].astype(str) == value]
        assert one.rows == len(of)
        for name, rate in rates(of, threshold).items():
            assert getattr(one, name) == pytest.approx(rate, nan_ok=True)
        assert one.mean_probability == pytest.approx(of["probability"].mean())
        assert one.brier == pytest.approx(((of["probability"] - of["label"]) ** 2).mean())
        if of["label"].nunique() < 2:
            assert math.isnan(one.auc)
            continue
        assert one.auc == pytest.approx(metrics.roc_auc_score(of["label"], of["probability"]))
        assert one.log_loss == pytest.approx(log_loss(of["label"], of["probability"]))
        assert one.ece == pytest.approx(calibration_error(of["label"], of["probability"]))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 200))
def test_intervals_are_the_quantiles_of_the_rates_of_repeated_days(seed: int, rows: int) -> None:
    frame = flights(seed, rows).fillna({"carrier": "(missing)"})
    days = sorted(frame["day"].unique())
    found = rate_intervals(
        frame["label"], frame["probability"], frame["day"], "carrier", frame["carrier"],
        confidence=0.8, draws=20, seed=5,
    )  # fmt: skip
    wanted: dict[str, list[dict[str, float]]] = {value: [] for value in found.values}
    for times in draw_days(len(days), 20, 5).astype(int):
        drawn = pd.concat(
            [frame[frame["day"] == d] for d, n in zip(days, times, strict=True) for _ in range(n)]
        )
        for value, of in wanted.items():
            of.append(rates(drawn[drawn["carrier"] == value], 0.5))
    for place, value in enumerate(found.values):
        here = rates(frame[frame["carrier"] == value], 0.5)
        for name in RATES:
            assert found.rate[name][place] == pytest.approx(here[name], nan_ok=True)
            values = np.array([one[name] for one in wanted[value]], dtype=float)
            values = values[~np.isnan(values)]
            low, high = np.quantile(values, [0.1, 0.9]) if len(values) else (np.nan, np.nan)
            assert found.low[name][place] == pytest.approx(low, nan_ok=True)
            assert found.high[name][place] == pytest.approx(high, nan_ok=True)


def made(value: str, rows: int, **figures: float) -> SliceScores:
    return replace(
        scores_of(flights(1, 400))[0], column="carrier", value=value, rows=rows, **figures
    )


FEW = made("OO", 62, auc=0.1, selection_rate=0.0, true_positive_rate=0.0, false_positive_rate=0.9)
MANY = [
    made("AA", 900, auc=0.8, selection_rate=0.2, true_positive_rate=0.5, false_positive_rate=0.1),
    made("B6", 900, auc=0.7, selection_rate=0.3, true_positive_rate=0.6, false_positive_rate=0.3),
    made("UA", 900, auc=0.9, selection_rate=0.25, true_positive_rate=0.55, false_positive_rate=0.2),
]


def test_the_worst_slice_is_a_large_one() -> None:
    found = worst([FEW, *MANY], "auc")
    assert found is not None
    assert found.value == "B6"
    assert worst([FEW], "auc") is None
    least = worst([FEW, *MANY], "auc", min_rows=1)
    assert least is not None
    assert least.value == "OO"


@pytest.mark.parametrize(
    ("gap", "size", "rate"),
    [
        ("demographic_parity_difference", 0.1, "selection_rate"),
        ("equal_opportunity_difference", 0.1, "true_positive_rate"),
        ("equalized_odds_difference", 0.2, "false_positive_rate"),
    ],
)
def test_gaps_are_between_large_slices(gap: Any, size: float, rate: str) -> None:
    found = largest_gap([FEW, *MANY], "carrier", gap)
    assert found is not None
    assert (found.rate, found.highest, found.lowest) == (rate, "B6", "AA")
    assert found.size == pytest.approx(size)


def test_one_large_slice_has_no_gap() -> None:
    assert largest_gap([FEW, MANY[0]], "carrier", "demographic_parity_difference") is None
    assert largest_gap(MANY, "origin", "demographic_parity_difference") is None


def test_a_slice_column_of_another_length_is_named() -> None:
    with pytest.raises(ValueError, match=r"slice column 'carrier' has shape \(1,\); want \[2\]"):
        slice_scores([0, 1], [0.1, 0.2], {"carrier": ["AA"]})


def test_no_case_and_a_single_day_are_refused() -> None:
    empty: NDArray[Any] = np.array([])
    with pytest.raises(ValueError, match="there is no case"):
        slice_scores(empty, empty, {"carrier": empty})
    with pytest.raises(BootstrapError, match="fall on 1 day"):
        rate_intervals([0, 1], [0.1, 0.2], [1, 1], "carrier", ["AA", "B6"])


def test_numbers_fall_into_bands_that_begin_at_their_edges() -> None:
    values = [5.0, 6.0, 11.9, 12.0, 99.0, float("nan")]
    expected = ["below 6", "6 to 12", "6 to 12", "12 or more", "12 or more", None]
    assert bands(values, (6, 12)).tolist() == expected
    assert bands([-1, 0], (0,)).tolist() == ["below 0", "0 or more"]
