"""A version's story: what it was made of, by what, on what, for how much, and because of whom.

It lies in the bundle, sealed like the model itself, so a version without a story cannot exist.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.lifecycle.names import Lifecycle
from flywheel.model import ModelSpec
from flywheel.story import Usage, environment_hash, hardware
from resources.registry import Registry, Version

if TYPE_CHECKING:
    from assets.lifecycle.training import Fitted

STORY_FILE = "story.json"

# What of it is a tag of the version too, to be searched for in MLflow.
TAGGED = (
    "fingerprint", "as_of", "git_commit", "environment", "onnx_sha256", "training_tag",
    "feature_service", "cost",
)  # fmt: skip


def story_of(
    life: Lifecycle,
    as_of: str,
    fitted: Fitted,
    identity: str,
    commit: str,
    snapshots: Mapping[str, int],
    usage: Usage,
    asked: Mapping[str, str],
    swept: Mapping[str, str],
) -> dict[str, Any]:
    """Everything that is worth knowing about a version, as JSON would hold it.

    Args:
        life: The model.
        as_of: The morning.
        fitted: What was fitted.
        identity: Fingerprint of rows, recipe, seed and transform.
        commit: Commit of the code.
        snapshots: States of the tables that were read, by table.
        usage: What the fit took.
        asked: Actor, reason and run.
        swept: The sweep that the parameters come from; empty if they are as declared.
    """
    from assets.lifecycle.training import training_tag

    spec = life.spec
    manifest = fitted.manifest
    return {
        "model": spec.name,
        "version": manifest.version,
        "as_of": as_of,
        "fingerprint": identity,
        **asked,
        "git_commit": commit,
        "environment": environment_hash(),
        "hardware": asdict(hardware()),
        "wall_seconds": round(usage.wall_seconds, 3),
        "cpu_seconds": round(usage.cpu_seconds, 3),
        "cpu_hour_price": usage.cpu_hour_price,
        "cost": round(usage.cost, 6),
        "trainer": type(spec.trainer).__name__,
        "seed": spec.seed,
        "parameters": _parameters(spec, as_of),
        "swept": dict(swept),
        "metrics": {"training_rows": fitted.rows.num_rows, **fitted.trained.metrics},
        "input_snapshots": dict(snapshots),
        "training_tag": training_tag(life, date.fromisoformat(as_of)),
        "feature_service": feature_service(spec),
        "schema": {
            "request": {f.name: f.dtype for f in manifest.request.fields},
            "numeric float32": [one.name for one in manifest.numbers],
            "categorical int64": [one.name for one in manifest.categories],
            "output": "probability float32 [n, 1]",
        },
        "onnx_sha256": hashlib.sha256(fitted.trained.onnx).hexdigest(),
    }


def read_story(registry: Registry, version: Version) -> dict[str, Any]:
    """The story in a version's bundle, whose seal is checked first."""
    from flywheel_serving.bundle import open_bundle

    bundle = open_bundle(registry.bundle(version))
    return json.loads((bundle.directory / STORY_FILE).read_text())


def asked_by(context: dg.AssetExecutionContext) -> dict[str, str]:
    """Who had a version trained, and why."""
    tags = context.run.tags
    return {
        "actor": tags.get("flywheel/actor", "dagster"),
        "reason": tags.get("flywheel/reason", "launched by hand"),
        "trigger": tags.get("flywheel/trigger", "manual"),
        "dagster_run": context.run.run_id,
    }


def feature_service(spec: ModelSpec) -> str:
    """Name and version of what the model reads from the feature store.

    The version is a hash of the declarations: it changes with a view, a feature or an input.
    """
    declared = repr((spec.views, spec.inputs))
    return f"{spec.name}@{hashlib.sha256(declared.encode()).hexdigest()[:12]}"


def _parameters(spec: ModelSpec, as_of: str) -> dict[str, Any]:
    trainer = spec.trainer
    return {
        "trainer": type(trainer).__name__,
        "trainer.version": trainer.version,
        **{f"trainer.{name}": _plain(value) for name, value in vars(trainer).items()},
        "seed": spec.seed,
        "as_of": as_of,
        "training_days": spec.training_days,
        "holdout_days": spec.holdout_days,
        "stable_every_days": spec.stable_every_days,
        "inputs": len(spec.inputs),
        "precision": spec.precision,
    }


def _plain(value: object) -> bool | int | float | str | None:
    """A value as JSON can hold it."""
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
