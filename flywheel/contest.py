"""What a gate judges, and what it answers: values only. The gates are in `flywheel.gates`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from flywheel.bootstrap import DRAWS, Comparison, compare_on, day_codes, draw_days
from flywheel.evaluation import Scores
from flywheel.slices import group_codes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

NO_CASES = "no cases were given to judge"
NO_CHAMPION = "there is no champion yet"


@dataclass(frozen=True)
class ParityCount:
    """What a replay of held-out requests through the gateway's feature lookup came to.

    Attributes:
        requests: Requests replayed.
        differences: Inputs that were not what the offline join says.
    """

    requests: int
    differences: int


@dataclass(frozen=True)
class TrialPlan:
    """What a trial in a real Triton is to measure.

    Attributes:
        concurrency: Numbers of requests at once to measure the latency at.
        requests: Requests of each measurement; 0 if there is none.
    """

    concurrency: tuple[int, ...] = ()
    requests: int = 0


@dataclass(frozen=True)
class Latencies:
    """Latency of single-row requests, so many of them at once.

    Attributes:
        requests: Requests made, failed ones included.
        errors: Requests that failed.
        p50_ms: Median of those that did not, milliseconds; None if all failed.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile.
        per_second: Answers a second.
    """

    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    per_second: float


@dataclass(frozen=True)
class Trial:
    """What became of the candidate's very bundle in a Triton of its own.

    Attributes:
        loaded: Whether Triton loaded and warmed it.
        reason: Why it did not load or did not answer its probe; empty if it did.
        load_seconds: What loading and warming took; None if it did not load.
        probe_rows: Rows of the probe.
        probe_max_abs_diff: Largest difference between Triton's probabilities and training's own;
            None if there was no answer, or one that is not a number.
        tolerance: The difference that a deployment allows.
        model_bytes: Size of the ONNX file.
        bundle_bytes: Size of the whole bundle.
        latencies: By number of requests at once.
    """

    loaded: bool
    reason: str
    load_seconds: float | None
    probe_rows: int
    probe_max_abs_diff: float | None
    tolerance: float
    model_bytes: int
    bundle_bytes: int
    latencies: Mapping[int, Latencies] = field(default_factory=dict)


@dataclass(frozen=True)
class TableQuality:
    """One table that a training read, within the days of its window.

    Attributes:
        table: `namespace.table`.
        rows: Rows that the training found.
        quarantined: Rows that were put aside.
        lost_days: Days of which rows were put aside and none were found: their batch failed.
        broken: Rows that were found and break the contract as it is declared today, by rule.
    """

    table: str
    rows: int
    quarantined: int = 0
    lost_days: int = 0
    broken: Mapping[str, int] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Share of the rows that were put aside."""
        return self.quarantined / max(1, self.rows + self.quarantined)


@dataclass(frozen=True)
class DataQuality:
    """The tables that a training read."""

    tables: tuple[TableQuality, ...]


@dataclass(frozen=True)
class Quantization:
    """The float32 original of an int8 candidate, on the same held-out cases.

    Attributes:
        original: Its scores.
        original_bytes: Size of its ONNX file.
        quantized_bytes: Size of the candidate's.
        max_abs_diff: Largest difference between the two in a probability.
        batch_gap: Largest difference between the candidate's answers to the same cases asked one at
            a time and all at once: an int8 network's rounding follows its batch.
    """

    original: Scores
    original_bytes: int
    quantized_bytes: int
    max_abs_diff: float
    batch_gap: float


@dataclass(frozen=True, eq=False)
class Cases:
    """The n held-out cases, with what both models said of them.

    What several gates need is computed once, on first use.

    Attributes:
        label: 0 or 1 [n].
        day: Day of each case [n]; the blocks of the bootstrap.
        candidate: The candidate's probabilities [n].
        champion: The champion's probabilities [n]; None while there is none.
        slices: What the cases can be grouped by, [n] per column.
        features: Inputs of the model, [n] each: numbers with NaN, or objects with None.
        draws: Resamples of the bootstrap.
        seed: Of the resamples.
    """

    label: ArrayLike
    day: ArrayLike
    candidate: ArrayLike
    champion: ArrayLike | None = None
    slices: Mapping[str, ArrayLike] = field(default_factory=dict)
    features: Mapping[str, ArrayLike] = field(default_factory=dict)
    draws: int = DRAWS
    seed: int = 0

    def __len__(self) -> int:
        import numpy as np

        return len(np.asarray(self.label))

    @cached_property
    def comparison(self) -> Comparison:
        """Candidate and champion on all cases.

        Raises:
            BootstrapError: The cases fall on fewer than two days.
            ValueError: There is no champion, or a value is no label, day or probability.
        """
        return self._compare(slice(None))

    def comparisons(self, column: str, min_rows: int) -> dict[str, Comparison]:
        """Candidate and champion within each value of a slice column that has `min_rows` cases.

        Raises:
            BootstrapError: The cases fall on fewer than two days.
            ValueError: There is no such column or no champion, or a value is no label, day or
                probability.
        """
        import numpy as np

        names, code = group_codes(column, self.slice_column(column), len(self._days[1]))
        places = (np.flatnonzero(code == place) for place in range(len(names)))
        return {
            name: self._compare(rows)
            for name, rows in zip(names, places, strict=True)
            if len(rows) >= min_rows
        }

    def slice_column(self, column: str) -> ArrayLike:
        """The values of a slice column.

        Raises:
            ValueError: There is none of that name.
        """
        if column not in self.slices:
            raise ValueError(
                f"a gate asks for slices by {column!r}, but the cases come with "
                f"{sorted(self.slices)}: name one of these, or add the column to the cases"
            )
        return self.slices[column]

    def _compare(self, rows: NDArray[np.intp] | slice) -> Comparison:
        import numpy as np

        if self.champion is None:
            raise ValueError("there is no champion to compare with")
        ours, theirs = np.asarray(self.candidate), np.asarray(self.champion)
        label, day = np.asarray(self.label), self._days[1]
        return compare_on(self._resamples, label[rows], day[rows], ours[rows], theirs[rows])

    @cached_property
    def _days(self) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        return day_codes(self.day)

    @cached_property
    def _resamples(self) -> NDArray[np.float64]:
        return draw_days(len(self._days[0]), self.draws, self.seed)


@dataclass(frozen=True)
class Contest:
    """A candidate and the champion on the same cases, which neither was trained on.

    Attributes:
        candidate: Scores of the candidate.
        champion: Scores of the champion; None while there is none.
        parity: Online and offline inputs compared; None if no gate asks for it.
        cases: The cases themselves; None where only the scores are known.
        trial: The candidate in a real Triton; None if no gate asks for it.
        data: The data that the candidate was trained on; None if no gate asks about it.
        quantization: The candidate's float original; None if it is no int8 network.
    """

    candidate: Scores
    champion: Scores | None
    parity: ParityCount | None = None
    cases: Cases | None = None
    trial: Trial | None = None
    data: DataQuality | None = None
    quantization: Quantization | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a gate lets the candidate pass, and why.

    Attributes:
        gate: Name of the gate.
        passed: The decision.
        sentence: The reason in words.
        evidence: The figures it rests on, all finite.
    """

    gate: str
    passed: bool
    sentence: str
    evidence: Mapping[str, float]
