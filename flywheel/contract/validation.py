"""Parts a batch into the rows that keep the contract and those that do not, each with its reasons.

Of rows that share a key, exact copies are surplus: one stays and the others are put aside. If they
contradict each other nobody can say which is right, and all of them are put aside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flywheel.contract.expectations import Finding, check
from flywheel.contract.rules import Kind, Rule, Violation, Window, batch_rules
from flywheel.dataset import Dataset

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Validation:
    """What became of a batch.

    Attributes:
        clean: Rows that keep every rule, in their order.
        quarantined: The others, with `quarantine_reason` (list of strings) as last column.
        rules: The rules that were checked.
        violations: The broken ones; the rows of a rule are those it put aside.
        failures: The violations that the batch must not be written with: those of rules about the
            batch, and, if more than the tolerated share of rows was put aside, all others.
    """

    clean: pa.Table
    quarantined: pa.Table
    rules: tuple[Rule, ...]
    violations: tuple[Violation, ...]
    failures: tuple[Violation, ...]

    @property
    def share(self) -> float:
        """Share of the rows that were put aside."""
        return self.quarantined.num_rows / max(1, self.quarantined.num_rows + self.clean.num_rows)


def validate(
    dataset: Dataset,
    table: pa.Table,
    window: Window | None = None,
    *,
    with_window: bool = True,
) -> Validation:
    """Check a batch against its dataset's contract.

    Args:
        dataset: The declaration.
        table: Rows returned by `Dataset.conform`.
        window: Days of the batch; None for a table that is computed whole.
        with_window: False if the rows are known to lie inside of the window.

    Raises:
        ContractError: A rule could not be checked.
    """
    import numpy as np
    import pyarrow as pa

    rules = batch_rules(dataset, window, with_window=with_window)
    reasons: dict[int, list[str]] = defaultdict(list)
    violations: list[Violation] = []
    for finding in check(rules, table):
        if finding.kept:
            continue
        if finding.rule.table_level:
            violations.append(Violation(finding.rule, 0, _detail(finding)))
            continue
        put_aside = _reasons(finding, table)
        violations.append(Violation(finding.rule, len(put_aside)))
        for position, reason in put_aside.items():
            reasons[position].append(reason)
    bad = sorted(reasons)
    good = np.ones(table.num_rows, dtype=bool)
    good[bad] = False
    quarantined = table.take(pa.array(bad, pa.int64())).append_column(
        "quarantine_reason", pa.array([reasons[row] for row in bad], pa.list_(pa.string()))
    )
    intolerable = len(bad) > dataset.tolerance * table.num_rows
    return Validation(
        clean=table.filter(pa.array(good)) if bad else table,
        quarantined=quarantined,
        rules=rules,
        violations=tuple(violations),
        failures=tuple(v for v in violations if v.rule.table_level or intolerable),
    )


def _reasons(finding: Finding, table: pa.Table) -> dict[int, str]:
    """Which rows a broken rule puts aside, and why."""
    rule = finding.rule
    if rule.kind is Kind.UNIQUE:
        return _repeated(rule, finding.positions, table)
    values = _rows(table.select(list(rule.columns)), finding.positions)
    return {
        position: rule.reason(value)
        for position, (value,) in zip(finding.positions, values, strict=True)
    }


def _repeated(rule: Rule, positions: Sequence[int], table: pa.Table) -> dict[int, str]:
    keys = _rows(table.select(list(rule.columns)), positions)
    rows = _rows(table, positions)
    sharing: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        sharing[key].append(i)
    found = {}
    name = ", ".join(rule.columns)
    for same in sharing.values():
        different = len({rows[i] for i in same})
        if different == 1:
            found |= {positions[i]: f"{name}: surplus copy of the same row" for i in same[1:]}
        else:
            found |= {positions[i]: f"{name}: key of {different} different rows" for i in same}
    return found


def _rows(table: pa.Table, positions: Sequence[int]) -> list[tuple[Any, ...]]:
    """Rows as tuples that can be compared: NaN as None, lists as tuples."""
    import pyarrow as pa

    taken = table.take(pa.array(positions, pa.int64()))
    plain = [[_comparable(v) for v in column.to_pylist()] for column in taken.columns]
    return list(zip(*plain, strict=True))


def _comparable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return None if value != value else value


def _detail(finding: Finding) -> str:
    if finding.rule.kind is Kind.ROWS:
        return f"{finding.observed} rows, at least {finding.rule.minimum} are needed"
    newest = finding.observed
    # NaT, of a batch without rows, differs from itself.
    told = "there is no row" if newest is None or newest != newest else f"the newest is {newest}"
    return f"{told}, {finding.rule.minimum} or later is needed"
