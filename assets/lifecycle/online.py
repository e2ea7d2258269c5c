"""The online store: the newest row of every feature view, where the gateway reads it."""

from typing import Any

import dagster as dg

from assets.discovery import Domain
from flywheel.features import FeatureView
from resources.feature_store import FeatureStore
from resources.lakehouse import Lakehouse


def views_of(domain: Domain) -> dict[str, FeatureView]:
    """The feature views that a domain's models read, by name."""
    return {view.name: view for spec in domain.models for view in spec.views}


def online_features(domain: Domain) -> dg.AssetsDefinition:
    """The asset that brings the online store up to the newest rows of a domain's feature views.

    It has no partitions: whatever days are computed again, online is what is newest.
    """
    views = views_of(domain)

    @dg.asset(
        key=dg.AssetKey([domain.name, "online_features"]),
        deps=[
            dg.AssetDep(
                dg.AssetKey([domain.name, name]), partition_mapping=dg.AllPartitionMapping()
            )
            for name in views
        ],
        group_name=domain.name,
        description="The newest row of every entity in Feast's online store. Rows older than their "
        "view's time to live are left out: nobody may use them.",
        owners=[domain.models[0].owner],
        kinds={"feast", "sqlite"},
        tags={"flywheel/layer": "features"},
        pool="online_store",
    )
    def compute(lakehouse: Lakehouse, feature_store: FeatureStore) -> dg.MaterializeResult[Any]:
        newest = {
            name: lakehouse.newest(f"{domain.name}.{name}", "event_timestamp") for name in views
        }
        for name, event in newest.items():
            if event is not None:
                view = views[name]
                feature_store.materialize(domain.name, [view], event - view.ttl, event)
        return dg.MaterializeResult(
            metadata={
                name: dg.MetadataValue.timestamp(event) if event else "no row yet"
                for name, event in newest.items()
            }
        )

    return compute
