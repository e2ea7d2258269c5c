"""Gates about what a candidate was made of: the data it read, and the float original of int8."""

from __future__ import annotations

from dataclasses import dataclass

from flywheel.bootstrap import Metric
from flywheel.contest import Contest, TableQuality, Verdict


@dataclass(frozen=True)
class ValidData:
    """The data that the training read was valid.

    Attributes:
        max_quarantined: Greatest share of any table's rows that may have been put aside.
    """

    max_quarantined: float = 0.01

    def judge(self, contest: Contest) -> Verdict:
        """No table is empty, none lost a day, few rows were put aside, and the rest is sound."""
        data = contest.data
        if data is None or not data.tables:
            return Verdict("valid_data", False, "no table was looked at", {})
        worst = max(data.tables, key=lambda one: one.share)
        rows = sum(one.rows for one in data.tables)
        quarantined = sum(one.quarantined for one in data.tables)
        problems = [problem for one in data.tables for problem in self._problems(one)]
        sentence = (
            "; ".join(problems)
            if problems
            else f"{rows} rows of {len(data.tables)} tables keep their contracts; "
            + (
                f"{quarantined} were put aside, most of {worst.table} ({worst.share:.2%}, limit "
                f"{self.max_quarantined:.2%})"
                if quarantined
                else "none was put aside"
            )
        )
        evidence = {
            "tables": float(len(data.tables)),
            "rows": float(rows),
            "quarantined": float(quarantined),
            "worst share": worst.share,
            "limit": self.max_quarantined,
            "lost days": float(sum(one.lost_days for one in data.tables)),
            "broken rows": float(sum(sum(one.broken.values()) for one in data.tables)),
        }
        return Verdict("valid_data", not problems, sentence, evidence)

    def _problems(self, one: TableQuality) -> list[str]:
        found = []
        if not one.rows:
            found.append(f"{one.table} has no row in the training window: materialize it")
        if one.share > self.max_quarantined:
            found.append(
                f"{one.quarantined} of {one.rows + one.quarantined} rows of {one.table} were put "
                f"aside ({one.share:.2%}, limit {self.max_quarantined:.2%}): look at "
                f"{one.table}__quarantine"
            )
        if one.lost_days:
            found.append(
                f"{one.table} has no row of {one.lost_days} days whose batch failed: correct the "
                "source and run them again"
            )
        if one.broken:
            rules = ", ".join(f"{rule} ({rows} rows)" for rule, rows in one.broken.items())
            found.append(f"{one.table} breaks its contract: {rules}")
        return found


@dataclass(frozen=True)
class Quantized:
    """The int8 network that is served is as good as the float32 network it was made of.

    Goes with `precision="int8"` of a `ModelSpec`.

    Attributes:
        tolerance: Greatest loss on the held-out cases, in the metric's own unit.
        metric: What is compared.
    """

    tolerance: float
    metric: Metric = "log_loss"

    def judge(self, contest: Contest) -> Verdict:
        """Compare the candidate with its float original on the same cases."""
        name = f"quantized({self.metric})"
        found = contest.quantization
        if found is None:
            return Verdict(name, False, "there is no float original to compare with", {})
        ours = getattr(contest.candidate, self.metric)
        theirs = getattr(found.original, self.metric)
        loss = theirs - ours if self.metric == "auc" else ours - theirs
        smaller = found.original_bytes / max(1, found.quantized_bytes)
        sentence = (
            f"{self.metric} {ours:.5f} in int8 against {theirs:.5f} in float32: "
            f"{'worse' if loss > 0 else 'better'} by {abs(loss):.5f}, limit {self.tolerance:.5f}; "
            f"{smaller:.1f} times smaller ({found.quantized_bytes / 1e6:.2f} MB), a probability "
            f"moves by up to {found.max_abs_diff:.4f}, by up to {found.batch_gap:.4f} with the "
            "cases it is batched with"
        )
        evidence = {
            "int8": ours,
            "float32": theirs,
            "loss": loss,
            "limit": self.tolerance,
            "times smaller": smaller,
            "diff": found.max_abs_diff,
            "batch diff": found.batch_gap,
        }
        return Verdict(name, loss <= self.tolerance, sentence, evidence)
