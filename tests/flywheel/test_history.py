"""What is true of a model's versions now follows from what was decided, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.history import (
    Decision,
    DecisionError,
    Event,
    champion_of,
    decided_at,
    follow,
    rejected,
    serving_at,
    traffic,
)

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def after(*decisions: Decision) -> list[Event]:
    """The events of decisions that were all allowed."""
    events: list[Event] = []
    for number, decision in enumerate(decisions):
        event = follow(events, "kings", decision, NOON + timedelta(hours=number))
        if event:
            events.append(event)
    return events


def promote(version: str, expected: str | None, *, override: bool = False) -> Decision:
    return Decision("promoted", version, "gates", "better", expected, override=override)


def test_the_last_promotion_says_who_is_champion() -> None:
    assert champion_of([]) is None
    events = after(promote("1", None), promote("2", "1"))
    assert champion_of(events) == "2"
    assert [e.previous for e in events] == [None, "1"]
    assert [e.sequence for e in events] == [1, 2]


def test_a_promotion_over_a_champion_that_it_was_not_compared_with_is_refused() -> None:
    events = after(promote("1", None), promote("2", "1"))
    with pytest.raises(DecisionError, match=r"version 2 is champion now, but version 3 was"):
        follow(events, "kings", promote("3", "1"), NOON)


def test_deciding_the_same_again_is_no_event() -> None:
    events = after(promote("1", None))
    assert follow(events, "kings", promote("1", None), NOON) is None
    kept = Decision("kept_out", "2", "gates", "not better", "1", evaluation_id="e1")
    events = [*events, *(e for e in [follow(events, "kings", kept, NOON)] if e)]
    assert follow(events, "kings", kept, NOON) is None
    assert champion_of(events) == "1"


def test_a_version_that_was_rolled_back_from_comes_back_only_by_override() -> None:
    back = Decision("rolled_back", "1", "ann", "it was late", "2")
    events = after(promote("1", None), promote("2", "1"), back)
    assert champion_of(events) == "1"
    assert set(rejected(events)) == {"2"}
    with pytest.raises(DecisionError, match=r"rolled back from by ann .* \(it was late\)"):
        follow(events, "kings", promote("2", "1"), NOON)
    events = [
        *events,
        *(e for e in [follow(events, "kings", promote("2", "1", override=True), NOON)] if e),
    ]
    assert champion_of(events) == "2"
    assert rejected(events) == {}


def test_a_champion_is_not_rejected_but_rolled_back() -> None:
    no = Decision("rejected", "1", "ann", "no", None)
    with pytest.raises(DecisionError, match="flywheel rollback kings"):
        follow(after(promote("1", None)), "kings", no, NOON)


@pytest.mark.parametrize(("actor", "reason"), [("", "why"), ("ann", " "), (" ", "")])
def test_a_decision_has_an_actor_and_a_reason(actor: str, reason: str) -> None:
    with pytest.raises(DecisionError, match="needs an actor and a reason"):
        Decision("promoted", "1", actor, reason, None, override=True)


def test_the_gateways_changes_say_what_served_at_a_moment() -> None:
    changes = [
        {
            "at": (NOON + timedelta(hours=hour)).isoformat(), "action": action,
            "version": version, "previous": previous, "actor": "ann", "reason": "r",
        }
        for hour, action, version, previous in (
            (0, "deploy", "1", None), (2, "deploy", "2", "1"), (3, "rollback", "1", "2"),
        )
    ]  # fmt: skip
    events = [*after(promote("1", None)), *traffic("kings", changes)]
    assert serving_at(events, NOON - timedelta(seconds=1)) is None
    served = [serving_at(events, NOON + timedelta(hours=h)) for h in (0, 2.5, 9)]
    assert [e.version for e in served if e] == ["1", "2", "1"]
    assert len({e.event_id for e in traffic("kings", [*changes, *changes])}) == 3
    crowned = decided_at(events, "1", NOON + timedelta(hours=1))
    assert crowned is not None
    assert crowned.kind == "decision"
    assert champion_of(traffic("kings", changes)) is None


actions = st.builds(
    Decision,
    action=st.sampled_from(["promoted", "rejected", "kept_out", "rolled_back"]),
    version=st.sampled_from("123"),
    actor=st.just("ann"),
    reason=st.just("why"),
    expected=st.sampled_from([None, "1", "2", "3"]),
    override=st.booleans(),
)


@settings(deadline=None)
@given(st.lists(actions, max_size=12))
def test_whatever_is_asked_the_record_stays_consistent(asked: list[Decision]) -> None:
    events: list[Event] = []
    for decision in asked:
        before = champion_of(events)
        try:
            event = follow(events, "kings", decision, NOON)
        except DecisionError:
            continue
        if event is None:
            continue
        events.append(event)
        changed = decision.action in ("promoted", "rolled_back")
        assert event.previous == before
        assert champion_of(events) == (decision.version if changed else before)
        if changed:
            assert decision.expected == before
        assert champion_of(events) not in rejected(events)
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    assert len({e.event_id for e in events}) == len(events)
