"""Trailing-window statistics that are written whenever their evidence changes.

For a key (a carrier, a route) and a window W, the row of minute m summarises the evidence that
became known in (m - W, m]. The method is two as-of look-ups into a running sum (prefix sums, see
Ho et al., "Range queries in OLAP data cubes", SIGMOD 1997): O(n log n), independent of the window
length, exact because minutes and delays are whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    IntArray = NDArray[np.int64]
    FloatArray = NDArray[np.float64]

_KEY_STRIDE = 1 << 32


@dataclass(frozen=True)
class Evidence:
    """Things that happened, by key.

    Attributes:
        key: int64 [n], codes of the key, 0 <= code < 2**31.
        known_at: int64 [n], minutes since the epoch (UTC) at which each became known.
        values: Named int64 [n] columns to average over the windows.
    """

    key: IntArray
    known_at: IntArray
    values: Mapping[str, IntArray]


def change_points(*streams: Evidence) -> tuple[IntArray, IntArray]:
    """The (key, minute) pairs at which any stream gained evidence, sorted, each once.

    Returns:
        key, minute: int64 [m] each.
    """
    import numpy as np

    packed = np.unique(np.concatenate([_pack(s.key, s.known_at) for s in streams]))
    return packed // _KEY_STRIDE, packed % _KEY_STRIDE


def trailing_sums(
    evidence: Evidence, key: IntArray, minute: IntArray, window_minutes: int
) -> tuple[IntArray, dict[str, IntArray]]:
    """Count and sum of the evidence known in (minute - window, minute] for each asked pair.

    Args:
        evidence: The stream to summarise.
        key: int64 [m] keys to ask for.
        minute: int64 [m] minutes since the epoch.
        window_minutes: Window length in minutes, above 0.

    Returns:
        Counts int64 [m], and sums by value name, int64 [m].
    """
    import numpy as np

    packed = _pack(evidence.key, evidence.known_at)
    order = np.argsort(packed, kind="stable")
    packed = packed[order]
    stop = np.searchsorted(packed, _pack(key, minute), side="right")
    # A window reaching before minute 0 of its key must not run into the key before it.
    start = np.searchsorted(packed, _pack(key, np.maximum(minute - window_minutes, -1)), "right")
    sums = {}
    for name, values in evidence.values.items():
        running = np.concatenate([[0], np.cumsum(values[order])])
        sums[name] = running[stop] - running[start]
    return stop - start, sums


def trailing_means(
    evidence: Evidence, key: IntArray, minute: IntArray, window_minutes: int
) -> tuple[IntArray, dict[str, FloatArray]]:
    """As `trailing_sums`, with means instead of sums; NaN where the window holds nothing."""
    import numpy as np

    count, sums = trailing_sums(evidence, key, minute, window_minutes)
    divisor = np.where(count > 0, count, 1)
    return count, {
        name: np.where(count > 0, total / divisor, np.nan) for name, total in sums.items()
    }


def running_sum(
    event_key: IntArray, known_at: IntArray, values: IntArray, key: IntArray, minute: IntArray
) -> tuple[IntArray, IntArray]:
    """Count and sum of all the key's events known at or before each asked minute.

    Args:
        event_key: int64 [n] key codes.
        known_at: int64 [n] minutes since the epoch.
        values: int64 [n] to sum.
        key: int64 [m] keys to ask for.
        minute: int64 [m] minutes since the epoch.
    """
    evidence = Evidence(event_key, known_at, {"value": values})
    count, sums = trailing_sums(evidence, key, minute, _KEY_STRIDE)
    return count, sums["value"]


def last_value(
    evidence: Evidence, key: IntArray, minute: IntArray
) -> tuple[IntArray, dict[str, FloatArray]]:
    """The newest evidence known at each asked pair.

    Returns:
        The minute it became known (int64 [m], -1 where there is none) and the values
        (float64 [m], NaN where there is none). Among equal minutes the last in input order wins.
    """
    import numpy as np

    if not len(evidence.key):
        nothing = np.full(len(key), np.nan)
        return np.full(len(key), -1, dtype=np.int64), dict.fromkeys(evidence.values, nothing)
    packed = _pack(evidence.key, evidence.known_at)
    order = np.argsort(packed, kind="stable")
    position = np.searchsorted(packed[order], _pack(key, minute), side="right") - 1
    at = order[np.maximum(position, 0)]
    found = (position >= 0) & (evidence.key[at] == key)
    known = np.where(found, evidence.known_at[at], -1)
    return known, {
        name: np.where(found, values[at].astype(np.float64), np.nan)
        for name, values in evidence.values.items()
    }


def _pack(key: IntArray, minute: IntArray) -> IntArray:
    """One sortable int64 of key and minute (a minute of -1 sorts before all minutes of its key)."""
    return key * _KEY_STRIDE + minute
