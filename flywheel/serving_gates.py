"""Gates about the artifact itself, measured in a real Triton that was given this very bundle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flywheel.contest import Contest, Trial, TrialPlan, Verdict

NO_TRIAL = "the bundle was not tried in Triton"


@dataclass(frozen=True)
class Loads:
    """Triton loads the bundle and computes what training computed.

    Attributes:
        tolerance: Greatest difference in a probability of the probe. What the bundle itself allows
            holds too: a deployment would refuse more.
    """

    tolerance: float = 1e-4

    @property
    def trial(self) -> TrialPlan:
        """Nothing need be measured."""
        return TrialPlan()

    def judge(self, contest: Contest) -> Verdict:
        """A bundle that does not load is refused with Triton's reason."""
        trial = contest.trial
        if trial is None:
            return Verdict("loads", False, NO_TRIAL, {})
        gap = trial.probe_max_abs_diff
        evidence = {"loaded": float(trial.loaded), "probe rows": float(trial.probe_rows)}
        if trial.load_seconds is not None:
            evidence["load seconds"] = trial.load_seconds
        if not trial.loaded or gap is None:
            return Verdict("loads", False, _reason(trial), evidence)
        limit = min(self.tolerance, trial.tolerance)
        sentence = (
            f"loaded in {trial.load_seconds or 0.0:.2f} s; of {trial.probe_rows} probe rows the "
            f"largest difference from training is {gap:.1e}, limit {limit:.1e}"
        )
        return Verdict("loads", gap <= limit, sentence, evidence | {"diff": gap, "limit": limit})


@dataclass(frozen=True)
class Latency:
    """Triton answers single-row requests fast enough while others are under way.

    Attributes:
        p99_ms: Greatest 99th percentile, milliseconds.
        at_concurrency: Requests at once.
        requests: Requests to measure. No request may fail, and none may be left unmade.
    """

    p99_ms: float
    at_concurrency: int = 8
    requests: int = 2000

    @property
    def trial(self) -> TrialPlan:
        """What has to be measured for it."""
        return TrialPlan((self.at_concurrency,), self.requests)

    def judge(self, contest: Contest) -> Verdict:
        """Compare with the limit."""
        name = f"latency(p99, {self.at_concurrency} at once)"
        trial = contest.trial
        if trial is None:
            return Verdict(name, False, NO_TRIAL, {})
        found = trial.latencies.get(self.at_concurrency)
        if found is None:
            why = _reason(trial) or f"latency was not measured at {self.at_concurrency} at once"
            return Verdict(name, False, why, {})
        figures = {"p50 ms": found.p50_ms, "p95 ms": found.p95_ms, "p99 ms": found.p99_ms}
        evidence = {
            "requests": float(found.requests),
            "errors": float(found.errors),
            "per second": found.per_second,
            "limit ms": self.p99_ms,
            **{figure: value for figure, value in figures.items() if value is not None},
        }
        if found.errors or found.p99_ms is None:
            sentence = f"{found.errors} of {found.requests} requests failed"
            return Verdict(name, False, sentence, evidence)
        if found.requests < self.requests:
            sentence = (
                f"only {found.requests} of {self.requests} requests were made in the time of a "
                "measurement"
            )
            return Verdict(name, False, sentence, evidence)
        sentence = (
            f"p99 {found.p99_ms:.2f} ms of {found.requests} requests, {self.at_concurrency} at "
            f"once, limit {self.p99_ms:.2f} ms; p50 {found.p50_ms or 0.0:.2f} ms, "
            f"{found.per_second:.0f} a second"
        )
        return Verdict(name, found.p99_ms <= self.p99_ms, sentence, evidence)


@dataclass(frozen=True)
class SizeLimit:
    """The ONNX file that Triton has to hold is small enough.

    Attributes:
        megabytes: Greatest size, 10^6 bytes.
    """

    megabytes: float

    @property
    def trial(self) -> TrialPlan:
        """Nothing need be measured."""
        return TrialPlan()

    def judge(self, contest: Contest) -> Verdict:
        """Compare with the limit."""
        trial = contest.trial
        if trial is None:
            return Verdict("size_limit", False, NO_TRIAL, {})
        size, bundle = trial.model_bytes / 1e6, trial.bundle_bytes / 1e6
        return Verdict(
            "size_limit",
            size <= self.megabytes,
            f"the model's file is {size:.2f} MB, limit {self.megabytes:.2f} MB (bundle "
            f"{bundle:.2f} MB)",
            {"model mb": size, "bundle mb": bundle, "limit mb": self.megabytes},
        )


def trial_plan(gates: Iterable[object]) -> TrialPlan | None:
    """The one trial that serves all gates; None if none of them needs Triton.

    A gate of a domain's own takes part by a property `trial` that is a `TrialPlan`.
    """
    plans = [plan for gate in gates if isinstance(plan := getattr(gate, "trial", None), TrialPlan)]
    if not plans:
        return None
    return TrialPlan(
        tuple(dict.fromkeys(at for plan in plans for at in plan.concurrency)),
        max(plan.requests for plan in plans),
    )


def _reason(trial: Trial) -> str:
    return trial.reason or ("" if trial.loaded else "Triton did not load the bundle")
