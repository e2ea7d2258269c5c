"""What a person decides about versions: promote, reject, roll back. The gates' way is `release`."""

from __future__ import annotations

from typing import Any

import dagster as dg

from assets.lifecycle.evaluation import origin, verdict_table
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.release import follow_traffic
from flywheel.evidence import StaleVerdictError, StoredVerdict, verdicts_of
from flywheel.history import Decision, Event
from flywheel_serving.client import Deployed
from resources.ledger import Evaluation, Ledger, newest
from resources.serving import Serving


class PromotionRefusedError(ValueError):
    """Gates said no, and nobody overruled them; the message has their sentences."""


def promote(
    life: Lifecycle, ledger: Ledger, number: str, actor: str, reason: str, *, override: bool
) -> Event | None:
    """Make a version champion if the gates let it, or if they are overruled.

    Returns:
        The event; None if it is champion already.

    Raises:
        PromotionRefusedError: A gate said no, or was never asked, and is not overruled.
        DecisionError: Another version became champion since it was evaluated, or it was rejected.
        LookupError: There is no such version.
    """
    model = life.spec.name
    ledger.registry.version(model, number)
    evaluated = newest(ledger.evaluations(model), number)
    objections = _objections(life, evaluated)
    if objections and not override:
        raise PromotionRefusedError(
            f"version {number} of {model} is not promoted: {'; '.join(objections)}. If it is to "
            "serve all the same, say so with --override and a --reason; both are kept"
        )
    current = ledger.champion(model)
    seen = evaluated[0].champion if evaluated and not override else current and current.number
    return ledger.decide(
        model,
        Decision(
            "promoted",
            number,
            actor,
            reason,
            expected=seen or None,
            override=override,
            overruled=tuple(objections),
            evaluation_id=evaluated[0].evaluation_id if evaluated else None,
        ),
    )


def reject(life: Lifecycle, ledger: Ledger, number: str, actor: str, reason: str) -> Event | None:
    """Bar a version from being promoted by the gates; None if it is barred already.

    Raises:
        DecisionError: It is champion.
        LookupError: There is no such version.
    """
    champion = ledger.champion(life.spec.name)
    expected = champion.number if champion else None
    return ledger.decide(life.spec.name, Decision("rejected", number, actor, reason, expected))


def rolled_back(
    life: Lifecycle, ledger: Ledger, serving: Serving, done: Deployed, actor: str, reason: str
) -> Event | None:
    """Enter a rollback that the gateway has done already: traffic comes first, then the books.

    Raises:
        LookupError: The registry does not know the version that serves now.
    """
    champion = ledger.champion(life.spec.name)
    event = ledger.decide(
        life.spec.name,
        Decision(
            "rolled_back",
            done.version,
            actor,
            reason,
            expected=champion.number if champion else None,
        ),
    )
    follow_traffic(ledger, serving, life.spec.name)
    return event


def tell_dagster(
    life: Lifecycle, ledger: Ledger, event: Event, instance: dg.DagsterInstance
) -> None:
    """Show a person's decision as a materialization of the champion asset."""
    version = ledger.registry.version(life.spec.name, event.version)
    evaluated = newest(ledger.evaluations(life.spec.name), event.version)
    metadata: dict[str, Any] = {
        "model_version": int(event.version),
        "as_of": version.tags["as_of"],
        "replaced": event.previous or "nobody",
        "actor": event.actor,
        "reason": event.reason,
    }
    if evaluated:
        metadata["evaluation_id"] = evaluated[0].evaluation_id
        metadata["verdict"] = dg.MetadataValue.md(verdict_table(evaluated[1]))
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            life.key("champion"),
            metadata=metadata,
            tags={"dagster/data_version": f"{life.spec.name}-v{event.version}"},
        )
    )


def _objections(
    life: Lifecycle, evaluated: tuple[Evaluation, list[StoredVerdict]] | None
) -> list[str]:
    """Why the gates do not let a version pass."""
    if evaluated is None:
        return [
            "it was never evaluated (materialize "
            f"{life.key('evaluation').to_user_string()} of its morning)"
        ]
    try:
        verdicts = verdicts_of(life.spec.gates, evaluated[1], origin(life, evaluated[0]).command)
    except StaleVerdictError as error:
        return [str(error)]
    return [verdict.sentence for verdict in verdicts if not verdict.passed]
