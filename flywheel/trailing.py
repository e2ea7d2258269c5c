"""Trailing-window statistics that are written whenever their evidence changes.

For a key (a carrier, a route) and a window W, the row of minute m summarises the evidence that
became known in (m - W, m]. The method is two as-of look-ups into a running sum (prefix sums, see
Ho et al., "Range queries in OLAP data cubes", SIGMOD 1997): O(n log n), independent of the window
length, exact because minutes and delays are whole numbers. Evidence is sorted once, however many
windows are asked for. Histories too long for memory go through `flywheel.trailing_stream`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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

    @cached_property
    def in_order(self) -> tuple[IntArray, IntArray]:
        """(key, minute) packed and sorted, and the positions that sort it; int64 [n] each.

        Equal pairs stay in the order of the input.
        """
        import numpy as np

        packed = _pack(self.key, self.known_at)
        order = np.argsort(packed, kind="stable")
        return packed[order], order

    @cached_property
    def running(self) -> Mapping[str, IntArray]:
        """Sums of the first 0, 1, ... n values in that order, int64 [n + 1] each."""
        import numpy as np

        _, order = self.in_order
        return {
            name: np.concatenate([[0], np.cumsum(values[order])])
            for name, values in self.values.items()
        }


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
    return trailing_windows(evidence, key, minute, (window_minutes,))[0]


def trailing_windows(
    evidence: Evidence, key: IntArray, minute: IntArray, windows: Sequence[int]
) -> list[tuple[IntArray, dict[str, IntArray]]]:
    """`trailing_sums` for several windows (minutes), in their order, at less than their cost."""
    import numpy as np

    packed, _ = evidence.in_order
    asked = _pack(key, minute)
    # Look-ups in ascending order find their place in the cache: half the time of random ones.
    order = None if np.all(asked[1:] >= asked[:-1]) else np.argsort(asked, kind="stable")
    if order is not None:
        key, minute, asked = key[order], minute[order], asked[order]
    stop = np.searchsorted(packed, asked, side="right")
    ends = {name: running[stop] for name, running in evidence.running.items()}
    answers = []
    for window in windows:
        # A window reaching before minute 0 of its key must not run into the key before it.
        start = np.searchsorted(packed, _pack(key, np.maximum(minute - window, -1)), "right")
        sums = {name: end - evidence.running[name][start] for name, end in ends.items()}
        answers.append(
            (_put_back(stop - start, order), {n: _put_back(v, order) for n, v in sums.items()})
        )
    return answers


def means(count: IntArray, sums: Mapping[str, IntArray]) -> dict[str, FloatArray]:
    """Sums over counts; NaN where a window holds nothing."""
    import numpy as np

    divisor = np.where(count > 0, count, 1)
    return {name: np.where(count > 0, total / divisor, np.nan) for name, total in sums.items()}


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
    packed, order = evidence.in_order
    position = np.searchsorted(packed, _pack(key, minute), side="right") - 1
    at = order[np.maximum(position, 0)]
    found = (position >= 0) & (evidence.key[at] == key)
    known = np.where(found, evidence.known_at[at], -1)
    return known, {
        name: np.where(found, values[at].astype(np.float64), np.nan)
        for name, values in evidence.values.items()
    }


def _put_back(values: IntArray, order: IntArray | None) -> IntArray:
    """Undo `values = original[order]`."""
    if order is None:
        return values
    original = values.copy()
    original[order] = values
    return original


def _pack(key: IntArray, minute: IntArray) -> IntArray:
    """One sortable int64 of key and minute (a minute of -1 sorts before all minutes of its key)."""
    return key * _KEY_STRIDE + minute
