"""One subject of the benchmark `pit` in a process: `engine`, `feast`, `pandas` or `stock`.

Only the join is counted: imports, the registry and whatever the subject is handed ready-made in
memory are not. All of them are asked the same and must answer the same.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.measure import cost_of, report
from bench.pit_tables import DOMAIN, VIEWS, spine_file
from flywheel.pit import point_in_time_join
from flywheel.pit_stream import take_known
from flywheel.settings import Settings
from resources.build import default_resources

RESOURCES = default_resources(Settings())
SPINE = pq.read_table(spine_file(Settings()))
FEATURES = [(view, name) for view in VIEWS for name in view.feature_names]
REFERENCES = [f"{view.name}:{name}" for view, name in FEATURES]

Answer = Callable[[], pa.Table]


def engine() -> Answer:
    """The library alone, on tables in memory."""
    tables = {view.name: _rows(view.name) for view in VIEWS}

    def answer() -> pa.Table:
        joined = SPINE
        for view in VIEWS:
            rows = tables[view.name]
            ttl = view.ttl.total_seconds()
            at = point_in_time_join(SPINE, rows, view.key_names, ttl_seconds=ttl)
            known = take_known(rows.select(view.feature_names), at)
            for name in view.feature_names:
                joined = joined.append_column(f"{view.name}__{name}", known.column(name))
        return joined

    return answer


def feast() -> Answer:
    """Feast, with our offline store."""
    store = RESOURCES["feature_store"].apply(DOMAIN, VIEWS)
    frame = SPINE.to_pandas()
    return lambda: store.get_historical_features(
        entity_df=frame,
        features=REFERENCES,
        full_feature_names=True,
        filter_by_created_timestamp=True,
    ).to_arrow()


def stock() -> Answer:
    """Feast, with the offline store it brings for Iceberg."""
    import feast
    import feast.infra.offline_stores.duckdb
    from feast.repo_config import RepoConfig

    ours = RESOURCES["feature_store"].apply(DOMAIN, VIEWS)
    config = ours.config.model_dump(include={"project", "provider"})
    store = feast.FeatureStore(
        config=RepoConfig(
            **config,
            entity_key_serialization_version=3,
            registry={"registry_type": "sql", "path": RESOURCES["feature_store"].registry},
            offline_store={"type": "duckdb"},
            online_store={"type": "sqlite", "path": RESOURCES["feature_store"].online_store},
        )
    )
    frame = SPINE.to_pandas()
    # As it comes: without the filter by creation time, with which it holds 17 GB after four minutes
    # and has no answer yet. Here every row is created with its event, so the answers are the same.
    return lambda: store.get_historical_features(
        entity_df=frame, features=REFERENCES, full_feature_names=True
    ).to_arrow()


def pandas() -> Answer:
    """`merge_asof` on frames in memory; it knows no creation time (here that of the event)."""
    frames = {view.name: _rows(view.name).to_pandas() for view in VIEWS}
    spine = SPINE.to_pandas()

    def answer() -> pa.Table:
        joined = spine.sort_values("event_timestamp", kind="stable")
        for view in VIEWS:
            rows = frames[view.name].sort_values("event_timestamp", kind="stable")
            labels = {name: f"{view.name}__{name}" for name in view.feature_names}
            joined = pd.merge_asof(
                joined,
                rows.drop(columns="created_timestamp").rename(columns=labels),
                on="event_timestamp",
                by=view.key_names[0],
                tolerance=pd.Timedelta(view.ttl),
            )
        return pa.Table.from_pandas(joined, preserve_index=False)

    return answer


def _rows(name: str) -> pa.Table:
    return RESOURCES["lakehouse"].read(f"{DOMAIN}.{name}").combine_chunks()


def digest(answers: pa.Table) -> str:
    """sha256 of the features by flight, whatever order the rows come in; a null is a NaN."""
    content = hashlib.sha256()
    order = np.argsort(answers.column("flight_id").to_numpy(), kind="stable")
    for view, name in FEATURES:
        values = answers.column(f"{view.name}__{name}").to_numpy().astype(np.float64)[order]
        content.update(np.where(np.isnan(values), np.nan, values + 0.0).tobytes())
    return content.hexdigest()


def main() -> None:
    """Measure the subject that is named."""
    subject = {"engine": engine, "feast": feast, "pandas": pandas, "stock": stock}[sys.argv[1]]
    tables = [RESOURCES["lakehouse"].table(f"{DOMAIN}.{view.name}") for view in VIEWS]
    tables[-1].scan(limit=1).to_arrow()  # imports what reading Iceberg needs, for all alike
    answers, cost = cost_of(subject())
    sizes = {view.name: table.scan().count() for view, table in zip(VIEWS, tables, strict=True)}
    report(asdict(cost) | {"digest": digest(answers), "rows": answers.num_rows, "sizes": sizes})


if __name__ == "__main__":
    main()
