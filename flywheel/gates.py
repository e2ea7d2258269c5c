"""What a candidate must pass before it may serve. A gate returns a verdict with its evidence.

A gate that has nothing to judge does not let the candidate pass: no evidence is no permission.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from flywheel.bootstrap import BootstrapError, Metric
from flywheel.contest import NO_CHAMPION, Cases, Contest, ParityCount, Verdict
from flywheel.data_gates import Quantized, ValidData
from flywheel.leakage import TOO_GOOD, leaking_features
from flywheel.serving_gates import Latency, Loads, SizeLimit, trial_plan
from flywheel.slice_gates import Fairness, NoSliceRegression

__all__ = [
    "AtLeast",
    "BeatsChampion",
    "Calibrated",
    "Cases",
    "Contest",
    "Fairness",
    "Gate",
    "Latency",
    "Loads",
    "NoLeakage",
    "NoSliceRegression",
    "Parity",
    "ParityCount",
    "Quantized",
    "SizeLimit",
    "ValidData",
    "Verdict",
    "slice_columns",
    "trial_plan",
]


class Gate(Protocol):
    """A condition on a candidate. Implementations are frozen dataclasses."""

    def judge(self, contest: Contest) -> Verdict:
        """Decide from the evidence alone."""
        ...


@dataclass(frozen=True)
class BeatsChampion:
    """The candidate is better than the champion beyond the luck of the held-out days.

    It passes if its gain is above `margin` with one-sided `confidence`, by a paired bootstrap of
    whole days. A candidate that may just as well be no better does not take over: a change of
    version has its own risk. A negative margin asks for no more than not being worse by that much.
    Where only scores are known there is no interval, and the gain itself must be above `margin`.

    Attributes:
        metric: What is compared.
        margin: Least improvement, in the metric's own unit.
        confidence: That the true gain is above the bound that is compared with `margin`.
    """

    metric: Metric = "log_loss"
    margin: float = 0.0
    confidence: float = 0.9

    def judge(self, contest: Contest) -> Verdict:
        """The first version passes: there is nobody to beat."""
        name = f"beats_champion({self.metric})"
        ours = getattr(contest.candidate, self.metric)
        if contest.champion is None:
            return Verdict(name, True, NO_CHAMPION, {"candidate": ours})
        theirs = getattr(contest.champion, self.metric)
        gain = ours - theirs if self.metric == "auc" else theirs - ours
        evidence = {"candidate": ours, "champion": theirs, "gain": gain}
        better = "better" if gain > 0 else "worse"
        sentence = (
            f"{self.metric} {ours:.4f} against the champion's {theirs:.4f} on "
            f"{contest.candidate.rows} cases: {better} by {abs(gain):.4f}"
        )
        least = gain
        if contest.cases is not None:
            try:
                comparison = contest.cases.comparison
            except BootstrapError as error:
                return Verdict(name, False, f"{sentence}, but {error}", evidence)
            estimate = comparison.gain[self.metric]
            least, most = estimate.lower(self.confidence), estimate.upper(self.confidence)
            sentence += (
                f" ({least:+.4f} to {most:+.4f}: each bound holds with {self.confidence:.0%} "
                f"confidence over {comparison.days} days)"
            )
            evidence |= {
                "low": least,
                "high": most,
                "confidence": self.confidence,
                "days": float(comparison.days),
            }
        if self.margin:
            sentence += f", asked for {self.margin:.4f}"
        return Verdict(name, least > self.margin, sentence, evidence)


@dataclass(frozen=True)
class AtLeast:
    """A score reaches a floor: a model that is useless must not become the first champion."""

    metric: Literal["auc"] = "auc"
    floor: float = 0.6

    def judge(self, contest: Contest) -> Verdict:
        """Compare with the floor."""
        ours = getattr(contest.candidate, self.metric)
        return Verdict(
            f"at_least({self.metric})",
            ours >= self.floor,
            f"{self.metric} {ours:.4f}, floor {self.floor:.2f}",
            {"candidate": ours, "floor": self.floor},
        )


@dataclass(frozen=True)
class Calibrated:
    """The probabilities mean what they say.

    Attributes:
        max_ece: Greatest expected calibration error.
    """

    max_ece: float = 0.05

    def judge(self, contest: Contest) -> Verdict:
        """Compare with the limit."""
        ece = contest.candidate.ece
        return Verdict(
            "calibrated",
            ece <= self.max_ece,
            f"expected calibration error {ece:.4f}, limit {self.max_ece:.4f}",
            {"ece": ece, "limit": self.max_ece},
        )


@dataclass(frozen=True)
class NoLeakage:
    """No input alone tells the answer.

    Attributes:
        max_auc: What no honest input reaches by itself.
    """

    max_auc: float = TOO_GOOD

    def judge(self, contest: Contest) -> Verdict:
        """Score every input by itself."""
        cases = contest.cases
        if cases is None or not cases.features:
            return Verdict("no_leakage", False, "no inputs were given to judge", {})
        leaking = leaking_features(cases.label, cases.features, self.max_auc)
        named = ", ".join(f"{name} (AUC {auc:.4f})" for name, auc in leaking.items())
        sentence = (
            f"{named} alone tell the answer: take out what is known only afterwards"
            if leaking
            else f"none of {len(cases.features)} inputs alone reaches an AUC of {self.max_auc:.2f}"
        )
        return Verdict(
            "no_leakage",
            not leaking,
            sentence,
            {"inputs": float(len(cases.features)), "limit": self.max_auc} | leaking,
        )


@dataclass(frozen=True)
class Parity:
    """The gateway would use the very inputs that the candidate was trained on.

    Attributes:
        requests: How many requests of the last held-out day are replayed.
    """

    requests: int = 200

    def judge(self, contest: Contest) -> Verdict:
        """No difference at all, and something was compared."""
        found = contest.parity
        if found is None or not found.requests:
            return Verdict("parity", False, "no request was replayed", {"requests": 0.0})
        sentence = (
            f"{found.requests} requests replayed: {found.differences or 'no'} inputs differ "
            "between gateway and training"
        )
        return Verdict(
            "parity",
            found.differences == 0,
            sentence,
            {"requests": float(found.requests), "differences": float(found.differences)},
        )


def slice_columns(gates: Iterable[Gate]) -> tuple[str, ...]:
    """The slice columns that gates ask for, in order, each once."""
    return tuple(dict.fromkeys(c for gate in gates for c in getattr(gate, "columns", ())))
