"""Trailing-window statistics over a history that is longer than memory.

Evidence and questions come in pushes, in the order of time. Between pushes only the evidence is
carried that the longest window can still reach, so memory is a push and a window, not the history.
The answers are those of `flywheel.trailing.trailing_windows` over everything at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flywheel.trailing import Evidence, trailing_windows

if TYPE_CHECKING:
    from flywheel.trailing import IntArray


class TrailingStream:
    """Answers as `trailing_windows` does, push by push.

    Args:
        windows: Window lengths in minutes, above 0.

    Attributes:
        carried: What the windows of later questions may still need.
    """

    def __init__(self, windows: Sequence[int]) -> None:
        self._windows = tuple(windows)
        self._newest: int | None = None
        self.carried: Evidence | None = None

    def push(
        self, evidence: Evidence, key: IntArray, minute: IntArray
    ) -> list[tuple[IntArray, dict[str, IntArray]]]:
        """Take the next evidence, and answer the next questions.

        Args:
            evidence: Known after all minutes asked for so far; everything known by the minutes
                asked for now has come with this push or before. Its key codes and value names are
                those of earlier pushes.
            key: int64 [m] keys to ask for.
            minute: int64 [m] minutes since the epoch, none before one asked for in an earlier push.

        Returns:
            Counts int64 [m] and sums by value name for each window.

        Raises:
            ValueError: Evidence or a question comes too late.
        """
        if self._newest is not None:
            _refuse(evidence.known_at, self._newest + 1, "evidence")
            _refuse(minute, self._newest, "a question")
        known = evidence if self.carried is None else _joined(self.carried, evidence)
        answers = trailing_windows(known, key, minute, self._windows)
        if len(minute):
            self._newest = int(minute.max())
            known = _after(known, self._newest - max(self._windows))
        self.carried = known
        return answers


def _joined(first: Evidence, second: Evidence) -> Evidence:
    import numpy as np

    return Evidence(
        np.concatenate([first.key, second.key]),
        np.concatenate([first.known_at, second.known_at]),
        {name: np.concatenate([values, second.values[name]])
         for name, values in first.values.items()},
    )  # fmt: skip


def _after(evidence: Evidence, minute: int) -> Evidence:
    """The evidence known after a minute."""
    later = evidence.known_at > minute
    return Evidence(
        evidence.key[later],
        evidence.known_at[later],
        {name: values[later] for name, values in evidence.values.items()},
    )


def _refuse(minutes: IntArray, earliest: int, what: str) -> None:
    if len(minutes) and minutes.min() < earliest:
        raise ValueError(
            f"{what} of minute {minutes.min()} came after minute {earliest} had been reached; "
            "pushes must follow time"
        )
