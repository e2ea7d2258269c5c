"""The routing document: which version of each model gets the traffic. It is the truth about that.

Pure transitions on frozen values, and one file that is replaced atomically. Loading what it names
is the deployer's business.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

HISTORY = 50
"""Changes kept for each model."""


class RoutingError(RuntimeError):
    """The document cannot be read, or a change is impossible; the message says why."""


class _Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the document's values."""


class Deployment(_Value, frozen=True):
    """One deployed version.

    Attributes:
        version: Version in the registry.
        digest: The bundle's digest.
        bundle: Folder of the gateway's own copy of it, below its bundle store.
    """

    version: str
    digest: str
    bundle: str


class Change(_Value, frozen=True):
    """One change of a route; ``at`` is ISO 8601 in UTC."""

    at: str
    action: Literal["deploy", "rollback"]
    version: str
    previous: str | None
    actor: str
    reason: str


class Route(_Value, frozen=True):
    """Where the traffic of one model goes.

    Attributes:
        champion: The version that answers.
        previous: The version a rollback goes to; it stays loaded.
        since: When the champion became so, ISO 8601 in UTC.
        history: The last changes, the oldest first.
    """

    champion: Deployment
    previous: Deployment | None
    since: str
    history: list[Change] = []


class RoutingDocument(_Value, frozen=True):
    """The routes of all models, by name."""

    models: dict[str, Route] = {}
    format: Literal[1] = 1

    def deployments(self) -> list[tuple[str, Deployment]]:
        """Every version that must be loaded, with its model's name."""
        return [
            (name, deployment)
            for name, route in self.models.items()
            for deployment in (route.champion, route.previous)
            if deployment is not None
        ]


def promote(
    document: RoutingDocument, model: str, target: Deployment, change: Change
) -> RoutingDocument:
    """Make a version the champion; the champion until now becomes the previous one.

    Promoting the champion again (to repair it) leaves the previous one as it is.
    """
    old = document.models.get(model)
    previous = old.champion if old is not None else None
    if old is not None and old.champion.version == target.version:
        previous = old.previous
    route = Route(
        champion=target,
        previous=previous,
        since=change.at,
        history=[*(old.history if old is not None else []), change][-HISTORY:],
    )
    return msgspec.structs.replace(document, models={**document.models, model: route})


def rollback_target(document: RoutingDocument, model: str) -> Deployment:
    """The version a rollback goes to.

    Raises:
        RoutingError: If there is none.
    """
    route = document.models.get(model)
    if route is None or route.previous is None:
        raise RoutingError(f"Model '{model}' has no previous version to roll back to; deploy one.")
    return route.previous


class RoutingFile:
    """The document on disk.

    Args:
        path: The JSON file; its directory must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> RoutingDocument:
        """Read the document; an absent file is an empty one.

        Raises:
            RoutingError: If the file is damaged. Serving nothing instead would hide it.
        """
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=RoutingDocument)
        except FileNotFoundError:
            return RoutingDocument()
        except msgspec.DecodeError as error:
            raise RoutingError(
                f"The routing document {self._path} is damaged ({error}); restore it, or delete it "
                "and deploy each model again."
            ) from error

    def save(self, document: RoutingDocument) -> None:
        """Replace the document atomically and durably."""
        aside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with aside.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(document), indent=2))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
