"""Reads Feast's Redis online store: one hash per entity key, shared by its feature views.

Layout of Feast 0.67, ``feast/infra/online_stores/redis.py``: the key is the serialized entity key
followed by the project; a feature's field is the little-endian murmur3 hash of ``view:feature``;
``_ts:view`` holds the event time as a protobuf Timestamp. Tests hold the answers equal to those of
Feast's SDK.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

import mmh3

from flywheel_serving.feast_codec import CodecError, decode_timestamp, decode_value
from flywheel_serving.features import Row
from flywheel_serving.manifest import FeatureView
from flywheel_serving.online_store import REDIS_TIMEOUT_SECONDS, Lookup, OnlineStoreError
from flywheel_serving.resp import (
    ConnectionLostError,
    RedisUnavailableError,
    Reply,
    ReplyError,
    RespConnection,
    bulk,
    connect,
    parse_address,
)

CONNECT_SECONDS = 1.0
_AWAY_SECONDS = 0.25
# Lookups of one round trip: a large batch must neither hold up other requests nor time out.
_CHUNK = 512


class _Plan(NamedTuple):
    """How to read a view: what stands before and after the key in its command, and the fields."""

    view: FeatureView
    head: bytes
    tail: bytes
    names: list[str]
    project: bytes


class RedisOnlineStore:
    """Reader of Feast's Redis online store, over one pipelined connection.

    All rows of a request are read in one round trip. A lost connection is opened again by the next
    read. While Redis is away reads fail at once, and a new attempt is made every quarter second.

    Args:
        url: ``redis://[[user]:password@]host[:port][/db]``, or ``rediss://`` for TLS.
        timeout: Seconds after which a read fails.

    Raises:
        ValueError: If the URL is malformed.
    """

    def __init__(self, url: str, timeout: float = REDIS_TIMEOUT_SECONDS) -> None:
        self._address = parse_address(url)
        self._timeout = timeout
        self._connection: RespConnection | None = None
        self._connecting: asyncio.Task[RespConnection] | None = None
        self._away: tuple[float, str] = (0.0, "")
        # By identity: hashing a whole view on each request would cost more than the read.
        self._plans: dict[tuple[int, str], _Plan] = {}

    async def read(self, project: str, lookups: Sequence[Lookup]) -> list[Row | None]:
        """See :meth:`OnlineStore.read`."""
        rows: list[Row | None] = []
        for start in range(0, len(lookups), _CHUNK):
            chunk = lookups[start : start + _CHUNK]
            plans = [self._plan(project, lookup.view) for lookup in chunk]
            commands = [
                plan.head + bulk(lookup.key + plan.project) + plan.tail
                for plan, lookup in zip(plans, chunk, strict=True)
            ]
            replies = await self._exchange(b"".join(commands), len(commands))
            rows += map(self._row, plans, replies)
        return rows

    def close(self) -> None:
        """Close the connection; the next read opens it again."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()
        self._connecting = self._connection = None

    def _plan(self, project: str, view: FeatureView) -> _Plan:
        plan = self._plans.get((id(view), project))
        if plan is None:
            names = [feature.name for feature in view.features]
            fields = [
                mmh3.hash(f"{view.name}:{name}", signed=False).to_bytes(4, "little")
                for name in names
            ]
            fields.append(f"_ts:{view.name}".encode())
            head = b"*%d\r\n$5\r\nHMGET\r\n" % (len(fields) + 2)
            plan = _Plan(view, head, b"".join(map(bulk, fields)), names, project.encode())
            self._plans[id(view), project] = plan
        return plan

    def _row(self, plan: _Plan, reply: Reply) -> Row | None:
        if isinstance(reply, ReplyError):
            raise self._failure(f"it answers: {reply}")
        try:
            *values, when = reply
            if when is None:
                return None
            decoded = [None if value is None else decode_value(value) for value in values]
            return Row(dict(zip(plan.names, decoded, strict=True)), decode_timestamp(when))
        except (CodecError, TypeError, ValueError) as error:
            raise OnlineStoreError(f"Feature view '{plan.view.name}': {error}") from error

    async def _exchange(self, commands: bytes, count: int) -> list[Reply]:
        try:
            connection = self._connection
            if connection is None or connection.closed:
                connection = await self._connect()
            try:
                return await connection.call(commands, count)
            except ConnectionLostError:
                # Redis may have closed an idle connection, or been restarted; reads may be
                # repeated.
                return await (await self._connect()).call(commands, count)
        except RedisUnavailableError as error:
            raise self._failure(str(error)) from error

    async def _connect(self) -> RespConnection:
        """The connection, opened by whoever comes first and awaited by all."""
        if self._connection is not None and not self._connection.closed:
            return self._connection
        until, reason = self._away
        if time.monotonic() < until:
            raise RedisUnavailableError(reason)
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._open(), name="redis-connect")
        return await asyncio.shield(self._connecting)

    async def _open(self) -> RespConnection:
        try:
            self._connection = await connect(self._address, self._timeout, CONNECT_SECONDS)
        except RedisUnavailableError as error:
            self._away = (time.monotonic() + _AWAY_SECONDS, str(error))
            raise
        finally:
            self._connecting = None
        return self._connection

    def _failure(self, reason: str) -> OnlineStoreError:
        return OnlineStoreError(
            f"The online store {self._address} cannot be read: {reason}. Check the server and "
            "its address."
        )
