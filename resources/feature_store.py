"""Feast: one definition of each feature view, offline on Iceberg and online in SQLite or Redis.

The declarations (`flywheel.features.FeatureView`) are compiled to Feast objects here. A domain is a
Feast project.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from flywheel.dataset import DType
from flywheel.features import FeatureView, distinct_keys

if TYPE_CHECKING:
    import feast
    import pyarrow as pa


class FeatureStore(dg.ConfigurableResource):
    """Feast over the lakehouse."""

    registry: str
    online_store: str
    catalog_uri: str
    warehouse: str

    def store(self, domain: str) -> feast.FeatureStore:
        """The Feast store of a domain (one per process)."""
        return _store(domain, self.registry, self.online_store, self.catalog_uri, self.warehouse)

    def apply(self, domain: str, views: Sequence[FeatureView]) -> feast.FeatureStore:
        """Bring the registry and the online tables in line with the declarations."""
        import feast

        store = self.store(domain)
        entities = {
            name: feast.Entity(name=name, join_keys=[name], value_type=_value_type(column.dtype))
            for name, column in distinct_keys(views).items()
        }
        store.apply([*entities.values(), *(self._compile(domain, v, entities) for v in views)])
        return store

    def historical(self, domain: str, views: Sequence[FeatureView], spine: pa.Table) -> pa.Table:
        """Every feature of the views as it was known at each row's `event_timestamp`.

        Args:
            domain: Namespace of the views' tables.
            views: What to join.
            spine: Join keys and `event_timestamp` (UTC), and any other columns.

        Returns:
            The spine with columns `<view>__<feature>` and `<view>__event_timestamp`.
        """
        import pandas as pd

        store = self.apply(domain, views)
        references = [f"{v.name}:{name}" for v in views for name in v.feature_names]
        return store.get_historical_features(
            # Arrow's own types, or a null among whole numbers would make them all floats.
            entity_df=spine.to_pandas(types_mapper=pd.ArrowDtype),
            features=references,
            full_feature_names=True,
            filter_by_created_timestamp=True,
        ).to_arrow()

    def materialize(
        self, domain: str, views: Sequence[FeatureView], start: datetime, end: datetime
    ) -> None:
        """Put the newest row of each entity, with its event in [start, end], online."""
        store = self.apply(domain, views)
        with redirect_stdout(io.StringIO()):  # Feast prints; the asset reports
            store.materialize(start, end, feature_views=[v.name for v in views])

    def push(self, domain: str, view: FeatureView, rows: Sequence[dict[str, Any]]) -> None:
        """Write feature rows to the online store, in order: the last of an entity stays.

        Args:
            domain: Feast project.
            view: Whose rows they are.
            rows: Join keys, features, `event_timestamp` and `created_timestamp` (aware).
        """
        if not rows:
            return
        store = self.store(domain)
        store._get_provider().online_write_batch(  # noqa: SLF001 - the public write wants a frame
            store.config,
            _feast_view(view.name, store),
            list(_protos(view, rows)),
            None,
        )

    def _compile(
        self, domain: str, view: FeatureView, entities: dict[str, feast.Entity]
    ) -> feast.FeatureView:
        import feast
        from feast.infra.data_sources.contrib.iceberg_catalog import IcebergSource

        return feast.FeatureView(
            name=view.name,
            entities=[entities[name] for name in view.key_names],
            schema=[
                feast.Field(name=c.name, dtype=_feast_type(c.dtype), description=c.description)
                for c in (*view.join_keys, *view.features)
            ],
            source=IcebergSource(
                name=f"{domain}.{view.name}",
                catalog_type="sql",
                catalog_name="flywheel",  # a SQL catalog keeps its tables by its own name
                endpoint=self.catalog_uri,
                warehouse=self.warehouse,
                namespace=domain,
                table=view.name,
                timestamp_field="event_timestamp",
                created_timestamp_column="created_timestamp",
            ),
            ttl=view.ttl,
            online=True,
            description=view.description,
            owner=view.owner,
            tags={"domain": domain},
        )


@lru_cache(maxsize=8)
def _store(
    domain: str, registry: str, online_store: str, catalog_uri: str, warehouse: str
) -> feast.FeatureStore:
    import feast
    from feast.repo_config import RepoConfig

    Path(online_store).parent.mkdir(parents=True, exist_ok=True)
    store = feast.FeatureStore(
        config=RepoConfig(
            project=domain,
            provider="local",
            entity_key_serialization_version=3,
            coerce_tz_aware=False,  # a moment without a time zone is refused, not taken for UTC
            registry={"registry_type": "sql", "path": registry, "cache_ttl_seconds": 60},
            offline_store={
                "type": "resources.offline_store.IcebergOfflineStore",
                "catalog_uri": catalog_uri,
                "warehouse": warehouse,
            },
            online_store={"type": "sqlite", "path": online_store},
        )
    )
    connection = store._get_provider().online_store._get_conn(store.config)  # noqa: SLF001
    # Readers (the gateway) and the writer must not wait for one another. A commit need not reach
    # the disk: whatever a power cut takes, materialization writes again.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return store


@lru_cache(maxsize=64)
def _feast_view(name: str, store: feast.FeatureStore) -> feast.FeatureView:
    return store.get_feature_view(name)


def _protos(view: FeatureView, rows: Iterable[dict[str, Any]]) -> Iterable[tuple[Any, ...]]:
    """Rows as Feast's online stores take them: key, values, event time, creation time."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    makers = {
        "string": lambda v: Value(string_val=v),
        "int64": lambda v: Value(int64_val=v),
        "float64": lambda v: Value(double_val=v),
        "bool": lambda v: Value(bool_val=v),
    }
    key_makers = [(c.name, makers[c.dtype]) for c in view.join_keys]
    value_makers = [(c.name, makers[c.dtype]) for c in view.features]
    for row in rows:
        key = EntityKey(
            join_keys=[name for name, _ in key_makers],
            entity_values=[make(row[name]) for name, make in key_makers],
        )
        values = {
            name: Value() if row[name] is None else make(row[name]) for name, make in value_makers
        }
        yield key, values, row["event_timestamp"], row["created_timestamp"]


def _feast_type(dtype: DType) -> Any:
    from feast import types

    return {
        "string": types.String,
        "int64": types.Int64,
        "float64": types.Float64,
        "bool": types.Bool,
    }[dtype]


def _value_type(dtype: DType) -> Any:
    from feast.value_type import ValueType

    return {"string": ValueType.STRING, "int64": ValueType.INT64}[dtype]
