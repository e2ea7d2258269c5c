"""Feast: one definition of each feature view, offline on Iceberg and online in SQLite or Redis.

What the declarations become is written in `resources.feast_definition`; here they are applied, read
and written. A domain is a Feast project. What is online is read by the gateway's own reader.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from flywheel.features import FeatureView
from flywheel.model import ModelSpec
from resources.online_view import online_view

if TYPE_CHECKING:
    import feast
    import pyarrow as pa
    from feast.repo_config import RepoConfig

    from flywheel_serving.features import Row
    from flywheel_serving.online_store import BlockingReader, KeyedView

# Rows of one read and one write: a transaction of this size holds up no reader for long.
BATCH = 1000


@dataclass(frozen=True)
class Materialized:
    """What bringing a view online came to.

    Attributes:
        considered: Entities with a row offline.
        written: Rows that were new or differed.
        offline: Newest event offline; None without rows.
        online: Newest event online, afterwards.
    """

    considered: int
    written: int
    offline: datetime | None
    online: datetime | None


class FeatureStore(dg.ConfigurableResource):
    """Feast over the lakehouse.

    Attributes:
        registry: SQLAlchemy address of Feast's registry.
        online_store: Path of a SQLite file, or `redis://[[user]:password@]host[:port][/db]`.
        catalog_uri: Iceberg catalog of the feature views' tables.
        warehouse: Its warehouse.
    """

    registry: str
    online_store: str
    catalog_uri: str
    warehouse: str

    def store(self, domain: str) -> feast.FeatureStore:
        """The Feast store of a domain (one per process)."""
        return _store(self._config(domain))

    def apply(
        self, domain: str, views: Sequence[FeatureView], specs: Sequence[ModelSpec] = ()
    ) -> feast.FeatureStore:
        """Bring the registry and the online tables in line with the declarations.

        Args:
            domain: Feast project.
            views: Its feature views, or some of them: others are left as they are.
            specs: Models whose feature services are wanted, too; their views must be among `views`.
        """
        from resources.feast_definition import Lake, compile_domain

        store = self.store(domain)
        lake = Lake(self.catalog_uri, self.warehouse)
        with warnings.catch_warnings():
            # Feast calls them experimental because of offline retrieval, which is not theirs here.
            warnings.filterwarnings("ignore", message="On demand feature view")
            store.apply(compile_domain(domain, views, specs, lake))
        return store

    def historical(
        self,
        domain: str,
        views: Sequence[FeatureView],
        spine: pa.Table,
        snapshots: Mapping[str, int] | None = None,
    ) -> pa.Table:
        """Every feature of the views as it was known at each row's `event_timestamp`.

        Args:
            domain: Namespace of the views' tables.
            views: What to join.
            spine: Join keys and `event_timestamp` (UTC), and any other columns.
            snapshots: State of each view's table to read, by `namespace.table`; what is current
                where none is given.

        Returns:
            The spine with columns `<view>__<feature>` and `<view>__event_timestamp`.
        """
        import pandas as pd

        from resources.offline_store import pinned

        store = self.apply(domain, views)
        references = [f"{v.name}:{name}" for v in views for name in v.feature_names]
        with pinned(snapshots or {}):
            return store.get_historical_features(
                # Arrow's own types, or a null among whole numbers would make them all floats.
                entity_df=spine.to_pandas(types_mapper=pd.ArrowDtype),
                features=references,
                full_feature_names=True,
                filter_by_created_timestamp=True,
            ).to_arrow()

    def materialize(
        self, domain: str, view: FeatureView, start: datetime, end: datetime
    ) -> Materialized:
        """Put the newest row of each entity, with its event in [start, end], online.

        Only rows that are new or differ from what is online are written, so it may be run again at
        any time, and repairs what was lost or damaged in value. A newer row that is online stays.

        Args:
            domain: Feast project; its views must have been applied.
            view: The view.
            start: First event time.
            end: Last event time.
        """
        rows = self._newest_offline(domain, view, start, end)
        written = 0
        online: list[float] = []
        for batch in _batches(rows):
            known = self._online(domain, view, batch)
            wanted = [
                row for row, old in zip(batch, known, strict=True) if self._replaces(view, row, old)
            ]
            self._write(domain, view, wanted)
            written += len(wanted)
            online += [old.event_timestamp for old in known if old is not None]
            online += [row["event_timestamp"].timestamp() for row in wanted]
        return Materialized(
            considered=len(rows),
            written=written,
            offline=max((row["event_timestamp"] for row in rows), default=None),
            online=datetime.fromtimestamp(max(online), UTC) if online else None,
        )

    def push(self, domain: str, view: FeatureView, rows: Sequence[dict[str, Any]]) -> int:
        """Write feature rows to the online store; the newest of an entity stays.

        A row older than what is online is left out. Of rows with the same event time the one that
        was created last counts, and it replaces what is online. SQLite keeps whole seconds only:
        within one second the last push stays.

        Args:
            domain: Feast project; its views must have been applied.
            view: Whose rows they are.
            rows: Join keys, features, `event_timestamp` and `created_timestamp` (aware).

        Returns:
            How many rows were written.
        """
        if not rows:
            return 0
        written = 0
        for batch in _batches(_newest(view, rows)):
            known = self._online(domain, view, batch)
            wanted = [
                row
                for row, old in zip(batch, known, strict=True)
                if old is None or self._instant(row) >= old.event_timestamp
            ]
            self._write(domain, view, wanted)
            written += len(wanted)
        return written

    def _config(self, domain: str) -> StoreConfig:
        return StoreConfig(
            domain, self.registry, self.online_store, self.catalog_uri, self.warehouse
        )

    def _newest_offline(
        self, domain: str, view: FeatureView, start: datetime, end: datetime
    ) -> list[dict[str, Any]]:
        from resources.offline_store import IcebergOfflineStore

        store = self.store(domain)
        source = _feast_view(view.name, store).batch_source
        assert source is not None
        job = IcebergOfflineStore.pull_latest_from_table_or_query(
            store.config,
            source,
            view.key_names,
            view.feature_names,
            source.timestamp_field,
            source.created_timestamp_column,
            start,
            end,
        )
        return job.to_arrow().to_pylist()

    def _online(
        self, domain: str, view: FeatureView, rows: Sequence[dict[str, Any]]
    ) -> list[Row | None]:
        """What is online for the rows' entities."""
        keyed = _keyed(view)
        lookups = [keyed.lookup([row[key] for key in view.key_names]) for row in rows]
        if None in lookups:
            raise ValueError(f"{view.name}: a row has no {' or '.join(view.key_names)}")
        return _reader(self.online_store).read(domain, [one for one in lookups if one is not None])

    def _replaces(self, view: FeatureView, row: dict[str, Any], old: Row | None) -> bool:
        """Whether a row is new, newer, or differs from the one online with its event time."""
        if old is None:
            return True
        instant = self._instant(row)
        if instant != old.event_timestamp:
            return instant > old.event_timestamp
        return any(not _same(row[name], old.values.get(name)) for name in view.feature_names)

    def _instant(self, row: dict[str, Any]) -> float:
        """Event time of a row in seconds, as exact as the online store keeps it."""
        from flywheel_serving.online_store import is_redis

        seconds: float = row["event_timestamp"].timestamp()
        return seconds if is_redis(self.online_store) else math.floor(seconds)

    def _write(self, domain: str, view: FeatureView, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            online, config = _writer(self._config(domain))
            compiled = _feast_view(view.name, self.store(domain))
            online.online_write_batch(config, compiled, list(_protos(view, rows)), None)


@dataclass(frozen=True)
class StoreConfig:
    """All that a Feast store is made from; see `FeatureStore`."""

    domain: str
    registry: str
    online_store: str
    catalog_uri: str
    warehouse: str

    def feast(self, **online_options: Any) -> RepoConfig:
        """As Feast wants it, with further options of the online store."""
        from feast.repo_config import RepoConfig

        return RepoConfig(
            project=self.domain,
            provider="local",
            entity_key_serialization_version=3,
            registry={"registry_type": "sql", "path": self.registry, "cache_ttl_seconds": 60},
            offline_store={
                "type": "resources.offline_store.IcebergOfflineStore",
                "catalog_uri": self.catalog_uri,
                "warehouse": self.warehouse,
            },
            online_store=_online_config(self.online_store) | online_options,
            coerce_tz_aware=False,  # a time without a zone is refused, not taken for UTC
        )


@lru_cache(maxsize=8)
def _store(config: StoreConfig) -> feast.FeatureStore:
    import feast

    return feast.FeatureStore(config=config.feast())


def _online_config(address: str) -> dict[str, Any]:
    """Feast's configuration of the online store."""
    from flywheel_serving.online_store import is_redis

    if not is_redis(address):
        Path(address).parent.mkdir(parents=True, exist_ok=True)
        return {"type": "sqlite", "path": address}
    from flywheel_serving.resp import parse_address

    redis = parse_address(address)
    options: dict[str, Any] = {"db": redis.db, "ssl": redis.tls}
    # Feast reads each value as JSON: a password of digits would become a number.
    if redis.username:
        options["username"] = redis.username
    if redis.password:
        options["password"] = redis.password
    if any("," in str(value) for value in options.values()):
        raise ValueError("Feast cannot take a Redis user or password with a comma; choose another")
    given = [f"{name}={json.dumps(value)}" for name, value in options.items()]
    return {
        "type": "redis",
        "connection_string": ",".join([f"{redis.host}:{redis.port}", *given]),
    }


@lru_cache(maxsize=8)
def _writer(config: StoreConfig) -> tuple[Any, RepoConfig]:
    """Feast's online store, and the configuration to write to it with.

    Feast's public write wants a frame and takes milliseconds a row; this is the interface behind
    it, which every online store implements.
    """
    from feast.infra.online_stores.helpers import get_online_store_from_config

    from flywheel_serving.online_store import is_redis

    if is_redis(config.online_store):
        # The rows were compared with what is online. Feast would do so again, and would refuse to
        # repair a row whose event time stayed the same.
        trusting = config.feast(skip_dedup=True)
        return get_online_store_from_config(trusting.online_store), trusting
    plain = config.feast()
    online: Any = get_online_store_from_config(plain.online_store)
    # Private, because the settings belong to the connection and Feast offers no way to it. Readers
    # (the gateway) and the writer must not wait for one another. A commit need not reach the disk:
    # whatever a power cut takes, materialization writes again.
    connection = online._get_conn(plain)  # noqa: SLF001
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return online, plain


@lru_cache(maxsize=64)
def _feast_view(name: str, store: feast.FeatureStore) -> feast.FeatureView:
    return store.get_feature_view(name)


@lru_cache(maxsize=64)
def _keyed(view: FeatureView) -> KeyedView:
    from flywheel_serving.online_store import KeyedView

    return KeyedView(online_view(view))


@lru_cache(maxsize=8)
def _reader(online_store: str) -> BlockingReader:
    from flywheel_serving.online_store import BlockingReader

    return BlockingReader(online_store, timeout=5.0)


def _batches(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    """The rows, `BATCH` at a time."""
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]


def _newest(view: FeatureView, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The row of each entity that happened, and then was created, last."""
    newest: dict[tuple[Any, ...], tuple[tuple[datetime, datetime], dict[str, Any]]] = {}
    for row in rows:
        key = tuple([row[name] for name in view.key_names])
        moment = (row["event_timestamp"], row["created_timestamp"])
        if key not in newest or moment >= newest[key][0]:
            newest[key] = (moment, row)
    return [row for _, row in newest.values()]


def _same(value: Any, stored: Any) -> bool:
    """Whether two values are equal, not a number to itself, too."""
    return value == stored or (value != value and stored != stored)


def _protos(view: FeatureView, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
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
