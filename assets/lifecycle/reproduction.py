"""Trains a version again from what is on record, and says whether it comes out the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from assets.lifecycle import inputs
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.story import read_story
from assets.lifecycle.training import (
    ENVIRONMENT_FILE,
    fit,
    labelled_cases,
    training_fingerprint,
    training_rows,
)
from assets.lifecycle.tuned import as_swept
from flywheel.story import environment, environment_changes, environment_hash, hardware
from resources.feature_store import FeatureStore
from resources.lakehouse import Lakehouse, fingerprint
from resources.registry import Registry, Version, git_commit

if TYPE_CHECKING:
    import pyarrow as pa

# Differences of these explain a different result, they are none themselves.
CIRCUMSTANCES = ("commit", "environment", "hardware")

MOST_CHANGES = 8


@dataclass(frozen=True)
class Check:
    """One thing that was on record, and what it is now.

    Attributes:
        what: Name of the thing.
        recorded: What the version's story says.
        found: What came out.
        detail: Where exactly they differ, if more can be said.
    """

    what: str
    recorded: str
    found: str
    detail: str = ""

    @property
    def same(self) -> bool:
        """Whether both are equal."""
        return self.recorded == self.found


@dataclass(frozen=True)
class Reproduction:
    """What became of a version when it was trained again.

    Attributes:
        checks: In the order in which one follows from another.
    """

    checks: tuple[Check, ...]

    @property
    def identical(self) -> bool:
        """Whether rows, recipe, weights and metrics are the same, whatever the circumstances."""
        return all(c.same for c in self.checks if c.what not in CIRCUMSTANCES)

    @property
    def first_difference(self) -> Check | None:
        """The first thing that is not the same; what comes after it may follow from it."""
        return next((c for c in self.checks if not c.same), None)


def reproduce(
    life: Lifecycle,
    number: str,
    lakehouse: Lakehouse,
    registry: Registry,
    feature_store: FeatureStore,
    told: Callable[[str], None] = lambda _: None,
) -> Reproduction:
    """Read the recorded snapshots, rebuild the training set, fit again, and compare.

    Nothing is registered, and no table is written.

    Args:
        life: The model, as the code at hand declares it.
        number: The version.
        lakehouse: Still has the snapshots: their tag keeps them.
        registry: Has the version.
        feature_store: Joins the features.
        told: Is told what is being done.

    Raises:
        LookupError: There is no such version, or a snapshot of it is gone.
        BundleError: The version's own bundle is damaged.
    """
    version = registry.version(life.spec.name, number)
    story = read_story(registry, version)
    life = as_swept(life, story["swept"])
    checks = _circumstances(registry, version, story)
    told("reading the recorded snapshots")
    as_of = date.fromisoformat(story["as_of"])
    snapshots = {table: int(snapshot) for table, snapshot in story["input_snapshots"].items()}
    name = life.table("training_set")
    recorded = _of_morning(lakehouse.read(name, at=snapshots[name]), as_of)
    told("joining the features again")
    cases = labelled_cases(life, as_of, lakehouse, snapshots)
    columns = inputs.input_values(life.spec, life.domain, cases, feature_store, snapshots)
    rows = training_rows(life.spec, as_of, cases, columns)
    checks += [
        Check(
            "training set",
            fingerprint(recorded)[:16],
            fingerprint(rows)[:16],
            _rows_detail(life, recorded, rows),
        ),
        Check("recipe", story["fingerprint"][:16], training_fingerprint(life.spec, rows)[:16]),
    ]
    told("fitting")
    fitted = fit(life, story["as_of"], rows, number, {})
    checks.append(
        Check(
            "onnx",
            story["onnx_sha256"][:16],
            hashlib.sha256(fitted.trained.onnx).hexdigest()[:16],
        )
    )
    metrics = {"training_rows": fitted.rows.num_rows, **fitted.trained.metrics}
    checks += [
        Check(f"metric {metric}", repr(value), repr(metrics.get(metric)))
        for metric, value in story["metrics"].items()
    ]
    return Reproduction(tuple(checks))


def _circumstances(registry: Registry, version: Version, story: Mapping[str, Any]) -> list[Check]:
    import mlflow.artifacts

    listed = mlflow.artifacts.load_text(
        registry.client.get_run(version.run_id).info.artifact_uri + f"/{ENVIRONMENT_FILE}"
    ).split()
    changes = environment_changes(listed, environment())
    detail = ", ".join(
        f"{name} {old or 'absent'} -> {new or 'absent'}"
        for name, (old, new) in list(changes.items())[:MOST_CHANGES]
    )
    here = hardware()
    was = story["hardware"]
    return [
        Check("commit", story["git_commit"], git_commit()),
        Check("environment", story["environment"][:16], environment_hash()[:16], detail),
        Check(
            "hardware",
            f"{was['architecture']} {was['cpu']}",
            f"{here.architecture} {here.cpu}",
        ),
    ]


def _of_morning(rows: pa.Table, as_of: date) -> pa.Table:
    import pyarrow.compute as pc

    return rows.filter(pc.equal(rows.column("as_of"), as_of))


def _rows_detail(life: Lifecycle, recorded: pa.Table, rows: pa.Table) -> str:
    """In which rows and columns two training sets differ."""
    from flywheel.diff import diff

    found = diff(recorded, rows, inputs.training_set_table(life.spec).key)
    if found.empty:
        return ""
    columns = ", ".join(f"{name} in {count}" for name, count in found.columns.items())
    return (
        f"{found.added.num_rows} rows are new, {found.removed.num_rows} are gone, "
        f"{found.changed.num_rows} differ ({columns})"
    )
