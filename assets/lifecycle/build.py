"""All lifecycle assets of all domains."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from assets.discovery import Domain
from assets.lifecycle import evaluation, monitoring, release, training
from assets.lifecycle.backtest import backtest
from assets.lifecycle.maintenance import maintenance
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.online import online_features
from assets.lifecycle.sweep import sweep

STEPS = (
    training.training_set,
    training.model,
    evaluation.evaluation,
    release.champion,
    release.deployment,
    monitoring.predictions,
    monitoring.drift,
    monitoring.performance,
)


def lifecycle_assets(domains: Iterable[Domain]) -> list[dg.AssetsDefinition]:
    """Online features and upkeep of each domain, the life of each model, a backtest of them all."""
    built = []
    lives = []
    for domain in domains:
        if domain.models:
            built += [online_features(domain), maintenance(domain)]
        for spec in domain.models:
            life = Lifecycle(domain.name, spec)
            built += [step(life) for step in ((*STEPS, sweep) if spec.sweep else STEPS)]
            lives.append(life)
    if lives:
        built.append(backtest(lives))
    return built
