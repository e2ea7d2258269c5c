"""The gates about the artifact believe what Triton did, and nothing that was not tried."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from flywheel.contest import Contest, Latencies, Trial, TrialPlan, Verdict
from flywheel.evaluation import Scores
from flywheel.gates import AtLeast, Gate, Latency, Loads, Parity, SizeLimit, trial_plan

SCORES = Scores(
    rows=500, base_rate=0.2, mean_probability=0.2, auc=0.75, log_loss=0.45, brier=0.14, ece=0.02
)
FAST = Latencies(requests=2000, errors=0, p50_ms=0.5, p95_ms=2.0, p99_ms=4.0, per_second=9000.0)
TRIAL = Trial(
    loaded=True,
    reason="",
    load_seconds=0.5,
    probe_rows=16,
    probe_max_abs_diff=2e-7,
    tolerance=1e-5,
    model_bytes=400_000,
    bundle_bytes=900_000,
    latencies={8: FAST},
)
REFUSED = replace(
    TRIAL, loaded=False, reason="Triton could not load it: opset 99", load_seconds=None,
    probe_max_abs_diff=None, latencies={},
)  # fmt: skip
GATES: tuple[Gate, ...] = (Loads(), Latency(p99_ms=5.0), SizeLimit(megabytes=1.0))


def judge(gate: Gate, trial: Trial | None) -> Verdict:
    verdict = gate.judge(Contest(SCORES, None, trial=trial))
    assert verdict.sentence
    assert all(map(math.isfinite, verdict.evidence.values()))
    return verdict


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: type(gate).__name__)
def test_what_was_not_tried_does_not_pass(gate: Gate) -> None:
    verdict = judge(gate, None)
    assert not verdict.passed
    assert verdict.sentence == "the bundle was not tried in Triton"


def test_a_bundle_that_loads_and_agrees_passes() -> None:
    verdict = judge(Loads(), TRIAL)
    assert verdict.passed
    assert verdict.sentence == (
        "loaded in 0.50 s; of 16 probe rows the largest difference from training is 2.0e-07, "
        "limit 1.0e-05"
    )
    assert verdict.evidence["diff"] == 2e-7


@pytest.mark.parametrize(
    ("diff", "asked", "allowed", "passed"),
    [
        (1e-5, 1e-4, 1e-5, True),
        (2e-5, 1e-4, 1e-5, False),  # the deployment would refuse it
        (2e-5, 1e-4, 1e-3, True),
        (2e-5, 1e-5, 1e-3, False),
    ],
)
def test_the_stricter_of_gate_and_deployment_counts(
    diff: float, asked: float, allowed: float, passed: bool
) -> None:
    trial = replace(TRIAL, probe_max_abs_diff=diff, tolerance=allowed)
    assert judge(Loads(tolerance=asked), trial).passed is passed


def test_a_bundle_that_does_not_load_is_refused_with_tritons_reason() -> None:
    for gate in (Loads(), Latency(p99_ms=5.0)):
        verdict = judge(gate, REFUSED)
        assert not verdict.passed
        assert verdict.sentence == "Triton could not load it: opset 99"
    assert judge(Loads(), REFUSED).evidence["loaded"] == 0.0


def test_a_probe_without_an_answer_does_not_pass() -> None:
    silent = replace(TRIAL, probe_max_abs_diff=None, reason="Triton did not answer the probe: no")
    verdict = judge(Loads(), silent)
    assert not verdict.passed
    assert verdict.sentence == "Triton did not answer the probe: no"


@pytest.mark.parametrize(("limit", "passed"), [(3.9, False), (4.0, True), (50.0, True)])
def test_latency_is_held_to_its_99th_percentile(limit: float, passed: bool) -> None:
    verdict = judge(Latency(p99_ms=limit), TRIAL)
    assert verdict.passed is passed
    assert verdict.gate == "latency(p99, 8 at once)"
    assert verdict.sentence == (
        f"p99 4.00 ms of 2000 requests, 8 at once, limit {limit:.2f} ms; p50 0.50 ms, 9000 a second"
    )


def test_latency_at_another_concurrency_is_no_evidence() -> None:
    verdict = judge(Latency(p99_ms=5.0, at_concurrency=64), TRIAL)
    assert not verdict.passed
    assert verdict.sentence == "latency was not measured at 64 at once"


@pytest.mark.parametrize(
    ("found", "because"),
    [
        (replace(FAST, errors=1), "1 of 2000 requests failed"),
        (
            replace(FAST, errors=2000, p50_ms=None, p95_ms=None, p99_ms=None),
            "2000 of 2000 requests failed",
        ),
        (replace(FAST, requests=1999), "only 1999 of 2000 requests were made"),
    ],
    ids=["one failed", "all failed", "not all were made"],
)
def test_failed_and_missing_requests_are_not_fast(found: Latencies, because: str) -> None:
    verdict = judge(Latency(p99_ms=50.0), replace(TRIAL, latencies={8: found}))
    assert not verdict.passed
    assert verdict.sentence.startswith(because)


@pytest.mark.parametrize(("limit", "passed"), [(0.39, False), (0.4, True)])
def test_size_is_that_of_the_file_that_triton_holds(limit: float, passed: bool) -> None:
    verdict = judge(SizeLimit(megabytes=limit), TRIAL)
    assert verdict.passed is passed
    assert verdict.evidence["model mb"] == 0.4


def test_one_trial_serves_all_gates() -> None:
    gates = (
        AtLeast(),
        Loads(),
        Latency(5.0, at_concurrency=1, requests=500),
        Latency(9.0, at_concurrency=8, requests=2000),
        Latency(3.0, at_concurrency=1),
    )
    assert trial_plan(gates) == TrialPlan(concurrency=(1, 8), requests=2000)


def test_gates_that_measure_nothing_still_need_triton() -> None:
    assert trial_plan((Loads(), SizeLimit(1.0))) == TrialPlan((), 0)


def test_no_triton_is_started_for_gates_that_need_none() -> None:
    assert trial_plan((AtLeast(), Parity())) is None


class StartsQuickly:
    """A gate of a domain's own."""

    trial = TrialPlan((2,), 10)

    def judge(self, contest: Contest) -> Verdict:
        raise NotImplementedError


def test_a_domains_own_gate_takes_part() -> None:
    assert trial_plan((StartsQuickly(), Loads())) == TrialPlan((2,), 10)
