"""Reads the newest feature row of a key from Feast's online store.

Feast's own reader costs seconds of import and a millisecond a read; this one reads the SQLite
layout of Feast 0.67 directly: table ``{project}_{view}``, one row per (entity key, feature). It
never writes. Another store (Redis) is another class with the same :class:`OnlineStore` protocol.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from flywheel_serving.feast_codec import CodecError, EntityKeyEncoder, decode_value
from flywheel_serving.features import Row
from flywheel_serving.manifest import FeatureView

_REPLACED_CHECK_SECONDS = 1.0


class OnlineStoreError(RuntimeError):
    """The online store cannot be read; the request should be answered with 503."""


class OnlineStore(Protocol):
    """What the gateway needs of an online store.

    Called from the event loop only, so an implementation needs no locks but must be quick.
    """

    def read(self, project: str, view: FeatureView, keys: Sequence[object]) -> Row | None:
        """Read the newest row of a key.

        Args:
            project: Feast project.
            view: The feature view.
            keys: Value per join key, in the order of ``view.join_keys``. A null key has no row.

        Returns:
            The row, or None if the store has none.

        Raises:
            OnlineStoreError: If the store cannot be read.
        """
        ...

    def close(self) -> None:
        """Release what the store holds; it may not be used afterwards."""
        ...


class EmptyOnlineStore:
    """The store of a gateway that was started without one: every row is missing."""

    def read(self, project: str, view: FeatureView, keys: Sequence[object]) -> Row | None:  # noqa: ARG002
        """Return None: there are no rows."""
        return None

    def close(self) -> None:
        """Do nothing."""


def event_seconds(stored: object) -> float:
    """Epoch seconds of the ``event_ts`` Feast stored.

    Feast makes the time naive UTC and then stores ``int(naive.timestamp())``, which reads it as
    *local* time (``sqlite.py``, ``adapt_datetime_epoch``; whole seconds). Undo exactly that, so
    that hosts whose zone is not UTC agree. Text is naive UTC in ISO format, written by older
    versions.

    Raises:
        OnlineStoreError: If the value is of neither form.
    """
    if isinstance(stored, int):
        return datetime.fromtimestamp(stored).replace(tzinfo=UTC).timestamp()
    if isinstance(stored, str):
        moment = datetime.fromisoformat(stored)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    raise OnlineStoreError(f"The online store holds the event time {stored!r}, which is no time.")


class SqliteOnlineStore:
    """Read-only reader of Feast's SQLite online store.

    A file or table that does not exist yet has no rows. A file that is replaced is noticed within a
    second.

    Args:
        path: The database file.
        busy_seconds: How long a read waits for a writer's lock before it fails.
    """

    def __init__(self, path: Path | str, busy_seconds: float = 0.5) -> None:
        self._path = Path(path)
        self._busy_seconds = busy_seconds
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._checked_at = 0.0
        # By identity: hashing a whole view on each request would cost more than the read.
        self._plans: dict[int, tuple[FeatureView, str, EntityKeyEncoder, frozenset[str]]] = {}

    def read(self, project: str, view: FeatureView, keys: Sequence[object]) -> Row | None:
        """See :meth:`OnlineStore.read`."""
        if None in keys:
            return None
        connection = self._connect()
        if connection is None:
            return None
        plan = self._plans.get(id(view))
        if plan is None:
            plan = self._plan(project, view)
        _, query, encoder, wanted = plan
        try:
            found = connection.execute(query, (encoder.encode(keys),)).fetchall()
        except sqlite3.OperationalError as error:
            if str(error).startswith("no such table"):
                return None
            raise self._failure(error) from error
        except (sqlite3.Error, OSError) as error:
            raise self._failure(error) from error
        try:
            values = {name: decode_value(data) for name, data, _ in found if name in wanted}
        except CodecError as error:
            raise OnlineStoreError(f"Feature view '{view.name}': {error}") from error
        if not values:
            return None
        return Row(values, event_seconds(max(when for name, _, when in found if name in wanted)))

    def close(self) -> None:
        """Close the database; the next read opens it again."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._identity = None

    def _plan(
        self, project: str, view: FeatureView
    ) -> tuple[FeatureView, str, EntityKeyEncoder, frozenset[str]]:
        table = f"{project}_{view.name}".replace('"', '""')
        query = f'SELECT feature_name, value, event_ts FROM "{table}" WHERE entity_key = ?'  # noqa: S608
        wanted = frozenset(feature.name for feature in view.features)
        plan = (view, query, EntityKeyEncoder(view.join_keys), wanted)
        self._plans[id(view)] = plan
        return plan

    def _connect(self) -> sqlite3.Connection | None:
        now = time.monotonic()
        if self._connection is not None and now - self._checked_at < _REPLACED_CHECK_SECONDS:
            return self._connection
        self._checked_at = now
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self.close()
            return None
        except OSError as error:
            raise self._failure(error) from error
        identity = (status.st_dev, status.st_ino)
        if self._connection is not None and identity == self._identity:
            return self._connection
        self.close()
        try:
            self._connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=ro",
                uri=True,
                timeout=self._busy_seconds,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise self._failure(error) from error
        self._identity = identity
        return self._connection

    def _failure(self, error: Exception) -> OnlineStoreError:
        """Close the database, so that the next read opens it anew."""
        self.close()
        return OnlineStoreError(
            f"The online store {self._path} cannot be read ({error}); check the file and "
            "whether a writer holds its lock."
        )
