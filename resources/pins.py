"""Which snapshots of which tables are read, where a read must be repeatable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_PINS: ContextVar[Mapping[str, int]] = ContextVar("pinned_snapshots", default={})  # noqa: B039 - never changed in place


@contextmanager
def pinned(snapshots: Mapping[str, int]) -> Iterator[None]:
    """Read these tables as of these snapshots, however they change meanwhile.

    Holds for the feature store's reads in this thread or task. A retrieval that was begun inside
    keeps its snapshots if it is carried out later. Pins inside pins add up; the inner one wins.

    Args:
        snapshots: Snapshot id by `namespace.table`; 0 is the table before its first row
            (`Lakehouse.current_snapshot`).

    Example:
        >>> with pinned({"flights.carrier_delays": 7}):
        ...     pins()
        {'flights.carrier_delays': 7}
    """
    token = _PINS.set({**_PINS.get(), **snapshots})
    try:
        yield
    finally:
        _PINS.reset(token)


def pins() -> Mapping[str, int]:
    """The snapshots that hold here, by table."""
    return _PINS.get()
