"""Feast's offline store over our Iceberg tables, with Flywheel's point-in-time join.

Feast reads it through its public interface, so `store.get_historical_features` and
`store.materialize` are the ordinary calls. Only rows and columns that can matter are read. What is
known when follows `flywheel.pit`: a row counts once both its event and its creation are past, which
Feast's own stores do only on request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.data_sources.contrib.iceberg_catalog import IcebergSource
from feast.infra.offline_stores.offline_store import (
    OfflineStore,
    RetrievalJob,
    RetrievalMetadata,
)
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from flywheel.pit import ABSENT, entity_codes, microseconds, point_in_time_join
from resources.lakehouse import Lakehouse

EVENT_TIMESTAMP = "event_timestamp"


class IcebergOfflineStoreConfig(FeastConfigBaseModel):
    """Where the lakehouse is."""

    type: Literal["resources.offline_store.IcebergOfflineStore"] = (
        "resources.offline_store.IcebergOfflineStore"
    )
    catalog_uri: str
    warehouse: str


class IcebergRetrievalJob(RetrievalJob):
    """A retrieval that runs when its result is asked for."""

    def __init__(
        self,
        compute: Callable[[], pa.Table],
        full_feature_names: bool = False,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._compute = compute
        self._full_feature_names = full_feature_names
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        """Whether columns are named `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """None: request-time features travel in the bundle."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What Feast notes about the retrieval."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._compute()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._compute().to_pandas()

    def persist(self, *args: Any, **kwargs: Any) -> None:
        """Not offered: training sets are assets, stored by the lakehouse."""
        raise NotImplementedError("materialize the model's training_set asset instead")


class IcebergOfflineStore(OfflineStore):
    """Point-in-time reads from Iceberg."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """Join each entity row with what was known at its `event_timestamp`.

        Beside the features the result carries `<view>__event_timestamp`: the event time of the row
        that answered, null where nothing did.
        """
        if not isinstance(entity_df, pd.DataFrame):
            raise TypeError("give the entity rows as a pandas frame with an event_timestamp column")

        def compute() -> pa.Table:
            spine = pa.Table.from_pandas(entity_df, preserve_index=False)
            lake = _lakehouse(config)
            for view in feature_views:
                name = view.projection.name_to_use()
                wanted = [
                    feature
                    for reference in feature_refs
                    for owner, _, feature in [reference.partition(":")]
                    if owner.partition("@")[0] == name
                ]
                spine = _join(lake, spine, view, name, wanted, full_feature_names)
            return spine

        keys = [c for c in entity_df.columns if c != EVENT_TIMESTAMP]
        times = entity_df[EVENT_TIMESTAMP]
        metadata = RetrievalMetadata(feature_refs, keys, times.min(), times.max())
        return IcebergRetrievalJob(compute, full_feature_names, metadata)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest row of each entity with its event in [start, end]."""
        columns = [*join_key_columns, *feature_name_columns, timestamp_field]
        if created_timestamp_column:
            columns.append(created_timestamp_column)

        def compute() -> pa.Table:
            rows = _read(_lakehouse(config), data_source, columns, start_date, end_date)
            key, _ = entity_codes(rows, rows.slice(0, 0), join_key_columns)
            event = microseconds(rows, timestamp_field)
            created = microseconds(rows, created_timestamp_column or timestamp_field)
            order = np.lexsort((created, event, key))
            newest = np.append(np.diff(key[order]) != 0, True)[: len(order)]
            return rows.take(order[newest])

        return IcebergRetrievalJob(compute)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """All rows with their event in [start, end]."""
        columns = [*join_key_columns, *feature_name_columns, timestamp_field]
        if created_timestamp_column:
            columns.append(created_timestamp_column)
        return IcebergRetrievalJob(
            lambda: _read(_lakehouse(config), data_source, columns, start_date, end_date)
        )


def _join(
    lake: Lakehouse,
    spine: pa.Table,
    view: FeatureView,
    name: str,
    wanted: Sequence[str],
    full_feature_names: bool,
) -> pa.Table:
    """The spine with the asked features of one view."""
    times = pa.compute.min_max(spine.column(EVENT_TIMESTAMP)).as_py()
    ttl = view.ttl if view.ttl and view.ttl > timedelta(0) else None
    source = view.batch_source
    event, created = source.timestamp_field, source.created_timestamp_column
    columns = list(dict.fromkeys([*view.join_keys, *wanted, event, created or event]))
    oldest = times["min"] - ttl if ttl and times["min"] else None
    rows = _read(lake, source, columns, oldest, times["max"])
    features = rows.select([*view.join_keys]).append_column(
        "event_timestamp", rows.column(event)
    ).append_column("created_timestamp", rows.column(created or event))  # fmt: skip
    position = point_in_time_join(
        spine, features, view.join_keys, ttl_seconds=ttl.total_seconds() if ttl else None
    )
    taken = rows.take(pa.array(position, mask=position == ABSENT))
    for feature in wanted:
        label = f"{name}__{feature}" if full_feature_names else feature
        spine = spine.append_column(label, taken.column(feature))
    return spine.append_column(f"{name}__{EVENT_TIMESTAMP}", taken.column(event))


def _read(
    lake: Lakehouse,
    source: DataSource | None,
    columns: Sequence[str],
    start: datetime | None,
    end: datetime | None,
) -> pa.Table:
    """Some columns of a source's table, events in [start, end]."""
    from pyiceberg.expressions import AlwaysTrue, And, GreaterThanOrEqual, LessThanOrEqual

    if not isinstance(source, IcebergSource):
        raise TypeError(f"{source} is not an IcebergSource")
    row_filter: Any = AlwaysTrue()
    if start is not None:
        row_filter = And(row_filter, GreaterThanOrEqual(source.timestamp_field, _iso(start)))
    if end is not None:
        row_filter = And(row_filter, LessThanOrEqual(source.timestamp_field, _iso(end)))
    table = lake.table(f"{source.namespace}.{source.iceberg_table}")
    return table.scan(row_filter=row_filter, selected_fields=tuple(columns)).to_arrow()


def _iso(instant: datetime) -> str:
    return pd.Timestamp(instant).tz_convert("UTC").isoformat()


def _lakehouse(config: RepoConfig) -> Lakehouse:
    offline = config.offline_store
    assert isinstance(offline, IcebergOfflineStoreConfig)
    return Lakehouse(catalog_uri=offline.catalog_uri, warehouse=offline.warehouse)
