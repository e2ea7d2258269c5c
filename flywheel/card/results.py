"""What an evaluation found, as sentences and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from flywheel.card.document import Block, Cell, Table, Text, missing, number, plural
from flywheel.card.facts import Evaluation
from flywheel.contest import Verdict
from flywheel.evidence import ALL, Figure
from flywheel.slices import GAPS, RATES, SliceScores, largest_gap, worst

# What a score is called, and how HF's hub calls it; in the order in which they are shown.
SCORES: Mapping[str, tuple[str, str]] = {
    "auc": ("AUC", "roc_auc"),
    "log_loss": ("log-loss", "log_loss"),
    "brier": ("Brier score", "brier_score"),
    "ece": ("calibration error", "expected_calibration_error"),
    "average_precision": ("average precision", "average_precision"),
}
BACKGROUND = {"base_rate": "base rate", "mean_probability": "mean probability"}

# More subgroups than this nobody reads, and the last of them would be single cases.
MOST_SUBGROUPS = 20


def verdict(found: Evaluation | None) -> tuple[str, str]:
    """The gates' verdict in a sentence, and its tone: `pass`, `fail` or `missing`."""
    if found is None or not found.verdicts:
        return "No gate has judged it.", "missing"
    failed = [one.gate for one in found.verdicts if not one.passed]
    if failed:
        return f"Held back by {', '.join(failed)}.", "fail"
    return f"Passed {plural(len(found.verdicts), 'gate')}.", "pass"


def headline(found: Evaluation) -> list[tuple[str, Cell]]:
    """The figures to see first."""
    known = _overall(found, found.candidate)
    rows = known["auc"].rows if "auc" in known else None
    return [
        *((SCORES[name][0], _estimate(known.get(name))) for name in ("auc", "log_loss", "ece")),
        ("held-out cases", number(rows, ",")),
    ]


def verdicts(found: Evaluation) -> Iterator[Block]:
    """What each gate said."""
    if not found.verdicts:
        yield missing("No gate has judged it: it may not serve before one has.")
        return
    yield Table(("gate", "verdict", "because"), [_verdict_row(one) for one in found.verdicts])


def scores(found: Evaluation) -> Iterator[Block]:
    """Candidate, champion and baselines on the same held-out cases, and the gains."""
    contestants = list(dict.fromkeys(one.contestant for one in found.figures))
    by_name = {name: _overall(found, name) for name in contestants}
    shown = [*SCORES, *BACKGROUND]
    titles = [*(title for title, _ in SCORES.values()), *BACKGROUND.values()]
    yield Text(
        "All contestants on the same cases, which none of them was trained on. In small letters: "
        f"where 95 % of resamples of whole days lie. Evaluation harness {found.harness}."
    )
    yield Table(
        ("contestant", *titles),
        [
            (Cell(_called(found, name)), *(_estimate(by_name[name].get(one)) for one in shown))
            for name in contestants
        ],
    )
    if found.champion is None:
        yield missing("There was no champion yet, so it had nobody to beat.")
    if not [name for name in contestants if name not in (found.candidate, "champion")]:
        yield missing("No baselines are declared, so there is no yardstick beside it.")
    gains = [one for one in SCORES if any(f"gain_{one}" in by_name[c] for c in contestants)]
    if gains:
        yield Table(
            ("gain over", *(SCORES[one][0] for one in gains)),
            [
                (
                    Cell(_called(found, name)),
                    *(_estimate(by_name[name].get(f"gain_{one}"), "+.4f") for one in gains),
                )
                for name in contestants
                if name != found.candidate
            ],
            title="Gain of this version; positive is better, whatever the score",
        )


def subgroups(found: Evaluation) -> Iterator[Block]:
    """Scores and rates by subgroup, the widest gaps first in words."""
    columns = dict.fromkeys(f.slice_column for f in found.figures if f.slice_column != ALL)
    if not columns:
        yield missing("No slices are declared, so nothing is known about how well it serves whom.")
        return
    yield Text(
        f"Rates are of deciding at a probability of {found.threshold:g}. Subgroups of fewer than "
        f"{found.min_rows} cases are shown, but say little."
    )
    slices = _slice_scores(found, found.candidate)
    theirs = {(one.column, one.value): one for one in _slice_scores(found, "champion")}
    for column in columns:
        mine = [one for one in slices if one.column == column]
        yield Text(f"By {column}", "title")
        yield Text(_gaps(mine, column, found.min_rows))
        mine.sort(key=lambda one: one.rows, reverse=True)
        yield _slice_table(found, column, mine[:MOST_SUBGROUPS], theirs)
        if rest := mine[MOST_SUBGROUPS:]:
            yield Text(
                f"Left out: {plural(len(rest), 'smaller subgroup')}, "
                f"{plural(sum(one.rows for one in rest), 'case')} together."
            )


def calibration(found: Evaluation) -> Iterator[Block]:
    """Whether probabilities mean what they say."""
    known = _overall(found, found.candidate)
    if "ece" in known and known["ece"].value is not None:
        yield Text(
            f"Predicted and observed shares lie {known['ece'].value:.4f} apart on average over "
            "equally filled bins (expected calibration error)."
        )
    table = found.calibration
    if table is None:
        yield missing("The bins were not recorded.")
        return
    yield Text(f"In the worst bin they lie {table.greatest_error:.4f} apart.")
    yield Table(
        ("predicted", "observed", "cases"),
        [
            (number(float(p), ".3f"), number(float(o), ".3f"), number(int(n), ","))
            for p, o, n in zip(table.predicted, table.observed, table.count, strict=True)
        ],
        title="Predicted against observed",
        folded=True,
    )


def decisions(found: Evaluation) -> Iterator[Block]:
    """What deciding at a threshold comes to."""
    table = found.thresholds
    if table is None:
        yield missing("What mistakes cost is not declared, so no threshold is better than another.")
        return
    costs, best = table.costs, table.best
    at = "nobody is selected" if math.isinf(best.threshold) else f"at {best.threshold:.3f}"
    yield Text(
        f"A false alarm costs {costs.false_alarm:g}, a miss {costs.miss:g}. On these cases the "
        f"cheapest is to decide {at}: {best.cost:.4f} a case. Perfectly calibrated probabilities "
        f"would be decided at {costs.calibrated_threshold:.3f}."
    )
    yield Table(
        ("threshold", "selected", "precision", "recall", "false positives", "cost a case"),
        [
            (
                number(one.threshold, ".2f"),
                number(one.selection_rate, ".1%"),
                number(one.precision, ".1%"),
                number(one.true_positive_rate, ".1%"),
                number(one.false_positive_rate, ".1%"),
                number(one.cost),
            )
            for one in table.rows
        ],
        title="Cost by threshold",
        folded=True,
    )


def _verdict_row(one: Verdict) -> Sequence[Cell]:
    mark = Cell("pass", "pass") if one.passed else Cell("fail", "fail")
    return Cell(one.gate), mark, Cell(one.sentence)


def _overall(found: Evaluation, contestant: str) -> dict[str, Figure]:
    """A contestant's figures on all cases, by metric."""
    return {
        one.metric: one
        for one in found.figures
        if one.contestant == contestant and one.slice_column == ALL
    }


def _called(found: Evaluation, contestant: str) -> str:
    if contestant == found.candidate:
        return "this version"
    return f"champion (version {found.champion})" if contestant == "champion" else contestant


def _estimate(one: Figure | None, form: str = ".4f") -> Cell:
    """A figure with its interval."""
    if one is None:
        return number(None)
    known = one.low is not None and one.high is not None
    return number(one.value, form, f"{one.low:{form}} to {one.high:{form}}" if known else "")


def _slice_scores(found: Evaluation, contestant: str) -> list[SliceScores]:
    """A contestant's figures by subgroup as they were before they were put in long format."""
    by_slice: dict[tuple[str, str], dict[str, Figure]] = {}
    for one in found.figures:
        if one.contestant == contestant and one.slice_column != ALL:
            by_slice.setdefault((one.slice_column, one.slice_value), {})[one.metric] = one
    names = [f.name for f in fields(SliceScores) if f.name not in ("column", "value", "rows")]
    return [
        SliceScores(
            column, value, next(iter(known.values())).rows,
            **{name: _or_nan(known.get(name)) for name in names},
        )
        for (column, value), known in by_slice.items()
    ]  # fmt: skip


def _or_nan(one: Figure | None) -> float:
    return math.nan if one is None or one.value is None else one.value


def _gaps(mine: Sequence[SliceScores], column: str, min_rows: int) -> str:
    """The worst subgroup of a column and the gaps by fairlearn's names, in words."""
    found = {name: largest_gap(mine, column, name, min_rows) for name in GAPS}
    told = [
        f"{name} {one.size:.3f} ({one.rate} of {one.highest} against {one.lowest})"
        for name, one in found.items()
        if one is not None
    ]
    lowest = worst(mine, "auc", min_rows)
    if lowest is None or not told:
        return "Fewer than two subgroups have cases enough to be compared."
    return f"Lowest AUC {lowest.auc:.4f} ({lowest.value}); {'; '.join(told)}."


def _slice_table(
    found: Evaluation,
    column: str,
    mine: Sequence[SliceScores],
    theirs: Mapping[tuple[str, str], SliceScores],
) -> Table:
    ends = {
        (one.slice_value, one.metric): f"{one.low:.0%} to {one.high:.0%}"
        for one in found.figures
        if one.contestant == found.candidate
        and one.slice_column == column
        and one.low is not None
        and one.high is not None
    }
    rows = []
    for one in mine:
        champion = theirs.get((one.column, one.value))
        rows.append(
            (
                Cell(one.value),
                number(one.rows, ",", "" if one.rows >= found.min_rows else "few"),
                number(one.auc, note=_beside(champion.auc if champion else math.nan)),
                number(one.log_loss, note=_beside(champion.log_loss if champion else math.nan)),
                number(one.ece),
                *(
                    number(getattr(one, rate), ".1%", ends.get((one.value, rate), ""))
                    for rate in RATES
                ),
            )
        )
    head = (
        column, "cases", "AUC", "log-loss", "calibration error", "selected", "true positives",
        "false positives", "base rate",
    )  # fmt: skip
    return Table(head, rows)


def _beside(value: float) -> str:
    """The champion's score, to stand beside the version's own."""
    return "" if math.isnan(value) else f"champion {value:.4f}"
