"""A view that lags behind the cases is named, wherever it lags; others are left alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from assets.discovery import Domain
from assets.flights.departures import DEPARTURES
from assets.flights.flight_delay import FLIGHT_DELAY
from assets.flights.origin_backlog import ORIGIN_BACKLOG
from assets.flights.origin_weather import ORIGIN_WEATHER
from assets.lifecycle.online import freshness, online_features
from resources.feature_store import FeatureStore, Materialized
from resources.lakehouse import Lakehouse

CASE = datetime(2013, 3, 1, 23, 59, tzinfo=UTC)
VIEWS = {
    "weather": replace(ORIGIN_WEATHER, name="weather", freshness=timedelta(hours=6)),
    "unwatched": replace(ORIGIN_WEATHER, name="unwatched", freshness=None),
}


def at(hours_before: float, online: float | None = None) -> Materialized:
    """A view whose newest rows are some hours older than the newest case."""
    offline = CASE - timedelta(hours=hours_before)
    written = offline if online is None else CASE - timedelta(hours=online)
    return Materialized(considered=1, written=1, offline=offline, online=written)


def test_views_within_their_freshness_pass_and_unwatched_ones_do_not_count() -> None:
    result = freshness(VIEWS, {"weather": at(6), "unwatched": at(900)}, CASE)
    assert result.passed
    assert result.metadata["watched"].value == ["weather"]


@pytest.mark.parametrize(
    ("done", "places"),
    [
        (at(6.5), {"weather/offline", "weather/online"}),
        (at(1, online=7), {"weather/online"}),
        (Materialized(0, 0, None, None), {"weather/offline", "weather/online"}),
    ],
    ids=["both lag", "online lags", "no row"],
)
def test_a_stale_view_is_named_with_the_place_where_it_is_stale(
    done: Materialized, places: set[str]
) -> None:
    result = freshness(VIEWS, {"weather": done, "unwatched": at(0)}, CASE)
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.ERROR
    assert {name for name in result.metadata if "/" in name} == places


def test_without_cases_nothing_can_be_late() -> None:
    assert freshness(VIEWS, {"weather": at(99), "unwatched": at(0)}, None).passed


@pytest.mark.slow
def test_the_asset_counts_what_it_wrote_and_names_the_stale_view(lakehouse: Lakehouse) -> None:
    import pyarrow as pa

    spec = replace(
        FLIGHT_DELAY,
        views=(ORIGIN_BACKLOG, ORIGIN_WEATHER),
        inputs=tuple(i for i in FLIGHT_DELAY.inputs if "origin_weather" in i.source),
        drift=replace(FLIGHT_DELAY.drift, signals=()),
        gates=(),
        slices={},
    )
    for view, hours in ((ORIGIN_BACKLOG, 1), (ORIGIN_WEATHER, 8)):
        moment = CASE - timedelta(hours=hours)
        rows = [
            {"origin": origin, "event_timestamp": moment, "created_timestamp": moment}
            | dict.fromkeys(view.feature_names, 1.5)
            for origin in ("JFK", "LGA")
        ]
        table = pa.Table.from_pylist(rows, schema=view.dataset.schema)
        lakehouse.write(f"flights.{view.name}", view.dataset.conform(table))
    case = {"scheduled_departure": [CASE]}
    lakehouse.write(
        f"flights.{DEPARTURES.name}",
        pa.table(case, schema=pa.schema([DEPARTURES.schema.field("scheduled_departure")])),
    )
    folder = lakehouse.warehouse.removeprefix("file://")
    store = FeatureStore(
        registry=f"sqlite:///{folder}-registry.db",
        online_store=f"{folder}-online.db",
        catalog_uri=lakehouse.catalog_uri,
        warehouse=lakehouse.warehouse,
    )
    asset = online_features(Domain("flights", (), (spec,)))
    for written in (2, 0):
        result = dg.materialize([asset], resources={"lakehouse": lakehouse, "feature_store": store})
        (event,) = result.asset_materializations_for_node("flights__online_features")
        facts = {name: value.value for name, value in event.metadata.items()}
        assert facts["origin_weather/considered"] == 2
        assert facts["origin_weather/written"] == written
        (check,) = result.get_asset_check_evaluations()
        assert not check.passed
        assert {name for name in check.metadata if "/" in name} == {
            "origin_weather/offline", "origin_weather/online",
        }  # fmt: skip
    names = {one.name for one in store.store("flights").list_feature_services()}
    assert names == {"flight_delay"}
