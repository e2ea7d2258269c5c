"""The prediction log's spool: JSON lines on local disk, written before each answer is sent.

Writer and reader of ``SPOOL/<model>/<utc>-<pid>.jsonl``. A segment belongs to one process and is
only appended to. What the lines become later (an Iceberg table) is the reader's business; the
reader imports only msgspec.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec


class SpoolError(RuntimeError):
    """The spool cannot be written, or a segment is damaged before its last line."""


class PredictionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction, with all that is needed to explain it later.

    Attributes:
        request_id: Chosen by the client or the gateway; ``<id>/<i>`` for item i of a batch.
        model: Name of the model.
        model_version: Version in the registry.
        role: Part the version played; ``champion`` answered the client.
        received_at: When the request arrived, ISO 8601 in UTC.
        event_timestamp: The case's own time, ISO 8601 in UTC.
        entity_id: Identifies the case, as text.
        request: The request's declared fields; times as ISO 8601 text, as sent. Classified ones
            are pseudonyms or left out, see :mod:`flywheel_serving.pseudonyms`.
        features: Value by input: a number (None for NaN), or the category's text (None if missing).
            Those read from a classified field are pseudonyms or None.
        defaulted_features: View and age inputs that were missing.
        probability: The model's output.
        latency_ms: Milliseconds from arrival to the writing of this record.
    """

    request_id: str
    model: str
    model_version: str
    role: str
    received_at: str
    event_timestamp: str
    entity_id: str
    request: Mapping[str, Any]
    features: Mapping[str, float | str | None]
    defaulted_features: list[str]
    probability: float
    latency_ms: float


class SpoolEntry(NamedTuple):
    """One record and where it stands.

    Attributes:
        segment: File name of its segment.
        end: Byte offset behind it: reading from there on goes on with the next record.
        record: The record.
    """

    segment: str
    end: int
    record: PredictionRecord


class _Segment:
    """An open file of the spool; its lock tells readers that a writer is alive."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self.path = directory / f"{now}-{os.getpid()}.jsonl"
        self.fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        self.size = 0
        folder = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Spool:
    """Appends records: safe from a kill at once, from power loss after ``sync_seconds``.

    Called from one thread; a second, own thread does the fsync.

    Args:
        directory: The spool; one folder a model below it.
        segment_bytes: Size from which a new segment is begun.
        sync_seconds: Longest time between a write and its fsync.
    """

    def __init__(
        self, directory: Path, segment_bytes: int = 64 << 20, sync_seconds: float = 0.2
    ) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._sync_seconds = sync_seconds
        self._open: dict[str, _Segment] = {}
        self._lock = threading.Lock()
        self._dirty: set[_Segment] = set()
        self._retired: list[_Segment] = []
        self._failure: OSError | None = None
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._encoder = msgspec.json.Encoder()
        directory.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._sync_loop, name="spool-fsync", daemon=True)
        self._thread.start()

    def append(self, model: str, records: Iterable[PredictionRecord]) -> None:
        """Write records as complete lines; returns once the kernel has them.

        Raises:
            SpoolError: If the disk refuses; nothing may be answered then.
        """
        data = b"".join([self._encoder.encode(record) + b"\n" for record in records])
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise SpoolError(f"The prediction log could not be synced to disk: {failure}.")
        segment = self._open.get(model)
        try:
            if segment is None or segment.size >= self._segment_bytes:
                if segment is not None:
                    self._retire(model)
                segment = self._open[model] = _Segment(self._directory / model)
            written = os.write(segment.fd, data)
            if written != len(data):
                raise OSError(f"only {written} of {len(data)} bytes were written")
        except OSError as error:
            # Whatever was half written stays the last, torn line of its segment.
            if model in self._open:
                self._retire(model)
            raise SpoolError(
                f"The prediction log {self._directory / model} cannot be written ({error}); make "
                "room on its disk."
            ) from error
        segment.size += written
        with self._lock:
            self._dirty.add(segment)
        self._work.set()

    def close(self) -> None:
        """Sync and close all segments."""
        for model in list(self._open):
            self._retire(model)
        self._stopping.set()
        self._work.set()
        self._thread.join()
        if self._failure is not None:
            raise SpoolError(f"The prediction log could not be synced to disk: {self._failure}.")

    def _retire(self, model: str) -> None:
        with self._lock:
            self._retired.append(self._open.pop(model))
        self._work.set()

    def _sync_loop(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            stopping = self._stopping.is_set()
            with self._lock:
                retired, self._retired = self._retired, []
                dirty, self._dirty = self._dirty, set()
            for segment in dirty.union(retired):
                try:
                    os.fsync(segment.fd)
                except OSError as error:
                    self._failure = error
            for segment in retired:
                os.close(segment.fd)
            if stopping:
                return
            self._stopping.wait(self._sync_seconds)


def read_segments(
    directory: Path | str, model: str, offsets: Mapping[str, int] | None = None
) -> Iterator[SpoolEntry]:
    """Read a model's records in the order of their segments, each from a known offset.

    A consumer that stores ``{entry.segment: entry.end}`` together with what it read gets each
    record exactly once. A torn last line is left for the next time: its writer may still be at
    work.

    Args:
        directory: The spool.
        model: Name of the model; one without records is empty, not an error.
        offsets: Byte offset by segment to go on from; absent ones start at 0.

    Raises:
        SpoolError: If a line other than the last one of a segment is damaged.
    """
    folder = Path(directory) / model
    decoder = msgspec.json.Decoder(PredictionRecord)
    for path in sorted(folder.glob("*.jsonl")):
        start = (offsets or {}).get(path.name, 0)
        damaged: int | None = None
        with path.open("rb") as file:
            file.seek(start)
            for line in file:
                if damaged is not None:
                    raise SpoolError(
                        f"{path} is damaged at byte {damaged}; move it away to go on without it."
                    )
                if not line.endswith(b"\n"):
                    break
                try:
                    record = decoder.decode(line)
                except msgspec.DecodeError:
                    damaged = start
                    continue
                start += len(line)
                yield SpoolEntry(path.name, start, record)


def read_spool(directory: Path | str, model: str) -> Iterator[PredictionRecord]:
    """All records of a model, in the order of their segments; see :func:`read_segments`."""
    for entry in read_segments(directory, model):
        yield entry.record


def remove_consumed(directory: Path | str, model: str, offsets: Mapping[str, int]) -> list[str]:
    """Delete segments that were read to the end and whose writer has closed them or is gone.

    Args:
        directory: The spool.
        model: Name of the model.
        offsets: Byte offset by segment up to which everything is safely stored elsewhere.

    Returns:
        The file names deleted.
    """
    removed: list[str] = []
    for name, offset in sorted(offsets.items()):
        path = Path(directory) / model / name
        if not path.exists():
            continue
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            file.seek(offset)
            if b"\n" not in file.read():
                path.unlink()
                removed.append(name)
    return removed
