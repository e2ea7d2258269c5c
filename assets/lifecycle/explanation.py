"""What served at a time, trained on what, by which commit, and why it was promoted."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from assets.lifecycle.names import Lifecycle
from flywheel.history import decided_at, serving_at
from resources.ledger import Ledger, newest


def explanation(life: Lifecycle, ledger: Ledger, moment: datetime) -> dict[str, Any] | None:
    """The facts about what served at a moment, in the order in which one asks for them.

    Args:
        life: The model.
        ledger: Its histories.
        moment: Aware.

    Returns:
        Facts by name, nested where there are several; None if nothing served then.
    """
    model = life.spec.name
    events = ledger.events(model)
    served = serving_at(events, moment)
    if served is None:
        return None
    told: dict[str, Any] = {
        "served": f"version {served.version}, since {served.at:%Y-%m-%d %H:%M:%S} UTC",
        "routed by": f"{served.actor}: {served.reason}",
    }
    decided = decided_at(events, served.version, moment)
    if decided is None:
        told["decided by"] = "nobody: it was deployed without a decision of the registry"
    else:
        told["decided by"] = (
            f"{decided.actor} on {decided.at:%Y-%m-%d %H:%M:%S} UTC ({decided.action})"
        )
        told["because"] = decided.reason.split("; ")
        if decided.override:
            told["overruled"] = list(decided.overruled)
    told |= _version_facts(ledger, model, served.version)
    evaluated = newest(ledger.evaluations(model), served.version)
    if evaluated:
        told["gates"] = {
            one.verdict.gate: f"{'pass' if one.verdict.passed else 'FAIL'}: {one.verdict.sentence}"
            for one in evaluated[1]
        }
    return told


def _version_facts(ledger: Ledger, model: str, number: str) -> dict[str, Any]:
    row = ledger.story(model, number)
    if row is None:
        return {"trained": "unknown: the registry does not remember this version"}
    story = row["story"]
    return {
        "trained": f"{row['at']:%Y-%m-%d %H:%M:%S} UTC, as of {row['as_of']}, in "
        f"{row['wall_seconds']:.0f} s ({row['cpu_seconds']:.0f} CPU s)",
        "asked for by": f"{story['actor']}: {story['reason']}",
        "data": {
            table: f"snapshot {snapshot}" for table, snapshot in story["input_snapshots"].items()
        },
        "data tag": story["training_tag"],
        "features": story["feature_service"],
        "trainer": story["trainer"],
        "seed": story["seed"],
        "code": f"commit {row['git_commit']}",
        "environment": f"sha256 {row['environment']}",
        "hardware": story["hardware"],
        "onnx": f"sha256 {row['onnx_sha256']}",
        "mlflow run": row["run_id"],
    }
