"""Champion and deployment: who is to serve, and who serves."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import msgspec

from assets.lifecycle.evaluation import EvaluationError, origin, verdict_table
from assets.lifecycle.histories import entered
from assets.lifecycle.names import Lifecycle
from flywheel.evidence import StoredVerdict, verdicts_of
from flywheel.history import Decision, rejected, traffic
from flywheel_serving.client import Deployed
from resources.lakehouse import Lakehouse
from resources.ledger import Evaluation, Ledger
from resources.registry import Registry, Version
from resources.serving import Serving


def champion(life: Lifecycle) -> dg.AssetsDefinition:
    """The asset that crowns the newest candidate that passes every gate, or yields nothing."""
    spec = life.spec

    @dg.multi_asset(
        name=f"{life.domain}__{spec.name}_champion",
        specs=[
            dg.AssetSpec(
                life.key("champion"),
                deps=[
                    dg.AssetDep(life.key("evaluation"), partition_mapping=dg.AllPartitionMapping())
                ],
                skippable=True,
                **life.facts(
                    "The version that is to serve. A candidate that does not pass leaves it as it "
                    "is, the run stays green, and the reason is in `lifecycle.deployments`.",
                    "mlflow",
                ),
            )
        ],
        pool="promotion",
    )
    def compute(
        context: dg.AssetExecutionContext, lakehouse: Lakehouse, registry: Registry
    ) -> Iterator[dg.MaterializeResult[Any]]:
        ledger = Ledger(lakehouse, registry)
        evaluated, stored = newest_evaluation(life, ledger)
        verdicts = verdicts_of(spec.gates, stored, origin(life, evaluated).command)
        for verdict in verdicts:
            context.log.info(f"{verdict.gate}: {verdict.sentence}")
        current = ledger.champion(spec.name)
        candidate = evaluated.candidate
        barred = rejected(ledger.events(spec.name)).get(candidate)
        if current and current.number == candidate:
            context.log.info(f"version {candidate} is the champion already")
        elif current and current.tags.get("as_of", "") >= evaluated.as_of.isoformat():
            context.log.info(
                f"the champion was made on {current.tags['as_of']}: a candidate of "
                f"{evaluated.as_of} is older"
            )
            return
        elif barred:
            context.log.info(
                f"version {candidate} was {barred.action} by {barred.actor} ({barred.reason}): "
                "only a person may promote it"
            )
            return
        elif (current.number if current else None) != evaluated.champion:
            raise EvaluationError(
                f"version {candidate} was compared with champion {evaluated.champion}, but "
                f"{current.number if current else 'nobody'} is champion now. Compare again: "
                f"{origin(life, evaluated).command}"
            )
        else:
            failed = [v.sentence for v in verdicts if not v.passed]
            ledger.decide(
                spec.name,
                Decision(
                    "kept_out" if failed else "promoted",
                    candidate,
                    actor=context.run.tags.get("flywheel/actor", "gates"),
                    reason="; ".join(failed) or f"passes all {len(verdicts)} gates",
                    expected=evaluated.champion,
                    evaluation_id=evaluated.evaluation_id,
                ),
            )
            for event in entered("deployments"):
                context.log_event(event)
            if failed:
                context.log.info(f"version {candidate} is not crowned; the champion stays")
                return
        yield crowned(life, evaluated, stored)

    return compute


def crowned(
    life: Lifecycle, evaluated: Evaluation, stored: list[StoredVerdict]
) -> dg.MaterializeResult[Any]:
    """What a materialization of the champion asset says."""
    return dg.MaterializeResult(
        asset_key=life.key("champion"),
        data_version=dg.DataVersion(f"{life.spec.name}-v{evaluated.candidate}"),
        metadata={
            "model_version": int(evaluated.candidate),
            "as_of": evaluated.as_of.isoformat(),
            "replaced": evaluated.champion or "nobody",
            "evaluation_id": evaluated.evaluation_id,
            "verdict": dg.MetadataValue.md(verdict_table(stored)),
        },
    )


def deployment(life: Lifecycle) -> dg.AssetsDefinition:
    """The asset that makes serving agree with the registry."""
    spec = life.spec

    @dg.asset(
        key=life.key("deployment"),
        deps=[life.key("champion")],
        retry_policy=dg.RetryPolicy(max_retries=3, delay=5, backoff=dg.Backoff.EXPONENTIAL),
        pool="promotion",
        **life.facts(
            "The champion behind Triton: loaded, warmed and probed before it gets traffic; the "
            "version before it stays loaded.",
            "triton",
        ),
    )
    def compute(
        context: dg.AssetExecutionContext,
        lakehouse: Lakehouse,
        registry: Registry,
        serving: Serving,
    ) -> dg.MaterializeResult[Any]:
        ledger = Ledger(lakehouse, registry)
        version = ledger.champion(spec.name)
        if version is None:
            raise EvaluationError(
                f"{spec.name} has no champion: materialize {life.key('champion').to_user_string()}"
            )
        tags = context.run.tags
        deployed = deploy(
            ledger,
            serving,
            version,
            actor=tags.get("flywheel/actor", "dagster"),
            reason=tags.get("flywheel/reason", f"run {context.run.run_id}"),
        )
        for event in entered("deployments"):
            context.log_event(event)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(f"{spec.name}-v{deployed.version}"),
            metadata={
                "model_version": int(deployed.version),
                "previous": deployed.previous or "none",
                "changed": deployed.changed,
                "load_seconds": deployed.load_seconds,
                "probe_max_abs_diff": deployed.probe_max_abs_diff,
                "endpoint": dg.MetadataValue.url(f"{serving.url}/v1/models/{spec.name}/predict"),
            },
        )

    return compute


def deploy(ledger: Ledger, serving: Serving, version: Version, actor: str, reason: str) -> Deployed:
    """Bring a version behind the gateway, and what the gateway did into the history."""
    deployed = serving.client.deploy(
        ledger.registry.bundle(version), actor=actor, reason=reason, model=version.model
    )
    follow_traffic(ledger, serving, version.model)
    return deployed


def follow_traffic(ledger: Ledger, serving: Serving, model: str) -> int:
    """Enter what the gateway has done with a model's traffic since it was last asked."""
    served = {one.name: one for one in serving.client.models()}.get(model)
    changes = [msgspec.structs.asdict(change) for change in served.history] if served else []
    return ledger.follow_traffic(traffic(model, changes))


def newest_evaluation(life: Lifecycle, ledger: Ledger) -> tuple[Evaluation, list[StoredVerdict]]:
    """The last evaluation of the newest morning, with its verdicts.

    Raises:
        EvaluationError: There is none.
    """
    found = ledger.evaluations(life.spec.name)
    if not found:
        raise EvaluationError(
            f"{life.spec.name} was never evaluated: materialize "
            f"{life.key('evaluation').to_user_string()} first"
        )
    return found[-1]
