"""The HTTP pool against servers that misbehave; the real Triton is in test_gateway.py."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable

import pytest

from flywheel_serving.inference import (
    InferencePool,
    InferenceRequest,
    TritonInferenceError,
    TritonUnavailableError,
)
from flywheel_serving.manifest import Manifest

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(values: list[float], status: int = 200, head: bytes = b'{"x":1}') -> bytes:
    """A KServe v2 answer as Triton sends it."""
    data = head + struct.pack(f"<{len(values)}f", *values)
    return (
        b"HTTP/1.1 %d X\r\nContent-Type: application/octet-stream\r\n"
        b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n"
        % (status, len(head), len(data))
    ) + data


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request's body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"\r\ncontent-length:")[1].split(b"\r\n")[0])
    return await reader.readexactly(length)


async def with_server(handler: Handler, use: Callable[[InferencePool], Awaitable[None]]) -> None:
    """Run ``use`` with a pool connected to a server."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    pool = InferencePool("127.0.0.1", server.sockets[0].getsockname()[1], size=4, timeout=0.5)
    try:
        await use(pool)
    finally:
        pool.close_idle()
        server.close()


@pytest.fixture(scope="module")
def request_bytes(manifest: Manifest) -> bytes:
    """One inference call."""
    return InferenceRequest(manifest).build([0.5] * 9, [1, 2, 3])


def test_the_request_is_what_kserve_asks_for(manifest: Manifest) -> None:
    numeric, categorical = [float(n) for n in range(18)], list(range(6))
    request = InferenceRequest(manifest).build(numeric, categorical, rows=2)
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v2/models/delay__v1/infer HTTP/1.1\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    binary = struct.pack("<18f", *numeric) + struct.pack("<6q", *categorical)
    assert body.endswith(binary)
    assert f"Inference-Header-Content-Length: {len(body) - len(binary)}".encode() in head


def test_answers_may_come_in_pieces_and_connections_are_reused(request_bytes: bytes) -> None:
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_request(reader)
            for byte in answer([0.25]):
                writer.write(bytes([byte]))
                await writer.drain()

    async def use(pool: InferencePool) -> None:
        for _ in range(5):
            assert list(await pool.infer(request_bytes)) == [0.25]

    asyncio.run(with_server(handler, use))
    assert connections == 1


def test_a_stale_connection_is_tried_once_more(request_bytes: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer([0.5]))
        await writer.drain()
        await read_request(reader)  # takes the second request, then hangs up

    async def use(pool: InferencePool) -> None:
        for _ in range(4):
            assert list(await pool.infer(request_bytes)) == [0.5]

    asyncio.run(with_server(handler, use))


def test_a_fresh_connection_that_is_lost_is_an_error(request_bytes: bytes) -> None:
    attempts = 0

    async def handler(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        await read_request(reader)

    async def use(pool: InferencePool) -> None:
        with pytest.raises(TritonUnavailableError, match="before it answered"):
            await pool.infer(request_bytes)

    asyncio.run(with_server(handler, use))
    assert attempts == 1


def test_an_answer_cut_in_the_middle_is_not_retried(request_bytes: bytes) -> None:
    attempts = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        await read_request(reader)
        writer.write(answer([0.5])[:-2])
        await writer.drain()

    async def use(pool: InferencePool) -> None:
        with pytest.raises(TritonUnavailableError, match="mid-answer"):
            await pool.infer(request_bytes)

    asyncio.run(with_server(handler, use))
    assert attempts == 1


def test_a_late_answer_never_reaches_the_next_caller(request_bytes: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.sleep(0.3)
        writer.write(answer([0.125]))
        await writer.drain()
        await read_request(reader)

    async def use(pool: InferencePool) -> None:
        with pytest.raises(TritonUnavailableError, match="within"):
            await pool.infer(request_bytes, limit=0.05)
        assert list(await pool.infer(request_bytes)) == [0.125]

    asyncio.run(with_server(handler, use))


def test_errors_carry_tritons_reason(request_bytes: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 400 Bad\r\ncontent-length: 23\r\n\r\n" + b'{"error":"no such one"}')
        await writer.drain()
        await read_request(reader)
        writer.write(answer([0.5, 0.5]))
        await writer.drain()
        await read_request(reader)

    async def use(pool: InferencePool) -> None:
        with pytest.raises(TritonInferenceError, match="no such one") as caught:
            await pool.infer(request_bytes)
        assert caught.value.status == 400
        with pytest.raises(TritonInferenceError, match="not one FP32 value a row"):
            await pool.infer(request_bytes)

    asyncio.run(with_server(handler, use))


def test_a_refused_connection_is_an_error(request_bytes: bytes) -> None:
    pool = InferencePool("127.0.0.1", 1, timeout=1.0)
    with pytest.raises(TritonUnavailableError, match="refuses connections"):
        asyncio.run(pool.infer(request_bytes))


def test_more_callers_than_connections_wait_their_turn(request_bytes: bytes) -> None:
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_request(reader)
            await asyncio.sleep(0.002)
            writer.write(answer([0.75]))
            await writer.drain()

    async def use(pool: InferencePool) -> None:
        results = await asyncio.gather(*(pool.infer(request_bytes) for _ in range(40)))
        assert all(list(values) == [0.75] for values in results)

    asyncio.run(with_server(handler, use))
    assert connections <= 4
