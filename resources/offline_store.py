"""Feast's offline store over our Iceberg tables, with Flywheel's point-in-time join.

Feast reads it through its public interface, so `store.get_historical_features` and
`store.materialize` are the ordinary calls. Only rows and columns that can matter are read, a few
files at a time in the order of their events (`flywheel.pit_stream`), so that memory does not grow
with history. What is known when follows `flywheel.pit`: a row counts once both its event and its
creation are past, which Feast's own stores do only on request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
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

from flywheel.pit import entity_codes, ticks, timestamps
from flywheel.pit_stream import PointInTimeStream, answers_in_order
from resources.event_scan import EventScan
from resources.lakehouse import Lakehouse
from resources.pins import pinned, pins

__all__ = ["IcebergOfflineStore", "IcebergOfflineStoreConfig", "IcebergRetrievalJob", "pinned"]

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
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
    ) -> None:
        self._compute = compute
        self._full_feature_names = full_feature_names
        self._metadata = metadata
        self._on_demand_feature_views = list(on_demand_feature_views)

    @property
    def full_feature_names(self) -> bool:
        """Whether columns are named `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """What Feast computes from the result, row by row, before it hands it out."""
        return self._on_demand_feature_views

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
        that answered, null where nothing did. Rows keep the order of `entity_df`.

        Raises:
            TypeError: `entity_df` is no pandas frame (SQL, or a range of dates).
            ValueError: `entity_df` has no `event_timestamp`, one without a time zone or with nulls,
                or a column called like a requested feature.
        """
        if not isinstance(entity_df, pd.DataFrame):
            raise TypeError(
                "give the entity rows as a pandas frame with an event_timestamp column: SQL and "
                "start_date/end_date do not say which entities are asked about, and when"
            )
        spine = pa.Table.from_pandas(entity_df, preserve_index=False)
        asked = _questions(spine)
        begun_with = pins()

        def compute() -> pa.Table:
            lake = _lakehouse(config)
            answers = spine
            with pinned({**begun_with, **pins()}):
                for view in feature_views:
                    known = _answers(lake, asked, view, feature_refs, full_feature_names)
                    answers = _beside(answers, known)
            return answers

        keys = [c for c in spine.column_names if c != EVENT_TIMESTAMP]
        times = pc.min_max(asked.column(EVENT_TIMESTAMP)).as_py()
        metadata = RetrievalMetadata(feature_refs, keys, times["min"], times["max"])
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        return IcebergRetrievalJob(compute, full_feature_names, metadata, on_demand)

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
        begun_with = pins()

        def compute() -> pa.Table:
            with pinned({**begun_with, **pins()}):
                rows = _scan(_lakehouse(config), data_source, columns, start_date, end_date).read()
            key, _ = entity_codes(rows, rows.slice(0, 0), join_key_columns)
            event = ticks(rows, timestamp_field)
            created = ticks(rows, created_timestamp_column or timestamp_field)
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
        begun_with = pins()

        def compute() -> pa.Table:
            with pinned({**begun_with, **pins()}):
                return _scan(_lakehouse(config), data_source, columns, start_date, end_date).read()

        return IcebergRetrievalJob(compute)


def _questions(spine: pa.Table) -> pa.Table:
    """The spine with its moments in microseconds, as in the tables, where that loses nothing.

    pandas hands over nanoseconds even where it was given microseconds.

    Raises:
        ValueError: The moments are missing, have no time zone, or some of them are null.
    """
    moments = timestamps(spine, EVENT_TIMESTAMP)
    if moments.null_count:
        raise ValueError(f"{EVENT_TIMESTAMP} holds {moments.null_count} nulls")
    with suppress(pa.ArrowInvalid):
        moments = moments.cast(pa.timestamp("us", tz="UTC"))
    return spine.set_column(spine.column_names.index(EVENT_TIMESTAMP), EVENT_TIMESTAMP, moments)


def _answers(
    lake: Lakehouse,
    asked: pa.Table,
    view: FeatureView,
    feature_refs: Sequence[str],
    full_feature_names: bool,
) -> pa.Table:
    """The asked features of one view and the time of the row they are from, in spine order."""
    name = view.projection.name_to_use()
    wanted = [
        feature
        for reference in feature_refs
        for owner, _, feature in [reference.partition(":")]
        if owner.partition("@")[0] == name
    ]
    source = view.batch_source
    times = source.timestamp_field, source.created_timestamp_column or source.timestamp_field
    ttl = view.ttl if view.ttl and view.ttl > timedelta(0) else None
    span = pc.min_max(asked.column(EVENT_TIMESTAMP)).as_py()
    scan = _scan(
        lake,
        source,
        list(dict.fromkeys([*view.join_keys, *wanted, *times])),
        span["min"] - ttl if ttl and span["min"] else None,
        span["max"],
    )
    stream = PointInTimeStream(
        asked,
        scan.schema,
        view.join_keys,
        columns=list(dict.fromkeys([*wanted, times[0]])),
        row_times=times,
        ttl_seconds=ttl.total_seconds() if ttl else None,
    )
    known = answers_in_order(stream, scan.chunks(_useful(asked, ttl)), asked.num_rows)
    labels = [f"{name}__{feature}" if full_feature_names else feature for feature in wanted]
    return pa.table(
        [known.column(feature) for feature in (*wanted, times[0])],
        names=[*labels, f"{name}__{EVENT_TIMESTAMP}"],
    )


def _beside(left: pa.Table, right: pa.Table) -> pa.Table:
    """The columns of both tables.

    Raises:
        ValueError: A column is in both.
    """
    if both := set(left.column_names) & set(right.column_names):
        raise ValueError(
            f"the entity rows or another view already have {sorted(both)}: rename the column, or "
            "ask for full_feature_names"
        )
    for name in right.column_names:
        left = left.append_column(name, right.column(name))
    return left


def _useful(asked: pa.Table, ttl: timedelta | None) -> Callable[[float, float], bool]:
    """Whether a row of an event between two moments (microseconds) can answer any question."""
    moments = np.sort(asked.column(EVENT_TIMESTAMP).cast(pa.int64()).to_numpy())
    if asked.schema.field(EVENT_TIMESTAMP).type.unit == "ns":
        moments = moments / 1_000
    age = np.inf if ttl is None else ttl / timedelta(microseconds=1)

    def useful(lower: float, upper: float) -> bool:
        first = np.searchsorted(moments, lower)
        return first < len(moments) and moments[first] <= upper + age

    return useful


def _scan(
    lake: Lakehouse,
    source: DataSource | None,
    columns: Sequence[str],
    start: datetime | None,
    end: datetime | None,
) -> EventScan:
    """Some columns of a source's table, events in [start, end]; of its pinned snapshot, if any."""
    if not isinstance(source, IcebergSource):
        raise TypeError(f"{source} is not an IcebergSource")
    name = f"{source.namespace}.{source.iceberg_table}"
    return EventScan(
        lake.table(name), columns, source.timestamp_field, start, end, pins().get(name)
    )


def _lakehouse(config: RepoConfig) -> Lakehouse:
    offline = config.offline_store
    assert isinstance(offline, IcebergOfflineStoreConfig)
    return Lakehouse(catalog_uri=offline.catalog_uri, warehouse=offline.warehouse)
