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
    """

    candidate: Scores
    champion: Scores | None
    parity: ParityCount | None = None
    cases: Cases | None = None


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
