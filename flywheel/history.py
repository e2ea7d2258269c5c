"""What became of every version: the events of the registry's memory, and what follows from them.

Four append-only tables. `lifecycle.models` has a row per registered version,
`lifecycle.evaluations` and `lifecycle.verdicts` what each evaluation found, `lifecycle.deployments`
every decision about who is to be champion and every change of traffic that the gateway made.
Nothing is ever changed in them: what is true now follows from what has happened. They are read and
written by `resources.ledger`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from flywheel.dataset import Dataset, columns, required

DECISION, TRAFFIC = "decision", "traffic"

Action = Literal["promoted", "rejected", "kept_out", "rolled_back", "routed"]

MODELS = Dataset(
    name="models",
    key=("model", "version"),
    columns=columns(
        required("event_id", "string", "Unique: model, version and fingerprint."),
        required("at", "timestamp", "When it was registered."),
        required("model", "string", "Registry name."),
        required("version", "string", "Registry version."),
        required("as_of", "date", "The morning it is of."),
        required("fingerprint", "string", "sha256 of its training set, recipe, seed, transform."),
        required("run_id", "string", "MLflow run."),
        required("git_commit", "string", "Commit of the code, `-dirty` if files differed."),
        required("environment", "string", "sha256 of the installed packages."),
        required("onnx_sha256", "string", "Of the model's file."),
        required("wall_seconds", "float64", "Time that the fit took."),
        required("cpu_seconds", "float64", "CPU time that it took."),
        required("cost", "float64", "What that costs, by the price of a CPU hour."),
        required("story", "string", "The version's whole story, as JSON."),
    ),
)

# Parts of a version's story that are columns of their own.
TOLD_APART = (
    "git_commit", "environment", "onnx_sha256", "wall_seconds", "cpu_seconds", "cost",
)  # fmt: skip

_EVALUATION = columns(
    required("evaluation_id", "string", "Unique id of the evaluation."),
    required("at", "timestamp", "When it was made."),
    required("model", "string", "Registry name."),
    required("as_of", "date", "The morning whose candidate it is about."),
    required("candidate", "string", "Version of the candidate."),
    ("champion", "string", "Version it was compared with; null while there was none."),
    required("harness", "int64", "Version of the code that computed it."),
    required("holdout", "string", "Fingerprint of the held-out cases."),
)

EVALUATIONS = Dataset(
    name="evaluations",
    key=("evaluation_id", "window", "contestant", "slice_column", "slice_value", "metric"),
    columns=(
        *_EVALUATION,
        *columns(
            required("window", "string", "`recent` or `stable`."),
            required("contestant", "string", "`candidate`, `champion` or a baseline's name."),
            required("slice_column", "string", "What the cases are grouped by; `(all)` for all."),
            required("slice_value", "string", "The subgroup; `(all)` for all."),
            required("metric", "string", "Name of the figure."),
            required("rows", "int64", "Cases it is about."),
            ("value", "float64", "The figure; null where it is not defined."),
            ("low", "float64", "Lower end of its 95 % day-block bootstrap interval."),
            ("high", "float64", "Upper end."),
        ),
    ),
)

VERDICTS = Dataset(
    name="verdicts",
    key=("evaluation_id", "declaration"),
    columns=(
        *_EVALUATION,
        *columns(
            required("gate", "string", "Name of the gate."),
            required("declaration", "string", "The gate as it was declared."),
            required("passed", "bool", "Its verdict."),
            required("sentence", "string", "Why."),
            required("evidence", "string", "The figures that it rests on, as JSON."),
        ),
    ),
)

DEPLOYMENTS = Dataset(
    name="deployments",
    key=("model", "at", "event_id"),
    columns=columns(
        required("event_id", "string", "Unique id."),
        required("at", "timestamp", "When."),
        required("kind", "string", "`decision` of the registry, or `traffic` as the gateway says."),
        required("model", "string", "Registry name."),
        required("action", "string", "promoted, rejected, kept_out, rolled_back or routed."),
        required("version", "string", "The version it is about."),
        ("previous", "string", "The version before it; null if there was none."),
        required("sequence", "int64", "Number among the model's decisions; 0 for traffic."),
        required("actor", "string", "Who."),
        required("reason", "string", "Why."),
        required("override", "bool", "Whether gates that said no were overruled."),
        required("overruled", "list<string>", "The sentences of those gates."),
        ("evaluation_id", "string", "The evaluation that it rests on."),
    ),
)

TABLES = (MODELS, EVALUATIONS, VERDICTS, DEPLOYMENTS)


class DecisionError(ValueError):
    """A decision contradicts what has happened; the message says what, and what to do."""


@dataclass(frozen=True)
class Event:
    """A row of `lifecycle.deployments`; the columns say what each field is."""

    event_id: str
    at: datetime
    kind: str
    model: str
    action: str
    version: str
    actor: str
    reason: str
    previous: str | None = None
    sequence: int = 0
    override: bool = False
    overruled: Sequence[str] = field(default_factory=tuple)
    evaluation_id: str | None = None

    def as_row(self) -> dict[str, Any]:
        """The event as a table's row."""
        return {**asdict(self), "overruled": list(self.overruled)}


@dataclass(frozen=True)
class Decision:
    """What is to be decided about a version.

    Attributes:
        action: What.
        version: The version it is about.
        actor: Who.
        reason: Why.
        expected: Champion that whoever decides has seen; None if none.
        override: Whether gates that said no are overruled.
        overruled: Their sentences.
        evaluation_id: The evaluation that it rests on.
    """

    action: Action
    version: str
    actor: str
    reason: str
    expected: str | None
    override: bool = False
    overruled: tuple[str, ...] = ()
    evaluation_id: str | None = None

    def __post_init__(self) -> None:
        if not self.actor.strip() or not self.reason.strip():
            raise DecisionError(f"{self.action}: a decision needs an actor and a reason")


def champion_of(events: Iterable[Event]) -> str | None:
    """The version that was last promoted or rolled back to; None before the first."""
    crowned = [e for e in events if e.action in ("promoted", "rolled_back") and _decided(e)]
    return max(crowned, key=lambda e: e.sequence).version if crowned else None


def rejected(events: Iterable[Event]) -> dict[str, Event]:
    """The versions that may not be promoted without a person, with the event that says so.

    Those are the rejected ones and the ones that were rolled back from, unless they were promoted
    again later.
    """
    found: dict[str, Event] = {}
    for event in sorted(filter(_decided, events), key=lambda e: e.sequence):
        if event.action == "rejected":
            found[event.version] = event
        elif event.action == "rolled_back" and event.previous:
            found[event.previous] = event
        if event.action in ("promoted", "rolled_back"):
            found.pop(event.version, None)
    return found


def serving_at(events: Iterable[Event], moment: datetime) -> Event | None:
    """The change of traffic that was in force at a moment; None before the first."""
    earlier = [e for e in events if e.kind == TRAFFIC and e.at <= moment]
    return max(earlier, key=lambda e: e.at) if earlier else None


def decided_at(events: Iterable[Event], version: str, moment: datetime) -> Event | None:
    """The decision that made a version champion, the last one up to a moment."""
    found = [
        e
        for e in events
        if _decided(e)
        and e.version == version
        and e.action in ("promoted", "rolled_back")
        and e.at <= moment
    ]
    return max(found, key=lambda e: e.sequence) if found else None


def follow(events: Sequence[Event], model: str, decision: Decision, at: datetime) -> Event | None:
    """The event that a decision becomes; None if the same has been decided already.

    This is the fence: it is asked with everything that has been decided, and its answer is written
    only if nothing was decided meanwhile.

    Args:
        events: Everything about the model, in any order.
        model: Its name.
        decision: What is to be decided.
        at: Now.

    Raises:
        DecisionError: Somebody else made another version champion meanwhile, or the decision
            contradicts an earlier one.
    """
    champion = champion_of(events)
    last = max((e.sequence for e in events), default=0)
    if decision.action in ("promoted", "rolled_back"):
        if champion == decision.version:
            return None
        if champion != decision.expected:
            raise DecisionError(
                f"{model}: {_named(champion)} is champion now, but version {decision.version} was "
                f"compared with {_named(decision.expected)}: evaluate it again"
            )
    barred = rejected(events).get(decision.version)
    if decision.action == "promoted" and barred and not decision.override:
        raise DecisionError(
            f"{model}: version {decision.version} was {_word(barred)} by {barred.actor} on "
            f"{barred.at:%Y-%m-%d %H:%M} UTC ({barred.reason}): promote it by hand with --override "
            "if it is to serve all the same"
        )
    if decision.action == "rejected":
        if champion == decision.version:
            raise DecisionError(
                f"{model}: version {decision.version} is champion: roll back first "
                f"(flywheel rollback {model} --reason ...)"
            )
        if barred:
            return None
    same = (decision.evaluation_id, decision.version)
    kept = {(e.evaluation_id, e.version) for e in events if e.action == "kept_out"}
    if decision.action == "kept_out" and same in kept:
        return None
    return Event(
        event_id=f"{model}/{last + 1}",
        at=at,
        kind=DECISION,
        model=model,
        action=decision.action,
        version=decision.version,
        previous=champion,
        sequence=last + 1,
        actor=decision.actor,
        reason=decision.reason,
        override=decision.override,
        overruled=decision.overruled,
        evaluation_id=decision.evaluation_id,
    )


def traffic(model: str, changes: Iterable[Mapping[str, Any]]) -> list[Event]:
    """The gateway's changes of a route as events; the same change always has the same id.

    Args:
        model: Its name.
        changes: With `at` (ISO 8601), `action`, `version`, `previous`, `actor` and `reason`.
    """
    return [
        Event(
            event_id=f"{model}/{one['at']}/{one['version']}",
            at=datetime.fromisoformat(one["at"]),
            kind=TRAFFIC,
            model=model,
            action="rolled_back" if one["action"] == "rollback" else "routed",
            version=one["version"],
            previous=one["previous"],
            actor=one["actor"],
            reason=one["reason"],
        )
        for one in changes
    ]


def _decided(event: Event) -> bool:
    return event.kind == DECISION


def _named(version: str | None) -> str:
    return "nobody" if version is None else f"version {version}"


def _word(event: Event) -> str:
    return "rejected" if event.action == "rejected" else "rolled back from"
