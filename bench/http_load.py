"""Sends requests as fast as they are answered: with `wrk`, or without it from this process."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_WRK = """
local requests, turn = {}, 0
function init(arguments)
  for i = 1, tonumber(arguments[1]) do
    local file = assert(io.open(arguments[2] .. "/" .. i, "rb"))
    requests[i] = file:read("*a")
    file:close()
  end
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
function done(summary)
  local e = summary.errors
  io.write(string.format('\\n{"answered": %d, "errors": %d}\\n', summary.requests,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What came of it: answers received, and how many requests failed in any way."""

    answered: int
    errors: int


def post(url: str, body: bytes, headers: dict[str, str]) -> bytes:
    """The bytes of a whole HTTP request."""
    at = urlsplit(url)
    head = {"Host": at.netloc, "Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"POST {at.path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def send(url: str, requests: Sequence[bytes], connections: int, seconds: int) -> Load:
    """Send requests in turn, each connection waiting for its answer before it sends again.

    Args:
        url: The server; only host and port are used.
        requests: Whole HTTP requests.
        connections: How many at once.
        seconds: For how long.
    """
    if shutil.which("wrk"):
        return _wrk(url, requests, connections, seconds)
    return asyncio.run(_asyncio(url, requests, connections, seconds))


def _wrk(url: str, requests: Sequence[bytes], connections: int, seconds: int) -> Load:
    with tempfile.TemporaryDirectory(prefix="flywheel-wrk-") as folder:
        for number, request in enumerate(requests, start=1):
            (Path(folder) / str(number)).write_bytes(request)
        script = Path(folder) / "load.lua"
        script.write_text(_WRK)
        said = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url, "--",
             str(len(requests)), folder],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    return Load(**json.loads(said.splitlines()[-1]))


async def _asyncio(url: str, requests: Sequence[bytes], connections: int, seconds: int) -> Load:
    deadline = time.monotonic() + seconds
    endless = itertools.cycle(requests)
    loads = await asyncio.gather(
        *(_one_connection(url, endless, deadline) for _ in range(connections))
    )
    return Load(sum(one.answered for one in loads), sum(one.errors for one in loads))


async def _one_connection(url: str, requests: Iterator[bytes], deadline: float) -> Load:
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    answered = errors = 0
    try:
        while time.monotonic() < deadline:
            writer.write(next(requests))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            answered += 1
            errors += head.split(b" ", 2)[1] != b"200"
    except (OSError, asyncio.IncompleteReadError):
        errors += 1  # the connection is gone, and this one sends no more
    finally:
        writer.close()
    return Load(answered, errors)
