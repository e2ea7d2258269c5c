"""What a candidate must pass before it may serve. A gate returns a verdict with its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from flywheel.evaluation import Scores


@dataclass(frozen=True)
class Contest:
    """A candidate and the champion on the same cases, which neither was trained on.

    Attributes:
        candidate: Scores of the candidate.
        champion: Scores of the champion; None while there is none.
        parity: Online and offline inputs compared; None if no gate asks for it.
    """

    candidate: Scores
    champion: Scores | None
    parity: ParityCount | None = None


@dataclass(frozen=True)
class ParityCount:
    """What a replay of held-out requests through the gateway's feature lookup came to.

    Attributes:
        requests: Requests replayed.
        differences: Inputs that were not what the offline join says.
    """

    requests: int
    differences: int


@dataclass(frozen=True)
class Verdict:
    """Whether a gate lets the candidate pass, and why.

    Attributes:
        gate: Name of the gate.
        passed: The decision.
        sentence: The reason in words.
        evidence: The figures it rests on.
    """

    gate: str
    passed: bool
    sentence: str
    evidence: Mapping[str, float]


class Gate(Protocol):
    """A condition on a candidate. Implementations are frozen dataclasses."""

    def judge(self, contest: Contest) -> Verdict:
        """Decide from the evidence alone."""
        ...


@dataclass(frozen=True)
class BeatsChampion:
    """The candidate is better than the champion, by at least `margin`.

    Attributes:
        metric: What is compared.
        margin: Least improvement, in the metric's own unit.
    """

    metric: Literal["auc", "log_loss", "brier"] = "log_loss"
    margin: float = 0.0

    def judge(self, contest: Contest) -> Verdict:
        """The first version passes: there is nobody to beat."""
        name = f"beats_champion({self.metric})"
        ours = getattr(contest.candidate, self.metric)
        if contest.champion is None:
            return Verdict(name, True, "there is no champion yet", {"candidate": ours})
        theirs = getattr(contest.champion, self.metric)
        gain = ours - theirs if self.metric == "auc" else theirs - ours
        passed = gain > self.margin
        better = "better" if gain > 0 else "worse"
        sentence = (
            f"{self.metric} {ours:.4f} against the champion's {theirs:.4f} on "
            f"{contest.candidate.rows} cases: {better} by {abs(gain):.4f}"
            + (f", asked for {self.margin:.4f}" if self.margin else "")
        )
        return Verdict(
            name, passed, sentence, {"candidate": ours, "champion": theirs, "gain": gain}
        )


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
