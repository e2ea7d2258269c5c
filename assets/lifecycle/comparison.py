"""Two versions on the same held-out cases, scored now, and what else sets them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.lifecycle import inputs
from assets.lifecycle.evaluation import RECENT, STABLE, EvaluationError, origin, predict
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.training import split_rows, training_tag
from flywheel.evaluation import NotComparableError, comparable
from resources.ledger import Ledger, newest

if TYPE_CHECKING:
    import pyarrow as pa

# What of a version's story is worth setting beside another's.
TOLD = (
    "as_of", "trainer", "parameters", "seed", "input_snapshots", "feature_service", "git_commit",
    "environment", "hardware", "wall_seconds", "cpu_seconds", "cost", "schema", "onnx_sha256",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A metric of both, and how much better the second is, with its 95 % interval."""

    first: float
    second: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class WindowComparison:
    """Both versions on the cases of one window."""

    name: str
    rows: int
    days: int
    metrics: Mapping[str, Line]


@dataclass(frozen=True)
class VersionComparison:
    """Two versions beside each other.

    Attributes:
        as_of: Morning whose held-out cases were used.
        windows: Scores by window.
        differences: What of their stories differs, by name: the first's and the second's.
        notes: What a reader should know about the evaluations that are on record.
    """

    as_of: str
    windows: tuple[WindowComparison, ...]
    differences: Mapping[str, tuple[Any, Any]]
    notes: tuple[str, ...]


def compare_versions(
    life: Lifecycle, ledger: Ledger, first: str, second: str, as_of: str = ""
) -> VersionComparison:
    """Score two versions on cases that neither was trained on.

    Args:
        life: The model.
        ledger: Its histories.
        first: A version.
        second: Another one.
        as_of: Morning whose held-out cases to use; the newest that has a training set if empty.

    Raises:
        LookupError: There is no such version or training set.
        EvaluationError: A version is younger than the morning, so it may know the cases.
    """
    registry = ledger.registry
    versions = [registry.version(life.spec.name, number) for number in (first, second)]
    rows, chosen = _held_out(life, ledger, as_of)
    if late := [v.number for v in versions if v.tags["as_of"] > chosen]:
        raise EvaluationError(
            f"version {late[0]} is of a later morning than {chosen}: it may have been trained on "
            "these cases. Choose a later --as-of"
        )
    found = []
    for name, split in ((RECENT, inputs.HOLDOUT), (STABLE, inputs.STABLE)):
        cases = split_rows(rows, split)
        if len(set(_days(life, cases))) > 1:
            ours, theirs = (predict(registry, version, cases) for version in versions)
            found.append(_window(life, name, cases, ours, theirs))
    stories = [_story(ledger, life.spec.name, number) for number in (first, second)]
    differences = {
        name: _unequal(stories[0].get(name), stories[1].get(name))
        for name in TOLD
        if stories[0].get(name) != stories[1].get(name)
    }
    return VersionComparison(chosen, tuple(found), differences, _notes(life, ledger, first, second))


def _held_out(life: Lifecycle, ledger: Ledger, as_of: str) -> tuple[pa.Table, str]:
    """The training set of a morning, and the morning."""
    import pyarrow.compute as pc

    name = life.table("training_set")
    table = ledger.lakehouse.table(name)
    prefix = training_tag(life, life.spec.calendar.start).rsplit("/", 1)[0]
    mornings = sorted(ref.rsplit("/", 1)[1] for ref in table.refs() if ref.startswith(f"{prefix}/"))
    chosen = as_of or (mornings[-1] if mornings else "")
    if chosen not in mornings:
        raise LookupError(
            f"{name} has no training set of {chosen or 'any morning'}: there are those of "
            f"{', '.join(mornings) or 'none'}"
        )
    rows = ledger.lakehouse.read(name, at=f"{prefix}/{chosen}")
    return rows.filter(pc.equal(rows.column("as_of").cast("string"), chosen)), chosen


def _window(life: Lifecycle, name: str, cases: pa.Table, ours: Any, theirs: Any) -> Any:
    import numpy as np

    from flywheel.bootstrap import METRICS
    from flywheel.contest import Cases

    label = inputs.numpy_column(cases, "label").astype(np.float64)
    scored = Cases(label, _days(life, cases), theirs, ours, seed=life.spec.seed)
    comparison = scored.comparison
    lines = {}
    for metric in METRICS:
        gain = comparison.gain[metric]
        low, high = gain.interval()
        lines[metric] = Line(
            comparison.champion[metric].value, comparison.candidate[metric].value, gain.value,
            low, high,
        )  # fmt: skip
    return WindowComparison(name, comparison.rows, comparison.days, lines)


def _days(life: Lifecycle, cases: pa.Table) -> list[int]:
    moments = cases.column(inputs.EVENT_TIMESTAMP).to_pylist()
    return [life.spec.calendar.day_of(moment).toordinal() for moment in moments]


def _story(ledger: Ledger, model: str, number: str) -> dict[str, Any]:
    row = ledger.story(model, number)
    return row["story"] if row else {}


def _unequal(ours: Any, theirs: Any) -> tuple[Any, Any]:
    """Two different values; of two mappings only what differs."""
    if not (isinstance(ours, Mapping) and isinstance(theirs, Mapping)):
        return ours, theirs
    names = [n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)]
    return {n: ours.get(n) for n in names}, {n: theirs.get(n) for n in names}


def _notes(life: Lifecycle, ledger: Ledger, first: str, second: str) -> tuple[str, ...]:
    """Whether the evaluations on record may be set beside each other."""
    evaluations = ledger.evaluations(life.spec.name)
    held = [newest(evaluations, number) for number in (first, second)]
    origins = [origin(life, one[0]) for one in held if one]
    if len(origins) < len(held):
        return ()
    try:
        comparable(*origins)
    except NotComparableError as error:
        return (f"Their evaluations on record are not set beside each other: {error}",)
    return ()
