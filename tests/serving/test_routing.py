"""The routing document moves as its rules say and survives on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flywheel_serving.routing import (
    HISTORY,
    Change,
    Deployment,
    RoutingDocument,
    RoutingError,
    RoutingFile,
    promote,
    rollback_target,
)


def deployment(version: str) -> Deployment:
    """A deployment of that version."""
    return Deployment(version=version, digest="d" + version, bundle="/b/" + version)


def change(version: str, previous: str | None = None) -> Change:
    """A change to that version."""
    return Change(
        at=f"2030-01-01T00:00:{int(version) % 60:02}+00:00",
        action="deploy",
        version=version,
        previous=previous,
        actor="test",
        reason="because",
    )


class Routes(RuleBasedStateMachine):
    """Deploy and roll back in any order: a rollback undoes exactly the last flip."""

    def __init__(self) -> None:
        super().__init__()
        self.document = RoutingDocument()
        self.flips: list[str] = []
        self.next = 1

    @rule()
    def deploy(self) -> None:
        """A new version becomes the champion."""
        version = str(self.next)
        self.next += 1
        self.document = promote(self.document, "m", deployment(version), change(version))
        self.flips.append(version)

    @precondition(lambda self: len(self.flips) >= 2)
    @rule()
    def roll_back(self) -> None:
        """The previous version becomes the champion."""
        target = rollback_target(self.document, "m")
        assert target.version == self.flips[-2]
        self.document = promote(self.document, "m", target, change(target.version))
        self.flips.append(target.version)

    @invariant()
    def champion_and_previous_are_the_last_two_flips(self) -> None:
        """Only these two must be loaded."""
        loaded = [item.version for _, item in self.document.deployments()]
        assert loaded == list(reversed(self.flips[-2:]))

    @invariant()
    def history_is_bounded_and_ends_with_the_last_change(self) -> None:
        """The document stays small."""
        if self.flips:
            history = self.document.models["m"].history
            assert [item.version for item in history] == self.flips[-HISTORY:]


TestRoutes = Routes.TestCase


def test_there_is_nothing_to_roll_back_to_at_first() -> None:
    document = promote(RoutingDocument(), "m", deployment("1"), change("1"))
    for name in ("m", "other"):
        with pytest.raises(RoutingError, match="no previous version"):
            rollback_target(document, name)


def test_promoting_the_champion_again_keeps_the_previous_version() -> None:
    document = promote(RoutingDocument(), "m", deployment("1"), change("1"))
    document = promote(document, "m", deployment("2"), change("2"))
    document = promote(document, "m", deployment("2"), change("2"))
    assert rollback_target(document, "m").version == "1"


def test_the_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    file = RoutingFile(tmp_path / "routing.json")
    assert file.load() == RoutingDocument()
    document = promote(RoutingDocument(), "m", deployment("1"), change("1"))
    document = promote(document, "m", deployment("2"), change("2", "1"))
    file.save(document)
    assert file.load() == document
    assert [path.name for path in tmp_path.iterdir()] == ["routing.json"]


def test_a_damaged_file_is_an_error_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "routing.json").write_text('{"models": {')
    with pytest.raises(RoutingError, match="is damaged"):
        RoutingFile(tmp_path / "routing.json").load()
