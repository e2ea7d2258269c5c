"""The online store: the newest row of every feature view, where the gateway reads it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import dagster as dg

from assets.discovery import Domain
from flywheel.features import FeatureView
from resources.feature_store import FeatureStore, Materialized
from resources.lakehouse import Lakehouse

FRESHNESS_CHECK = "freshness"


def views_of(domain: Domain) -> dict[str, FeatureView]:
    """The feature views that a domain's models read, by name."""
    return {view.name: view for spec in domain.models for view in spec.views}


def online_features(domain: Domain) -> dg.AssetsDefinition:
    """The asset that brings the online store up to the newest rows of a domain's feature views.

    It has no partitions: whatever days are computed again, online is what is newest.
    """
    views = views_of(domain)
    key = dg.AssetKey([domain.name, "online_features"])

    @dg.asset(
        key=key,
        deps=[
            dg.AssetDep(
                dg.AssetKey([domain.name, name]), partition_mapping=dg.AllPartitionMapping()
            )
            for name in views
        ],
        group_name=domain.name,
        description="The newest row of every entity in Feast's online store, and the domain's "
        "feature services in its registry. Rows older than their view's time to live are left out: "
        "nobody may use them. Only what differs is written, so it may run at any time.",
        owners=[domain.models[0].owner],
        kinds={"feast", "sqlite", "redis"},
        tags={"flywheel/layer": "features"},
        pool="online_store",
        check_specs=[
            dg.AssetCheckSpec(
                FRESHNESS_CHECK,
                asset=key,
                description="The newest row of each view, offline and online, lies no further "
                "behind the newest case than the view declares.",
            )
        ],
    )
    def compute(lakehouse: Lakehouse, feature_store: FeatureStore) -> dg.MaterializeResult:
        feature_store.apply(domain.name, list(views.values()), domain.models)
        done = {}
        for name, view in views.items():
            newest = lakehouse.newest(f"{domain.name}.{name}", "event_timestamp")
            if newest is None:
                done[name] = Materialized(considered=0, written=0, offline=None, online=None)
            else:
                done[name] = feature_store.materialize(domain.name, view, newest - view.ttl, newest)
        return dg.MaterializeResult(
            metadata={
                f"{name}/{fact}": value
                for name, one in done.items()
                for fact, value in (
                    ("newest_event", _time(one.offline)),
                    ("considered", one.considered),
                    ("written", one.written),
                )
            },
            check_results=[freshness(views, done, _newest_case(domain, lakehouse))],
        )

    return compute


def freshness(
    views: Mapping[str, FeatureView],
    done: Mapping[str, Materialized],
    newest_case: datetime | None,
) -> dg.AssetCheckResult:
    """Whether each view keeps the freshness it declares; time is data time.

    Args:
        views: By name.
        done: What was brought online of each.
        newest_case: Moment of the newest case that was ingested; None without cases.
    """
    stale = {}
    for name, view in views.items():
        if view.freshness is None or newest_case is None:
            continue
        for place, event in (("offline", done[name].offline), ("online", done[name].online)):
            if event is None:
                stale[f"{name}/{place}"] = "no row"
            elif newest_case - event > view.freshness:
                stale[f"{name}/{place}"] = (
                    f"{newest_case - event} behind, {view.freshness} is allowed"
                )
    return dg.AssetCheckResult(
        check_name=FRESHNESS_CHECK,
        passed=not stale,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "newest_case": _time(newest_case),
            "watched": sorted(name for name, view in views.items() if view.freshness),
            **stale,
        },
    )


def _newest_case(domain: Domain, lakehouse: Lakehouse) -> datetime | None:
    """Moment of the newest case of any of the domain's models."""
    spines = {(spec.spine.dataset.name, spec.spine.event_timestamp) for spec in domain.models}
    newest = [lakehouse.newest(f"{domain.name}.{table}", column) for table, column in spines]
    return max((moment for moment in newest if moment is not None), default=None)


def _time(moment: datetime | None) -> Any:
    return dg.MetadataValue.timestamp(moment) if moment else "no row yet"
