"""Gates about subgroups: none may fall behind the champion, none may be treated apart."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

from flywheel.bootstrap import BootstrapError, Metric
from flywheel.contest import NO_CASES, NO_CHAMPION, Contest, Verdict
from flywheel.slices import MIN_ROWS, Gap, largest_gap, slice_scores


@dataclass(frozen=True)
class NoSliceRegression:
    """No subgroup is served worse than by the champion.

    A subgroup has regressed if it lost more than `max_drop` and, with one-sided `confidence`, lost
    anything at all: among many subgroups some lose by luck.

    Attributes:
        columns: Slice columns; every value of each is a subgroup.
        metric: What is compared.
        max_drop: Greatest loss, in the metric's own unit.
        min_rows: Smaller subgroups are not judged.
        confidence: That a loss is none of the luck of the held-out days.
    """

    columns: tuple[str, ...]
    metric: Metric = "log_loss"
    max_drop: float = 0.01
    min_rows: int = MIN_ROWS
    confidence: float = 0.9

    def judge(self, contest: Contest) -> Verdict:
        """The first version passes: there is nothing to fall behind."""
        name = f"no_slice_regression({', '.join(self.columns)}; {self.metric})"
        if contest.champion is None:
            return Verdict(name, True, NO_CHAMPION, {})
        if contest.cases is None:
            return Verdict(name, False, NO_CASES, {})
        drops: dict[str, float] = {}
        regressed: list[str] = []
        try:
            for column in self.columns:
                found = contest.cases.comparisons(column, self.min_rows)
                for value, comparison in found.items():
                    gain = comparison.gain[self.metric]
                    if isnan(gain.value):  # an AUC of one class
                        continue
                    slice_name = f"{column}={value}"
                    drops[slice_name] = -gain.value
                    if -gain.value > self.max_drop and gain.upper(self.confidence) < 0:
                        regressed.append(slice_name)
        except BootstrapError as error:
            return Verdict(name, False, str(error), {})
        if not drops:
            sentence = f"no slice has {self.min_rows} cases: lower min_rows or hold out more days"
            return Verdict(name, False, sentence, {"slices": 0.0})
        worst = max(drops, key=drops.__getitem__)
        regressed.sort(key=drops.__getitem__, reverse=True)
        sentence = (
            f"{', '.join(f'{one} lost {drops[one]:.4f}' for one in regressed)}: limit "
            f"{self.max_drop:.4f}"
            if regressed
            else f"none of {len(drops)} slices regressed by more than {self.max_drop:.4f}; the "
            f"least gain is {-drops[worst]:+.4f} ({worst})"
        )
        evidence = {"slices": float(len(drops)), "regressed": float(len(regressed))}
        evidence |= {f"drop {one}": drop for one, drop in drops.items()}
        return Verdict(name, not regressed, sentence, evidence)


@dataclass(frozen=True)
class Fairness:
    """Subgroups are treated alike when a decision is taken at a threshold.

    Attributes:
        column: Slice column whose values are compared.
        metric: Which gap, by fairlearn's name (`flywheel.slices.largest_gap`).
        max_gap: Greatest gap.
        min_rows: Smaller subgroups are not compared.
        threshold: Least probability that is acted on.
    """

    column: str
    metric: Gap = "equalized_odds_difference"
    max_gap: float = 0.1
    min_rows: int = MIN_ROWS
    threshold: float = 0.5

    @property
    def columns(self) -> tuple[str, ...]:
        """The slice column."""
        return (self.column,)

    def judge(self, contest: Contest) -> Verdict:
        """Judge the candidate by itself, whoever is champion."""
        name = f"fairness({self.column}; {self.metric})"
        if (cases := contest.cases) is None:
            return Verdict(name, False, NO_CASES, {})
        values = {self.column: cases.slice_column(self.column)}
        scores = slice_scores(cases.label, cases.candidate, values, self.threshold)
        gap = largest_gap(scores, self.column, self.metric, self.min_rows)
        if gap is None:
            sentence = (
                f"fewer than two values of {self.column} have {self.min_rows} cases to compare: "
                "lower min_rows or hold out more days"
            )
            return Verdict(name, False, sentence, {"limit": self.max_gap})
        return Verdict(
            name,
            gap.size <= self.max_gap,
            f"{gap.rate} of {gap.highest} is {gap.size:.3f} above that of {gap.lowest}, limit "
            f"{self.max_gap:.3f}",
            {"gap": gap.size, "limit": self.max_gap, "threshold": self.threshold},
        )
