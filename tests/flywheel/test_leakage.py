"""An input that knows the answer is named; one that merely predicts well is not."""

from __future__ import annotations

import numpy as np
import pytest

from flywheel.leakage import leaking_features, single_feature_aucs

RANDOM = np.random.default_rng(12)
ROWS = 4000
TRUTH = RANDOM.random(ROWS)
LABEL = (RANDOM.random(ROWS) < TRUTH).astype(int)
LATE = LABEL == 1


def test_the_delay_itself_is_named_and_honest_inputs_are_not() -> None:
    features = {
        "forecast": TRUTH,
        "noise": RANDOM.random(ROWS),
        "arr_delay": np.where(LATE, 16.0, 0.0) + RANDOM.random(ROWS),
        "minutes_early": np.where(LATE, -16.0, 0.0),
        "status": np.where(LATE, "delayed", "in time").astype(object),
    }
    found = leaking_features(LABEL, features)
    assert set(found) == {"arr_delay", "minutes_early", "status"}
    assert all(auc == 1.0 for auc in found.values())
    assert 0.7 < single_feature_aucs(LABEL, features)["forecast"] < 0.9


@pytest.mark.parametrize("missing", [LATE, ~LATE])
def test_what_is_missing_can_leak(missing: np.ndarray) -> None:
    number = np.where(missing, np.nan, RANDOM.random(ROWS))
    text = np.where(missing, None, "AA")
    assert set(leaking_features(LABEL, {"number": number, "text": text})) == {"number", "text"}


def test_identifiers_do_not_leak_though_each_has_one_answer() -> None:
    identifiers = np.array([f"flight {i}" for i in range(ROWS)], dtype=object)
    assert single_feature_aucs(LABEL, {"id": identifiers})["id"] == pytest.approx(0.5, abs=0.03)


def test_the_worst_comes_first_and_the_limit_is_a_choice() -> None:
    features = {"good": TRUTH, "perfect": LABEL, "infinite": np.where(LATE, np.inf, -np.inf)}
    assert list(leaking_features(LABEL, features, max_auc=0.6)) == ["perfect", "infinite", "good"]
    assert list(leaking_features(LABEL, features)) == ["perfect", "infinite"]


@pytest.mark.parametrize(
    ("label", "sentence"),
    [([], "there is no case"), ([1, 1], "all 2 labels are 1"), ([0, 1], "'x' has shape")],
)
def test_what_cannot_be_scored_is_refused(label: list[int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        leaking_features(label, {"x": [0.1, 0.2, 0.3]})
