"""Has what is served moved away from what the champion was trained on?

The measure is the population stability index over quantile bins of the reference, with a bin of its
own for missing values (Siddiqi, "Credit Risk Scorecards", 2006):

    PSI = sum over bins (current - reference) * ln(current / reference)

A week of flights is never a random sample of two months, so a fixed threshold alarms all the time.
The profile therefore also keeps the greatest PSI that blocks of the same length showed *inside* the
training window: what passes that is news.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 10

# Half a case: an empty bin must not make the index infinite.
SMALLEST_COUNT = 0.5


@dataclass(frozen=True)
class InputProfile:
    """How one input was distributed in the training window.

    Attributes:
        edges: Inner bin edges of a number, ascending; empty for a category.
        vocabulary: The values of a category; empty for a number.
        counts: Cases per bin; the last bin holds missing (and unknown) values.
        usual: Greatest PSI of a block of days against the whole training window.
    """

    edges: tuple[float, ...]
    vocabulary: tuple[str, ...]
    counts: tuple[int, ...]
    usual: float

    def histogram(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Cases per bin.

        Args:
            values: float64 [n] with NaN, or object [n] of text with None.
        """
        if values.dtype == object:
            places = {value: place for place, value in enumerate(self.vocabulary)}
            last = len(self.vocabulary)
            codes = np.fromiter((places.get(v, last) for v in values), np.int64, len(values))
            return np.bincount(codes, minlength=last + 1)
        number = values.astype(np.float64)
        missing = np.isnan(number)
        bins = np.searchsorted(np.asarray(self.edges), number[~missing], side="left")
        counts = np.bincount(bins, minlength=len(self.edges) + 1)
        return np.append(counts, missing.sum())


@dataclass(frozen=True)
class Profile:
    """The training window's distribution of every input, and over how many days a block reaches."""

    inputs: Mapping[str, InputProfile]
    block_days: int

    def as_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "block_days": self.block_days,
            "inputs": {name: vars(one) for name, one in self.inputs.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        """Read what `as_json` made."""
        return cls(
            {
                name: InputProfile(
                    tuple(one["edges"]),
                    tuple(one["vocabulary"]),
                    tuple(one["counts"]),
                    one["usual"],
                )
                for name, one in data["inputs"].items()
            },
            data["block_days"],
        )


def profile(
    columns: Mapping[str, NDArray[Any]], day: NDArray[np.int64], block_days: int
) -> Profile:
    """Describe a training window.

    Args:
        columns: float64 [n] numbers (NaN missing) or object [n] categories (None missing).
        day: int64 [n] day number of each case.
        block_days: Length of the blocks that later windows will have.
    """
    return Profile(
        {name: _profile(values, day, block_days) for name, values in columns.items()}, block_days
    )


def stability(reference: NDArray[Any], current: NDArray[Any]) -> float:
    """The population stability index of two histograms over the same bins."""
    expected = np.maximum(np.asarray(reference, np.float64), SMALLEST_COUNT)
    actual = np.maximum(np.asarray(current, np.float64), SMALLEST_COUNT)
    expected, actual = expected / expected.sum(), actual / actual.sum()
    return float(np.sum((actual - expected) * np.log(actual / expected)))


@dataclass(frozen=True)
class DriftReport:
    """What a window of predictions looks like beside the training window.

    Attributes:
        rows: Predictions in the window.
        days: Days of the window on which something was served.
        psi: By input.
        limits: Threshold by signal.
        drifted: Signals above their threshold, the worst first; empty when there is no verdict.
        enough: Whether the window is full and holds enough predictions for a verdict.
    """

    rows: int
    days: int
    psi: Mapping[str, float]
    limits: Mapping[str, float]
    drifted: tuple[str, ...]
    enough: bool

    def sentence(self) -> str:
        """The verdict in words."""
        if not self.enough:
            return f"{self.rows} predictions on {self.days} days are too few for a verdict"
        if not self.drifted:
            return f"no signal drifted over {self.rows} predictions"
        told = ", ".join(
            f"{name} (PSI {self.psi[name]:.2f}, limit {self.limits[name]:.2f})"
            for name in self.drifted[:3]
        )
        more = f" and {len(self.drifted) - 3} more" if len(self.drifted) > 3 else ""
        return f"drifted: {told}{more}"


def compare(
    reference: Profile,
    columns: Mapping[str, NDArray[Any]],
    days: int,
    *,
    signals: tuple[str, ...],
    threshold: float,
    margin: float,
    min_rows: int,
) -> DriftReport:
    """Compare a window of predictions with the training window.

    Args:
        reference: Profile of the training window.
        columns: The inputs as served, as for `profile`.
        days: Days on which they were served; fewer than the reference's blocks have give no
            verdict, because a short window always looks unusual.
        signals: Inputs that count for the verdict.
        threshold: Least PSI that counts.
        margin: Times the greatest PSI inside the training window.
        min_rows: Fewer predictions give no verdict.
    """
    rows = len(next(iter(columns.values()))) if columns else 0
    psi = {
        name: stability(np.asarray(one.counts), one.histogram(columns[name]))
        for name, one in reference.inputs.items()
        if name in columns and rows
    }
    limits = {
        name: max(threshold, margin * reference.inputs[name].usual)
        for name in signals
        if name in reference.inputs
    }
    enough = rows >= min_rows and days >= reference.block_days
    over = [name for name in limits if enough and psi[name] > limits[name]]
    drifted = tuple(sorted(over, key=lambda name: psi[name] / limits[name], reverse=True))
    return DriftReport(rows, days, psi, limits, drifted, enough)


def _profile(values: NDArray[Any], day: NDArray[np.int64], block_days: int) -> InputProfile:
    if values.dtype == object:
        vocabulary = tuple(sorted({v for v in values if v is not None}))
        empty = InputProfile((), vocabulary, (), 0.0)
    else:
        known = values[~np.isnan(values)]
        quantiles = np.quantile(known, np.arange(1, BINS) / BINS) if len(known) else np.empty(0)
        empty = InputProfile(tuple(np.unique(quantiles).tolist()), (), (), 0.0)
    counts = empty.histogram(values)
    block = (day.max() - day) // block_days  # whole blocks, counted back from the newest day
    usual = max(
        (
            stability(counts, empty.histogram(values[block == which]))
            for which in np.unique(block)
            # The oldest block may be cut short: too few days to say what is usual.
            if len(np.unique(day[block == which])) == block_days
        ),
        default=0.0,
    )
    return InputProfile(empty.edges, empty.vocabulary, tuple(counts.tolist()), usual)
