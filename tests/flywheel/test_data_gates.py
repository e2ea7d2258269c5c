"""Data put aside, lost or broken does not pass as valid; int8 must keep what float knew."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from flywheel.contest import Contest, DataQuality, Quantization, TableQuality, Verdict
from flywheel.evaluation import Scores
from flywheel.gates import Gate, Quantized, ValidData

SCORES = Scores(
    rows=500, base_rate=0.2, mean_probability=0.2, auc=0.75, log_loss=0.45, brier=0.14, ece=0.02
)


def judge(gate: Gate, **evidence: object) -> Verdict:
    verdict = gate.judge(Contest(SCORES, None, **evidence))  # type: ignore[arg-type]
    assert verdict.sentence
    assert all(map(math.isfinite, verdict.evidence.values()))
    return verdict


def valid(*tables: TableQuality, limit: float = 0.01) -> Verdict:
    return judge(ValidData(limit), data=DataQuality(tables))


FLIGHTS, WEATHER = TableQuality("sky.flights", 900), TableQuality("sky.weather", 99, quarantined=1)


@pytest.mark.parametrize("data", [None, DataQuality(())], ids=["none", "empty"])
def test_data_that_nobody_looked_at_does_not_pass(data: DataQuality | None) -> None:
    verdict = judge(ValidData(), data=data)
    assert not verdict.passed
    assert verdict.sentence == "no table was looked at"


def test_sound_data_passes_and_says_what_was_put_aside() -> None:
    assert valid(FLIGHTS).sentence == (
        "900 rows of 1 tables keep their contracts; none was put aside"
    )
    verdict = valid(FLIGHTS, WEATHER)
    assert verdict.passed
    assert verdict.sentence == (
        "999 rows of 2 tables keep their contracts; 1 were put aside, most of sky.weather "
        "(1.00%, limit 1.00%)"
    )
    assert verdict.evidence["worst share"] == 0.01


def test_the_worst_table_counts_and_not_the_mean() -> None:
    verdict = valid(FLIGHTS, replace(WEATHER, quarantined=2))
    assert not verdict.passed
    assert verdict.sentence == (
        "2 of 101 rows of sky.weather were put aside (1.98%, limit 1.00%): look at "
        "sky.weather__quarantine"
    )
    assert valid(FLIGHTS, replace(WEATHER, quarantined=2), limit=0.02).passed


@pytest.mark.parametrize(
    ("table", "because"),
    [
        (TableQuality("sky.weather", 0), "no row in the training window"),
        (replace(WEATHER, lost_days=3), "no row of 3 days whose batch failed"),
        (replace(WEATHER, broken={"speed: range": 4}), "breaks its contract: speed: range (4 rows"),
    ],
    ids=["empty", "lost days", "broken rules"],
)
def test_few_rows_put_aside_do_not_excuse(table: TableQuality, because: str) -> None:
    verdict = valid(FLIGHTS, table, limit=0.5)
    assert not verdict.passed
    assert because in verdict.sentence


FLOAT = Quantization(
    original=replace(SCORES, log_loss=0.449, auc=0.751),
    original_bytes=400_000,
    quantized_bytes=100_000,
    max_abs_diff=0.012,
    batch_gap=0.003,
)


def test_a_float_model_has_no_original_to_be_compared_with() -> None:
    verdict = judge(Quantized(0.1), quantization=None)
    assert not verdict.passed
    assert verdict.sentence == "there is no float original to compare with"


@pytest.mark.parametrize("metric", ["log_loss", "auc"])
def test_a_loss_within_tolerance_passes(metric: str) -> None:
    for tolerance, passed in ((0.0011, True), (0.0009, False)):
        verdict = judge(Quantized(tolerance, metric), quantization=FLOAT)  # type: ignore[arg-type]
        assert verdict.passed is passed
        assert verdict.evidence["loss"] == pytest.approx(0.001)
    assert "worse by 0.00100, limit 0.00090; 4.0 times smaller (0.10 MB)" in verdict.sentence
    assert "moves by up to 0.0120, by up to 0.0030 with the cases" in verdict.sentence


def test_int8_that_happens_to_be_better_passes_without_any_tolerance() -> None:
    lucky = replace(FLOAT, original=replace(SCORES, log_loss=0.451))
    verdict = judge(Quantized(0.0), quantization=lucky)
    assert verdict.passed
    assert "better by 0.00100" in verdict.sentence
