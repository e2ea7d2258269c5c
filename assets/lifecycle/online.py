"""The online store: the newest row of every feature view, where the gateway reads it."""

from typing import Any

import dagster as dg

from assets.authoring import AssetContext, partitions_of
from assets.discovery import Domain
from flywheel.features import FeatureView
from resources.feature_store import FeatureStore


def views_of(domain: Domain) -> dict[str, FeatureView]:
    """The feature views that a domain's models read, by name."""
    return {view.name: view for spec in domain.models for view in spec.views}


def online_features(domain: Domain) -> dg.AssetsDefinition:
    """The asset that materializes a domain's feature views to the online store."""
    views = views_of(domain)
    spec = domain.models[0]

    @dg.asset(
        key=dg.AssetKey([domain.name, "online_features"]),
        partitions_def=partitions_of(spec.calendar),
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[dg.AssetKey([domain.name, name]) for name in views],
        group_name=domain.name,
        description="The newest row of every feature view in Feast's online store. Rows that are "
        "older than their view's time to live are left out: nobody may use them.",
        owners=[spec.owner],
        kinds={"feast", "sqlite"},
        tags={"flywheel/layer": "features"},
        pool="online_store",
    )
    def compute(
        context: dg.AssetExecutionContext, feature_store: FeatureStore
    ) -> dg.MaterializeResult[Any]:
        start, end = AssetContext(context).instants
        by_reach: dict[Any, list[FeatureView]] = {}
        for view in views.values():
            by_reach.setdefault(max(start, end - view.ttl), []).append(view)
        for since, reaching in by_reach.items():
            feature_store.materialize(domain.name, reaching, since, end)
        return dg.MaterializeResult(
            metadata={"views": len(views), "up_to": dg.MetadataValue.timestamp(end)}
        )

    return compute
