"""The pictures of an evaluation are drawn from the figures they are about."""

from __future__ import annotations

import base64
import re
from datetime import date

import numpy as np
import pytest

from flywheel.backtest import AUC, CALIBRATION_GAP, LOG_LOSS, Measure
from flywheel.evaluation import average_precision
from flywheel.plots import embedded, precision_recall, threshold_costs, walk_forward
from flywheel.thresholds import Costs

RANDOM = np.random.default_rng(2)
TRUTH = RANDOM.random(500)
LABEL = RANDOM.random(500) < TRUTH
PREDICTIONS = {"candidate": TRUTH, "champion": np.clip(TRUTH + RANDOM.normal(0, 0.2, 500), 0, 1)}
# The second month has one class only, so no AUC.
BACKTEST = [
    Measure(policy, month, metric, value, None, None, 500)
    for policy in ("frozen", "monthly")
    for month, auc in ((date(2013, 12, 1), 0.8), (date(2014, 1, 1), None), (None, 0.79))
    for metric, value in ((AUC, auc), (LOG_LOSS, 0.4), (CALIBRATION_GAP, -0.01))
]


@pytest.mark.parametrize(
    ("markdown", "alternative"),
    [
        (
            precision_recall(
                LABEL, PREDICTIONS, {n: average_precision(LABEL, p) for n, p in PREDICTIONS.items()}
            ),
            "precision-recall curve",
        ),
        (threshold_costs(LABEL, PREDICTIONS, Costs(1.0, 4.0)), "cost by threshold"),
        (threshold_costs(LABEL, PREDICTIONS, Costs(1000.0, 1.0)), "cost by threshold"),
        (embedded(walk_forward(BACKTEST, title="a year"), "a backtest"), "a backtest"),
    ],
)
def test_a_picture_is_an_embedded_png(markdown: str, alternative: str) -> None:
    found = re.fullmatch(r"!\[(.+)\]\(data:image/png;base64,(.+)\)", markdown)
    assert found
    assert found[1] == alternative
    assert base64.b64decode(found[2]).startswith(b"\x89PNG")
