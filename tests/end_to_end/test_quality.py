"""The reference model is worth serving: what it reaches on days it has never seen."""

from __future__ import annotations

import pytest

from bench.measure import child, temporary_home

pytestmark = pytest.mark.slow


def test_trained_on_january_and_february_the_network_reaches_an_auc_of_080_on_march() -> None:
    with temporary_home():
        scores = child("-m", "bench.quality_scores").result["scores"]
    network, line = scores["candidate"], scores["logistic regression"]
    assert network["rows"] > 27_000
    assert network["auc"] >= 0.80
    assert network["auc"] > line["auc"]
    assert network["log_loss"] < line["log_loss"]
