"""As much of Redis's protocol (RESP2) as a reader needs: addresses, commands, replies.

Hand-written because this is the hot path: client libraries cost several times as much a call. What
the commands mean is the business of :mod:`flywheel_serving.redis_store`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote, urlsplit

_SIMPLE, _ERROR, _INTEGER, _BULK, _ARRAY = b"+-:$*"
_GRACE_SECONDS = 0.001

Reply = Any
"""bytes, int, None, a list of replies, or a :class:`ReplyError`."""


class RedisUnavailableError(Exception):
    """Redis cannot be reached, lost the connection or did not answer in time."""


class ConnectionLostError(RedisUnavailableError):
    """The connection ended; another one may do better."""


class ReplyError(Exception):
    """What Redis answers to a command it refuses."""


@dataclass(frozen=True)
class RedisAddress:
    """Where a Redis is, and how to log in.

    Attributes:
        host: Host name or address.
        port: Its port.
        db: Number of the database.
        username: None for the default user.
        password: None if there is none.
        tls: Whether the connection is encrypted; the host's certificate is then checked.
    """

    host: str
    port: int
    db: int
    username: str | None
    password: str | None
    tls: bool

    def __str__(self) -> str:
        """The address without its password, for messages."""
        return f"redis{'s' if self.tls else ''}://{self.host}:{self.port}/{self.db}"


def parse_address(url: str) -> RedisAddress:
    """Take a URL apart.

    Args:
        url: ``redis://[[user]:password@]host[:port][/db]``, or ``rediss://`` for TLS.

    Raises:
        ValueError: If it is of another form.
    """
    form = "redis://[[user]:password@]host[:port][/db]"
    try:
        parts = urlsplit(url)
        db = int(parts.path.strip("/") or 0)
        port = parts.port or 6379
    except ValueError as error:
        # The URL may hold a password, so it is not repeated.
        raise ValueError(f"The Redis address is malformed; write it as {form}.") from error
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.query:
        raise ValueError(f"The Redis address is malformed; write it as {form}.")
    return RedisAddress(
        parts.hostname,
        port,
        db,
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        parts.scheme == "rediss",
    )


def bulk(data: bytes) -> bytes:
    """One argument of a command."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def command(*arguments: bytes) -> bytes:
    """A whole command."""
    return b"*%d\r\n" % len(arguments) + b"".join(map(bulk, arguments))


def parse_reply(data: bytes, start: int) -> tuple[Reply, int]:
    """Parse one reply.

    Args:
        data: What has arrived.
        start: Where the reply begins.

    Returns:
        The reply and where the next one begins; -1 there if the reply is not complete yet.

    Raises:
        ValueError: If it is not RESP2.
    """
    end = data.find(b"\r\n", start)
    if end < 0:
        return None, -1
    kind = data[start]
    if kind == _BULK:
        length = int(data[start + 1 : end])
        if length < 0:
            return None, end + 2
        stop = end + 2 + length
        if len(data) < stop + 2:
            return None, -1
        return data[end + 2 : stop], stop + 2
    if kind == _ARRAY:
        replies: list[Reply] = []
        position = end + 2
        for _ in range(int(data[start + 1 : end])):
            reply, position = parse_reply(data, position)
            if position < 0:
                return None, -1
            replies.append(reply)
        return replies, position
    line = data[start + 1 : end]
    if kind == _SIMPLE:
        return line, end + 2
    if kind == _ERROR:
        return ReplyError(line.decode(errors="replace")), end + 2
    if kind == _INTEGER:
        return int(line), end + 2
    raise ValueError(f"it begins with {data[start : start + 1]!r}")


class _Call:
    """Commands that were sent together, and the replies that have come so far."""

    __slots__ = ("count", "future", "replies", "timer")

    def __init__(self, future: asyncio.Future[list[Reply]], count: int) -> None:
        self.future = future
        self.count = count
        self.replies: list[Reply] = []
        self.timer: asyncio.TimerHandle | None = None


class RespConnection(asyncio.Protocol):
    """One connection; calls are pipelined: each is sent at once, and answered in order.

    Args:
        timeout: Seconds after which an unanswered call fails, and the connection with it.
    """

    def __init__(self, timeout: float) -> None:
        self.closed = False
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._calls: deque[_Call] = deque()
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        # A cast, because uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop: calls under way fail."""
        self.close(ConnectionLostError(f"it closed the connection ({exc or 'end of stream'})"))

    def data_received(self, data: bytes) -> None:
        """Called by the event loop: hand the replies to their calls."""
        buffer = self._buffer + data if self._buffer else data
        position = 0
        try:
            while self._calls:
                call = self._calls[0]
                while len(call.replies) < call.count:
                    reply, after = parse_reply(buffer, position)
                    if after < 0:
                        self._buffer = buffer[position:] if position else buffer
                        return
                    call.replies.append(reply)
                    position = after
                self._calls.popleft()
                if call.timer is not None:
                    call.timer.cancel()
                # A call whose task was cancelled stays in line until its replies have passed by.
                if not call.future.done():
                    call.future.set_result(call.replies)
        except (ValueError, RecursionError) as error:
            self.close(RedisUnavailableError(f"its answer is not Redis's protocol: {error}"))
            return
        self._buffer = b""
        if position < len(buffer):
            self.close(RedisUnavailableError("it sent an answer that was not asked for"))

    def call(self, commands: bytes, count: int) -> asyncio.Future[list[Reply]]:
        """Send commands; the future holds their replies, in order.

        It fails with RedisUnavailableError. A refused command is a ReplyError among the replies.

        Args:
            commands: One or more commands.
            count: How many.
        """
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self.closed or self._transport is None:
            future.set_exception(ConnectionLostError("the connection is closed"))
            return future
        call = _Call(future, count)
        call.timer = self._loop.call_later(self._timeout, self._expire, call, False)
        self._calls.append(call)
        self._transport.write(commands)
        return future

    def _expire(self, call: _Call, again: bool) -> None:
        if not again:
            # A busy event loop may be late itself: uvloop runs timers before it reads sockets, so
            # give an answer that lies there already the chance to be read.
            call.timer = self._loop.call_later(_GRACE_SECONDS, self._expire, call, True)
            return
        milliseconds = self._timeout * 1e3
        self.close(RedisUnavailableError(f"it did not answer within {milliseconds:g} ms"))

    def close(self, reason: RedisUnavailableError | None = None) -> None:
        """End the connection; calls under way fail with the reason."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
        reason = reason or ConnectionLostError("the connection was closed")
        while self._calls:
            call = self._calls.popleft()
            if call.timer is not None:
                call.timer.cancel()
            if not call.future.done():
                call.future.set_exception(reason)


async def connect(
    address: RedisAddress, call_seconds: float, connect_seconds: float
) -> RespConnection:
    """Open a connection, log in and choose the database.

    Args:
        address: Where to.
        call_seconds: Seconds after which a call fails.
        connect_seconds: Seconds that all of this may take.

    Raises:
        RedisUnavailableError: If that fails.
    """
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context() if address.tls else None
    try:
        async with asyncio.timeout(connect_seconds):
            _, connection = await loop.create_connection(
                lambda: RespConnection(call_seconds), address.host, address.port, ssl=context
            )
            commands = []
            if address.password is not None:
                user = [address.username.encode()] if address.username else []
                commands.append(command(b"AUTH", *user, address.password.encode()))
            if address.db:
                commands.append(command(b"SELECT", b"%d" % address.db))
            replies = await connection.call(b"".join(commands), len(commands)) if commands else []
    except TimeoutError as error:
        message = f"no connection within {connect_seconds:g} s"
        raise RedisUnavailableError(message) from error
    except OSError as error:
        raise RedisUnavailableError(f"no connection: {error}") from error
    for reply in replies:
        if isinstance(reply, ReplyError):
            connection.close()
            raise RedisUnavailableError(f"it refuses the login or database: {reply}")
    return connection
