"""From the fields of a request to the model's input vector: transform, online store, vectorizer.

The gateway does this for every request, and so does whoever wants to know what the gateway would
have used (`flywheel parity`). No inference, no log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from flywheel_serving.bundle import RequestFeatures
from flywheel_serving.errors import ServingError
from flywheel_serving.feast_codec import CodecError
from flywheel_serving.features import FeatureError, Row, Vector, Vectorizer
from flywheel_serving.manifest import Manifest
from flywheel_serving.online_store import KeyedView, Lookup, OnlineStore, OnlineStoreError


class Question(NamedTuple):
    """A decoded request, and what has to be read for it: a lookup (or None) by view."""

    fields: dict[str, Any]
    event_timestamp: datetime
    transformed: Mapping[str, Any]
    lookups: dict[str, Lookup | None]


Rows = Mapping[tuple[str, bytes], Row | None]
"""Rows by name of the view and entity key."""


class Case(NamedTuple):
    """A request with the vector that answers it."""

    fields: dict[str, Any]
    event_timestamp: datetime
    vector: Vector


class StaleFeatureError(ServingError):
    """503: a view that refuses stale rows has none that is fresh.

    Attributes:
        view: Its name.
    """

    def __init__(self, view: str, message: str) -> None:
        super().__init__(503, message, retry_after=5)
        self.view = view


class CaseReader:
    """Makes the cases of one model.

    Args:
        manifest: Its manifest.
        transform: Its request-time features; None if it has none.
        store: The online store.
    """

    def __init__(
        self, manifest: Manifest, transform: RequestFeatures | None, store: OnlineStore
    ) -> None:
        self._name = manifest.triton_name
        self._store = store
        self._moment = manifest.request.event_timestamp
        self._project = manifest.project
        self._vectorizer = Vectorizer(manifest)
        self._transform = transform
        self._views = [
            (KeyedView(view), [manifest.key_source(key) for key in view.join_keys])
            for view in manifest.feature_views
        ]
        self._refusing = {view.name for view in manifest.feature_views if view.stale == "refuse"}

    def question(self, fields: dict[str, Any]) -> Question:
        """What a decoded request asks for.

        Raises:
            ServingError: 422 for a wrong value, 500 if the transform fails.
        """
        transformed: Mapping[str, Any] = {}
        if self._transform is not None:
            try:
                transformed = self._transform(fields)
            except ValueError as error:
                raise ServingError(422, f"The request has a wrong value: {error}.") from error
            except Exception as error:
                message = f"The transform of {self._name} failed: {error!r}."
                raise ServingError(500, f"{message} Roll back.") from error
        lookups: dict[str, Lookup | None] = {}
        try:
            for view, sources in self._views:
                keys = self._keys(sources, fields, transformed)
                lookups[view.view.name] = view.lookup(keys)
        except CodecError as error:
            raise ServingError(422, str(error)) from error
        except KeyError as error:
            message = f"The transform of {self._name} did not return the join key {error}."
            raise ServingError(500, message) from error
        return Question(fields, fields[self._moment], transformed, lookups)

    @staticmethod
    def _keys(
        sources: Iterable[tuple[str, str]],
        fields: Mapping[str, Any],
        transformed: Mapping[str, Any],
    ) -> list[Any]:
        return [
            fields[name] if origin == "request" else transformed[name] for origin, name in sources
        ]

    async def read(self, questions: Sequence[Question]) -> Rows:
        """The rows of all questions, each read once.

        Raises:
            ServingError: 503 if the store cannot be read.
        """
        wanted: dict[tuple[str, bytes], Lookup] = {}
        for question in questions:
            for name, lookup in question.lookups.items():
                if lookup is not None:
                    wanted[name, lookup.key] = lookup
        try:
            found = await self._store.read(self._project, list(wanted.values()))
        except OnlineStoreError as error:
            raise ServingError(503, str(error), retry_after=1) from error
        return dict(zip(wanted, found, strict=True))

    def case(self, question: Question, rows: Rows) -> Case:
        """Vector of one case.

        Raises:
            StaleFeatureError: A view that refuses stale rows has none that is fresh.
            ServingError: 500 if a value has the wrong type.
        """
        fields, moment, transformed, lookups = question
        by_view = {
            name: rows[name, lookup.key] for name, lookup in lookups.items() if lookup is not None
        }
        try:
            vector = self._vectorizer.vector(fields, transformed, by_view, moment.timestamp())
        except FeatureError as error:
            raise ServingError(500, str(error)) from error
        for name in vector.stale:
            if name in self._refusing:
                raise self._refusal(name, question, by_view.get(name))
        return Case(fields, moment, vector)

    def _refusal(self, name: str, question: Question, row: Row | None) -> StaleFeatureError:
        """Why a request is not answered with an old value."""
        for view, sources in self._views:
            if view.view.name == name:
                names = [key.name for key in view.view.join_keys]
                values = self._keys(sources, question.fields, question.transformed)
                key = ", ".join(f"{n}={v!r}" for n, v in zip(names, values, strict=True))
                if row is None:
                    age = "it has no row"
                else:
                    seconds = question.event_timestamp.timestamp() - row.event_timestamp
                    age = f"its row is {seconds:.0f} s old, and {view.view.ttl_seconds:g} s may be"
                message = f"Feature view '{name}' is stale for {key}: {age}. Refresh the view."
                return StaleFeatureError(name, message)
        raise AssertionError(name)
