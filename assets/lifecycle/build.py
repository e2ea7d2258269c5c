"""All lifecycle assets of all domains."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from assets.discovery import Domain
from assets.lifecycle import monitoring, release, training
from assets.lifecycle.maintenance import maintenance
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.online import online_features
from assets.lifecycle.sweep import sweep

STEPS = (
    training.training_set,
    training.model,
    release.evaluation,
    release.champion,
    release.deployment,
    monitoring.predictions,
    monitoring.drift,
    monitoring.performance,
)


def lifecycle_assets(domains: Iterable[Domain]) -> list[dg.AssetsDefinition]:
    """Online features and upkeep of each domain, and the life of each of its models."""
    built = []
    for domain in domains:
        if domain.models:
            built += [online_features(domain), maintenance(domain)]
        for spec in domain.models:
            steps = (*STEPS, sweep) if spec.sweep else STEPS
            built += [step(Lifecycle(domain.name, spec)) for step in steps]
    return built
