"""What the gateway needs of an online store, and how an address becomes one.

Feast's own reader costs seconds of import and a millisecond a read, so Feast's layouts are read
directly: see :mod:`flywheel_serving.sqlite_store` and :mod:`flywheel_serving.redis_store`. Nothing
here writes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from flywheel_serving.feast_codec import EntityKeyEncoder
from flywheel_serving.features import Row
from flywheel_serving.manifest import FeatureView

REDIS_SCHEMES = ("redis://", "rediss://")
REDIS_TIMEOUT_SECONDS = 0.05


class OnlineStoreError(RuntimeError):
    """The online store cannot be read; the request should be answered with 503."""


class Lookup(NamedTuple):
    """One row to read.

    Attributes:
        view: The feature view.
        key: The entity key as Feast serializes it.
    """

    view: FeatureView
    key: bytes


class KeyedView:
    """Makes the lookups of one feature view.

    Args:
        view: The feature view.
    """

    def __init__(self, view: FeatureView) -> None:
        self.view = view
        self._encoder = EntityKeyEncoder(view.join_keys)

    def lookup(self, keys: Sequence[object]) -> Lookup | None:
        """The lookup of a key; None if a part of it is null, for then there is no row.

        Args:
            keys: Value per join key, in the order of ``view.join_keys``.

        Raises:
            CodecError: If a value does not have its key's type.
        """
        return None if None in keys else Lookup(self.view, self._encoder.encode(keys))


class OnlineStore(Protocol):
    """What the gateway needs of an online store.

    Called from one event loop only, so an implementation needs no locks. It must not hold up the
    loop: what may take longer than a local read has to be awaited.
    """

    async def read(self, project: str, lookups: Sequence[Lookup]) -> list[Row | None]:
        """Read the newest rows of some keys at once.

        Args:
            project: Feast project.
            lookups: What to read; no two are equal.

        Returns:
            A row per lookup, None where the store has none.

        Raises:
            OnlineStoreError: If the store cannot be read, or holds what Feast does not write.
        """
        ...

    def close(self) -> None:
        """Release what the store holds; the next read takes it again."""
        ...


class EmptyOnlineStore:
    """The store of a gateway that was started without one: every row is missing."""

    async def read(self, project: str, lookups: Sequence[Lookup]) -> list[Row | None]:  # noqa: ARG002
        """Return None for each lookup: there are no rows."""
        return [None] * len(lookups)

    def close(self) -> None:
        """Do nothing."""


def is_redis(address: str | Path) -> bool:
    """Whether an address is a Redis URL; otherwise it is the path of a SQLite file."""
    return str(address).startswith(REDIS_SCHEMES)


def open_online_store(address: str | Path, timeout: float = REDIS_TIMEOUT_SECONDS) -> OnlineStore:
    """The reader of an online store; connects with its first read.

    Args:
        address: Path of a SQLite file, or ``redis://[[user]:password@]host[:port][/db]``
            (``rediss://`` with TLS).
        timeout: Seconds after which a read from Redis fails.

    Raises:
        ValueError: If it is a Redis URL of another form.
    """
    from flywheel_serving.redis_store import RedisOnlineStore
    from flywheel_serving.sqlite_store import SqliteOnlineStore

    if is_redis(address):
        return RedisOnlineStore(str(address), timeout)
    return SqliteOnlineStore(address)


class BlockingReader:
    """The same reads for code that is not asynchronous, such as a Dagster asset or a notebook.

    Args:
        address: See :func:`open_online_store`.
        timeout: Seconds after which a read from Redis fails.
    """

    def __init__(self, address: str | Path, timeout: float = REDIS_TIMEOUT_SECONDS) -> None:
        from flywheel_serving.sqlite_store import SqliteOnlineStore

        self._store = open_online_store(address, timeout)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._read_now = None
        if isinstance(self._store, SqliteOnlineStore):
            self._read_now = self._store.read_now

    def read(self, project: str, lookups: Sequence[Lookup]) -> list[Row | None]:
        """See :meth:`OnlineStore.read`."""
        if self._read_now is not None:
            return self._read_now(project, lookups)
        reading = self._store.read(project, lookups)
        return asyncio.run_coroutine_threadsafe(reading, self._running_loop()).result()

    def close(self) -> None:
        """Close the store; it may not be used afterwards."""
        if self._loop is None:
            self._store.close()
        else:
            self._loop.call_soon_threadsafe(self._store.close)
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """An event loop in a thread of its own: a notebook's thread runs one already."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            name = "online-store-reader"
            threading.Thread(target=self._loop.run_forever, name=name, daemon=True).start()
        return self._loop
