"""What an evaluation leaves behind: figures in long format, and the gates' verdicts.

Both are computed once, where the cases are at hand. Whoever crowns a champion reads the verdicts:
to judge again from stored scores would be to judge without days, slices and inputs. A verdict is
only good for the gate that it was asked of, by the harness that gave it, so both are stored and
compared. Writing the tables is not done here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from flywheel.bootstrap import METRICS, Estimate, day_codes, day_sums, draw_days
from flywheel.contest import Cases, Contest, Verdict
from flywheel.evaluation import HARNESS_VERSION, average_precision, calibration, score
from flywheel.gates import Gate
from flywheel.slices import RATES, rate_intervals, slice_scores
from flywheel.thresholds import Costs, threshold_table

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

ALL = "(all)"
THRESHOLD, BIN = "(threshold)", "(calibration bin)"


class StaleVerdictError(ValueError):
    """Stored verdicts do not answer what is asked now; the message has the command that does."""


@dataclass(frozen=True)
class Figure:
    """One figure of one contestant on one slice.

    Attributes:
        contestant: `candidate`, `champion` or a baseline's name.
        slice_column: What the cases are grouped by; `(all)` for all cases.
        slice_value: The subgroup; `(all)` for all cases.
        metric: Name of the figure; `gain_auc` and so on: of the candidate over this contestant.
        rows: Cases it is about.
        value: The figure; None where it is not defined.
        low: Lower end of its 95 % day-block bootstrap interval; None where there is none.
        high: Upper end.
    """

    contestant: str
    slice_column: str
    slice_value: str
    metric: str
    rows: int
    value: float | None
    low: float | None = None
    high: float | None = None

    def as_row(self) -> dict[str, Any]:
        """The figure as a table's row."""
        return asdict(self)


def figures(
    cases: Cases, predictions: Mapping[str, ArrayLike], candidate: str, threshold: float = 0.5
) -> list[Figure]:
    """Every contestant's figures, on all cases and on every slice of the cases.

    Args:
        cases: Labels, days and slices; resamples as the gates use them.
        predictions: Probabilities by contestant [n].
        candidate: The contestant whose gains over the others are reported, by the same draws.
        threshold: Least probability that is acted on, for the rates.

    Raises:
        BootstrapError: The cases fall on fewer than two days.
        ValueError: The cases cannot be scored.
    """
    return [
        *_overall(cases, predictions, candidate),
        *(
            figure
            for name, probability in predictions.items()
            for figure in _by_slice(cases, name, probability, threshold)
        ),
    ]


def decisions(cases: Cases, predictions: Mapping[str, ArrayLike], costs: Costs) -> list[Figure]:
    """What deciding at each threshold comes to, by contestant; the slices are the thresholds.

    Raises:
        ValueError: The cases cannot be scored.
    """
    return [
        Figure(name, THRESHOLD, f"{one.threshold:.2f}", metric, len(cases), _defined(value))
        for name, probability in predictions.items()
        for one in threshold_table(cases.label, probability, costs)
        for metric, value in asdict(one).items()
        if metric != "threshold"
    ]


def calibration_bins(cases: Cases, predictions: Mapping[str, ArrayLike]) -> list[Figure]:
    """The reliability diagram in figures: predicted and observed by equally filled bin.

    Raises:
        ValueError: The cases cannot be scored.
    """
    found = []
    for name, probability in predictions.items():
        table = calibration(cases.label, probability)
        bins = zip(table.predicted, table.observed, table.count, strict=True)
        for place, (predicted, observed, count) in enumerate(bins, start=1):
            for metric, value in (("predicted", predicted), ("observed", observed)):
                found.append(Figure(name, BIN, f"{place:02d}", metric, int(count), float(value)))
    return found


@dataclass(frozen=True)
class StoredVerdict:
    """A verdict with what it was asked of.

    Attributes:
        declaration: The gate as it was declared.
        verdict: What it answered.
        harness: `HARNESS_VERSION` of the code that answered.
    """

    declaration: str
    verdict: Verdict
    harness: int = HARNESS_VERSION

    def as_row(self) -> dict[str, Any]:
        """The verdict as a table's row; the evidence is JSON."""
        return {
            "gate": self.verdict.gate,
            "declaration": self.declaration,
            "passed": self.verdict.passed,
            "sentence": self.verdict.sentence,
            "evidence": json.dumps(dict(self.verdict.evidence), allow_nan=False),
            "harness": self.harness,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> StoredVerdict:
        """The verdict of a table's row; columns of other things are passed over."""
        verdict = Verdict(row["gate"], row["passed"], row["sentence"], json.loads(row["evidence"]))
        return cls(row["declaration"], verdict, row["harness"])


def judge(gates: Sequence[Gate], contest: Contest) -> list[StoredVerdict]:
    """What every gate says, in their order, ready to be stored."""
    return [StoredVerdict(repr(gate), gate.judge(contest)) for gate in gates]


def verdicts_of(
    gates: Sequence[Gate], stored: Sequence[StoredVerdict], command: str
) -> list[Verdict]:
    """The stored verdicts of the gates that are declared now, in their order.

    Args:
        gates: The gates as they are declared now.
        stored: What an evaluation left behind, in any order.
        command: Shell command that makes the evaluation again (`Origin.command`).

    Raises:
        StaleVerdictError: A gate was declared otherwise, or not at all, when the evaluation was
            made, or another harness made it.
    """
    if old := sorted({one.harness for one in stored} - {HARNESS_VERSION}):
        raise StaleVerdictError(
            f"the verdicts are of evaluation harness {old[0]}, and this is {HARNESS_VERSION}. "
            f"Make them again: {command}"
        )
    by_declaration = {one.declaration: one.verdict for one in stored}
    asked = [repr(gate) for gate in gates]
    if changed := [one for one in asked if one not in by_declaration]:
        raise StaleVerdictError(
            f"the evaluation was not asked about {', '.join(changed)}, but about "
            f"{', '.join(by_declaration) or 'nothing'}. Ask again: {command}"
        )
    return [by_declaration[one] for one in asked]


def _overall(
    cases: Cases, predictions: Mapping[str, ArrayLike], candidate: str
) -> Iterator[Figure]:
    import numpy as np

    days, day = day_codes(cases.day)
    drawn = draw_days(len(days), cases.draws, cases.seed)
    weight = np.vstack([np.ones(len(days)), drawn])
    resampled = {
        name: day_sums(cases.label, day, len(days), probability).scores(weight)
        for name, probability in predictions.items()
    }
    for name, probability in predictions.items():
        scores = score(cases.label, probability)
        plain = {
            **scores.as_dict(),
            "average_precision": average_precision(cases.label, probability),
        }
        del plain["rows"]
        for metric, value in plain.items():
            if metric not in METRICS:
                yield Figure(name, ALL, ALL, metric, scores.rows, value)
        for metric in METRICS:
            theirs = resampled[name][metric]
            yield _with_interval(name, metric, scores.rows, theirs)
            if name != candidate:
                gain = resampled[candidate][metric] - theirs
                gain = gain if metric == "auc" else -gain
                yield _with_interval(name, f"gain_{metric}", scores.rows, gain)


def _with_interval(contestant: str, metric: str, rows: int, values: Any) -> Figure:
    """A figure of all cases from its value and draws, float64 [1 + draws]."""
    low, high = Estimate(float(values[0]), values[1:]).interval()
    return Figure(contestant, ALL, ALL, metric, rows, float(values[0]), low, high)


def _by_slice(
    cases: Cases, contestant: str, probability: ArrayLike, threshold: float
) -> Iterator[Figure]:
    ends: dict[tuple[str, str, str], tuple[float, float]] = {}
    for column, values in cases.slices.items():
        found = rate_intervals(
            cases.label, probability, cases.day, column, values,
            threshold=threshold, draws=cases.draws, seed=cases.seed,
        )  # fmt: skip
        for rate in RATES:
            for value, low, high in zip(
                found.values, found.low[rate], found.high[rate], strict=True
            ):
                ends[column, value, rate] = (float(low), float(high))
    for one in slice_scores(cases.label, probability, cases.slices, threshold):
        for metric, value in one.metrics().items():
            if metric == "rows":
                continue
            low, high = ends.get((one.column, one.value, metric), (None, None))
            yield Figure(
                contestant, one.column, one.value, metric, one.rows,
                _defined(value), _defined(low), _defined(high),
            )  # fmt: skip


def _defined(value: float | None) -> float | None:
    return None if value is None or value != value else value
