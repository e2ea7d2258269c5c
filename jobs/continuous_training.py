"""Continuous training: what is known, what has been tried, and the run that follows from it.

Schedule and sensor share this. The decision is `flywheel.triggers.decide`; the reason goes into the
run's tags, which are also how the next decision knows what has been tried.
"""

from datetime import date, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.lifecycle.monitoring import DRIFT_CHECK
from assets.lifecycle.names import Lifecycle
from flywheel.triggers import Decision, Evidence, decide

WEEKLY = "0 3 * * 1"


def training_request(
    life: Lifecycle, instance: dg.DagsterInstance, *, look_at_drift: bool
) -> dg.RunRequest | dg.SkipReason:
    """The training run that is due now, or why none is."""
    evidence = newest_evidence(life, instance, look_at_drift=look_at_drift)
    if evidence is None:
        return dg.SkipReason("nothing has been served and measured yet")
    decision = decide(
        evidence,
        trained_days(life, instance),
        retrain_every_days=None if look_at_drift else life.spec.retrain_every_days,
    )
    if not decision.train:
        return dg.SkipReason(decision.reason)
    as_of = evidence.as_of.isoformat()
    return dg.RunRequest(
        run_key=f"{life.spec.name}:{as_of}",
        partition_key=as_of,
        tags={**life.run_tags(as_of), **_reason(decision)},
    )


def newest_evidence(
    life: Lifecycle, instance: dg.DagsterInstance, *, look_at_drift: bool
) -> Evidence | None:
    """What the last measured day says; None before the first."""
    records = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(life.key("drift"), DRIFT_CHECK), limit=10
    )
    evaluations = [r.event.asset_check_evaluation for r in records if r.event]
    found = next((e for e in evaluations if e and e.metadata["day"].value != "None"), None)
    if found is None:
        return None
    day = date.fromisoformat(str(found.metadata["day"].value))
    verdict = str(found.metadata["verdict"].value)
    return Evidence(
        as_of=day + timedelta(days=1),
        drifted=verdict if look_at_drift and not found.passed else None,
        champion_as_of=_champion_day(life, instance),
    )


def trained_days(life: Lifecycle, instance: dg.DagsterInstance) -> set[date]:
    """Days for which a training run exists, whatever became of it."""
    runs = instance.get_runs(dg.RunsFilter(tags={"flywheel/model": life.spec.name}))
    return {
        date.fromisoformat(r.tags["flywheel/as_of"]) for r in runs if "flywheel/as_of" in r.tags
    }


def training_schedule(life: Lifecycle, job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """Train when the champion has grown old, whatever drift says."""

    @dg.schedule(
        name=f"{life.spec.name}_retraining",
        job=job,
        cron_schedule=WEEKLY,
        execution_timezone=life.spec.calendar.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Every Monday: train {life.spec.name} if its champion is older than "
        f"{life.spec.retrain_every_days} days of data.",
    )
    def evaluate(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        return training_request(life, context.instance, look_at_drift=False)

    return evaluate


def _champion_day(life: Lifecycle, instance: dg.DagsterInstance) -> date | None:
    event = instance.get_latest_materialization_event(life.key("champion"))
    if event is None or event.asset_materialization is None:
        return None
    return date.fromisoformat(str(event.asset_materialization.metadata["as_of"].value))


def _reason(decision: Decision) -> dict[str, str]:
    return {
        "flywheel/trigger": str(decision.cause),
        "flywheel/reason": decision.reason,
        "flywheel/actor": f"{decision.cause} trigger",
    }
