"""Replay a past day as if it were today.

Events reach the online store as they happen, and every case is asked about at its own moment,
through the gateway. This stands in for the outside world. It reads what the features' assets have
computed and pushes exactly those rows, so what is served is what training will later see.
"""

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import dagster as dg

from assets.lifecycle.cases import cases_of
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.parity import feeds_of
from resources.feature_store import FeatureStore
from resources.lakehouse import Lakehouse
from resources.serving import Serving


def replay(
    life: Lifecycle,
    day: date,
    lakehouse: Lakehouse,
    feature_store: FeatureStore,
    serving: Serving,
    progress: Callable[[int, int], None],
) -> int:
    """Live through one day; returns the number of requests answered.

    Args:
        life: The model that is asked.
        day: Local day.
        lakehouse: Has the day's cases and feature rows.
        feature_store: Gets the rows, in the order of their events.
        serving: Is asked.
        progress: Called with the requests answered and their total.

    Raises:
        ServingClientError: The gateway refused a request.
    """
    spec = life.spec
    start, end = (spec.calendar.midnight(d) for d in (day, day + timedelta(days=1)))
    spine = spec.spine
    cases = cases_of(life, lakehouse, day, day + timedelta(days=1))
    cases = cases.sort_by([(spine.event_timestamp, "ascending"), (spine.entity_id, "ascending")])
    feature_store.apply(life.domain, spec.views)
    feeds = feeds_of(life, lakehouse, start, end)
    requests = list(_requests(life, cases.to_pylist()))
    client = serving.client
    for done, (moment, entity, fields) in enumerate(requests, start=1):
        for feed in feeds:
            feature_store.push(life.domain, feed.view, feed.until(moment))
        client.predict(spec.name, fields, request_id=f"replay-{entity}")
        progress(done, len(requests))
    for feed in feeds:
        feature_store.push(life.domain, feed.view, feed.until(end))
    return len(requests)


def replay_job(life: Lifecycle) -> dg.JobDefinition:
    """The job that replays a day, for the launchpad."""

    @dg.op(name=f"{life.spec.name}_replay_day")
    def replay_day(
        context: dg.OpExecutionContext,
        lakehouse: Lakehouse,
        feature_store: FeatureStore,
        serving: Serving,
    ) -> None:
        day = date.fromisoformat(context.partition_key)

        def progress(done: int, total: int) -> None:
            if done % 200 == 0 or done == total:
                context.log.info(f"{day}: {done} of {total} requests answered")

        replay(life, day, lakehouse, feature_store, serving, progress)

    @dg.job(
        name=f"{life.spec.name}_replay",
        partitions_def=life.days,
        description=f"Replay a past day of {life.spec.name}: events go online as they happen, and "
        "every case is asked about through the gateway.",
    )
    def job() -> None:
        replay_day()

    return job


def _requests(
    life: Lifecycle, cases: list[dict[str, Any]]
) -> Iterator[tuple[Any, str, dict[str, Any]]]:
    """Moment, entity and request fields of each case."""
    spine = life.spec.spine
    for case in cases:
        fields = {f.name: case[f.name] for f in spine.request}
        yield case[spine.event_timestamp], str(case[spine.entity_id]), fields
