"""The histories of all models in the catalog: tables that other assets' runs add to."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from assets.catalog import column_schema
from assets.discovery import Domain
from assets.lifecycle.names import Lifecycle
from flywheel.dataset import Dataset
from flywheel.history import DEPLOYMENTS, EVALUATIONS, MODELS, TABLES, VERDICTS
from resources.ledger import NAMESPACE

WRITTEN_BY = {
    MODELS.name: ("model",),
    EVALUATIONS.name: ("evaluation",),
    VERDICTS.name: ("evaluation",),
    DEPLOYMENTS.name: ("champion", "deployment"),
}

TOLD = {
    MODELS.name: "Every version ever registered, with its whole story.",
    EVALUATIONS.name: "Every figure of every evaluation: overall, by slice, threshold and bin.",
    VERDICTS.name: "What every gate said in every evaluation, and why.",
    DEPLOYMENTS.name: "Every decision about who is champion, and every change of traffic.",
}


def history_specs(domains: Iterable[Domain]) -> list[dg.AssetSpec]:
    """The append-only tables; nothing computes them, runs of other assets add to them."""
    found = [domain for domain in domains if domain.models]
    lives = [Lifecycle(domain.name, spec) for domain in found for spec in domain.models]
    return [
        dg.AssetSpec(
            history_key(dataset),
            group_name=NAMESPACE,
            description=f"{TOLD[dataset.name]} Rows are added and never changed. "
            "`flywheel history` and `flywheel explain` read it.",
            owners=sorted({life.spec.owner for life in lives}),
            kinds={"iceberg"},
            tags={"flywheel/layer": "history"},
            metadata={"dagster/column_schema": column_schema(dataset)},
            deps=[life.key(step) for life in lives for step in WRITTEN_BY[dataset.name]],
        )
        for dataset in TABLES
        if lives
    ]


def history_key(dataset: Dataset) -> dg.AssetKey:
    """Key of a history."""
    return dg.AssetKey([NAMESPACE, dataset.name])


def entered(*names: str) -> list[dg.AssetMaterialization]:
    """Events that say that a run has added to histories."""
    return [
        dg.AssetMaterialization(
            dg.AssetKey([NAMESPACE, name]), metadata={"dagster/table_name": f"{NAMESPACE}.{name}"}
        )
        for name in names
    ]
