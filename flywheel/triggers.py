"""When to train: decided from evidence and history alone, with the reason in words."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class Cause(StrEnum):
    """What asks for training."""

    DRIFT = "drift"
    SCHEDULE = "schedule"


@dataclass(frozen=True)
class Evidence:
    """What is known on a data day.

    Attributes:
        as_of: The day for which a model would be trained.
        drifted: The drift verdict in words, None when nothing drifted.
        champion_as_of: Day of the champion, None while there is none.
    """

    as_of: date
    drifted: str | None = None
    champion_as_of: date | None = None


@dataclass(frozen=True)
class Decision:
    """Whether to train.

    Attributes:
        train: The decision.
        reason: Why, or why not.
        cause: What asked for it, None if nothing did.
    """

    train: bool
    reason: str
    cause: Cause | None = None


def decide(
    evidence: Evidence, trained: Collection[date], *, retrain_every_days: int | None
) -> Decision:
    """Decide whether to train now.

    Args:
        evidence: What is known.
        trained: The `as_of` days that have been trained already, whatever became of them.
        retrain_every_days: Longest age of the champion; None for no limit.
    """
    if evidence.champion_as_of is None:
        return Decision(False, "there is no champion yet: train the first one by hand")
    if evidence.as_of <= evidence.champion_as_of:
        return Decision(False, f"the champion of {evidence.champion_as_of} knows more already")
    if evidence.as_of in trained:
        return Decision(False, f"{evidence.as_of} has been trained already")
    if evidence.drifted:
        return Decision(True, evidence.drifted, Cause.DRIFT)
    age = (evidence.as_of - evidence.champion_as_of).days
    if retrain_every_days is not None and age >= retrain_every_days:
        return Decision(
            True, f"the champion is {age} days old (limit {retrain_every_days})", Cause.SCHEDULE
        )
    return Decision(False, f"nothing drifted and the champion is {age} days old")
