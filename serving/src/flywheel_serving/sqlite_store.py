"""Reads Feast's SQLite online store: table ``{project}_{view}``, one row per key and feature.

The layout is that of Feast 0.67, ``feast/infra/online_stores/sqlite.py``; tests hold the answers
equal to those of Feast's SDK.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from flywheel_serving.feast_codec import CodecError, decode_value
from flywheel_serving.features import Row
from flywheel_serving.manifest import FeatureView
from flywheel_serving.online_store import Lookup, OnlineStoreError

Execute = Callable[..., sqlite3.Cursor]

_REPLACED_CHECK_SECONDS = 1.0


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
    second. Nothing is awaited: a local read is quicker than a switch to another task.

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
        self._plans: dict[tuple[int, str], tuple[FeatureView, str, frozenset[str]]] = {}

    async def read(self, project: str, lookups: Sequence[Lookup]) -> list[Row | None]:
        """See :meth:`OnlineStore.read`."""
        return self.read_now(project, lookups)

    def read_now(self, project: str, lookups: Sequence[Lookup]) -> list[Row | None]:
        """The same for code that is not asynchronous."""
        connection = self._connect()
        if connection is None:
            return [None] * len(lookups)
        execute = connection.execute
        try:
            # One transaction: the rows are of one moment, and the locks are taken once.
            execute("BEGIN")
            try:
                return [self._row(execute, project, view, key) for view, key in lookups]
            finally:
                execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Close the database; the next read opens it again."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._identity = None

    def _row(self, execute: Execute, project: str, view: FeatureView, key: bytes) -> Row | None:
        plan = self._plans.get((id(view), project))
        if plan is None:
            plan = self._plan(project, view)
        _, query, wanted = plan
        try:
            found = execute(query, (key,)).fetchall()
        except sqlite3.OperationalError as error:
            if str(error).startswith("no such table"):
                return None
            raise
        values: dict[str, float | int | str | bool | None] = {}
        newest = None
        try:
            for name, data, when in found:
                if name in wanted:
                    values[name] = decode_value(data)
                    if newest is None or when > newest:
                        newest = when
        except (CodecError, TypeError) as error:
            raise OnlineStoreError(f"Feature view '{view.name}': {error}") from error
        return Row(values, event_seconds(newest)) if values else None

    def _plan(self, project: str, view: FeatureView) -> tuple[FeatureView, str, frozenset[str]]:
        table = f"{project}_{view.name}".replace('"', '""')
        query = f'SELECT feature_name, value, event_ts FROM "{table}" WHERE entity_key = ?'  # noqa: S608
        plan = (view, query, frozenset(feature.name for feature in view.features))
        self._plans[id(view), project] = plan
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
