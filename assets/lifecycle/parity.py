"""Replays a day through the gateway's own feature lookup, beside the offline join.

Feature rows reach an online store of the replay's own in the order in which they became known, and
every request is decoded, transformed and looked up at its moment by the code that serves. Nothing
that runs is touched.
"""

from __future__ import annotations

import asyncio
import bisect
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec

from assets.lifecycle import inputs
from assets.lifecycle.cases import cases_of
from assets.lifecycle.names import Lifecycle
from flywheel.features import FeatureView
from flywheel.parity import Asked, InputSource, ParityReport, compare
from resources.feature_store import FeatureStore
from resources.lakehouse import Lakehouse, Window


@dataclass
class Feed:
    """The rows of one feature view on their way to an online store, as they become known."""

    view: FeatureView
    rows: list[dict[str, Any]]
    fed: int = 0
    times: list[datetime] = field(init=False)

    def __post_init__(self) -> None:
        self.rows.sort(key=lambda row: (_known(row), row["event_timestamp"]))
        self.times = [_known(row) for row in self.rows]

    def until(self, moment: datetime) -> list[dict[str, Any]]:
        """Rows that became known up to `moment` since the last call; `push` picks the newest."""
        start, self.fed = self.fed, bisect.bisect_right(self.times, moment)
        return self.rows[start : self.fed]


def feeds_of(life: Lifecycle, lakehouse: Lakehouse, start: datetime, end: datetime) -> list[Feed]:
    """The rows of a model's views with their event in [start, end)."""
    return [
        Feed(view, lakehouse.read(
            ".".join(life.sibling(view.name).path), Window("event_timestamp", start, end)
        ).to_pylist())
        for view in life.spec.views
    ]  # fmt: skip


def replay_parity(
    life: Lifecycle,
    day: date,
    lakehouse: Lakehouse,
    feature_store: FeatureStore,
    *,
    limit: int | None = None,
    online_store: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ParityReport:
    """Compare the inputs of a day's requests, online and offline.

    Args:
        life: The model.
        day: Local day; its cases and the feature rows before it must have been ingested.
        lakehouse: Has both.
        feature_store: The offline side, and how the online side is configured.
        limit: At most so many requests, evenly over the day; None for all.
        online_store: `redis://...` of an empty database to replay into; default a SQLite file that
            is removed.
        progress: Called with the requests done and their number, if given.

    Raises:
        LookupError: The day has no cases.
    """
    spec, spine = life.spec, life.spec.spine
    cases = cases_of(life, lakehouse, day, day + timedelta(days=1))
    cases = cases.sort_by([(spine.event_timestamp, "ascending"), (spine.entity_id, "ascending")])
    if not cases.num_rows:
        raise LookupError(
            f"{spec.name} has no case on {day}: materialize {life.domain}/{spine.dataset.name} for "
            "that day first"
        )
    if limit is not None and cases.num_rows > limit:
        cases = cases.take([n * cases.num_rows // limit for n in range(limit)])
    offline = inputs.input_values(spec, life.domain, cases, feature_store)
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        store = FeatureStore(
            registry=f"sqlite:///{folder}/registry.db",
            online_store=online_store or f"{folder}/online.db",
            catalog_uri=feature_store.catalog_uri,
            warehouse=feature_store.warehouse,
        )
        vectors = _online(life, day, cases.to_pylist(), offline, lakehouse, store, progress)
    columns = {name: column.to_pylist() for name, column in offline.items()}
    asked = [
        Asked(
            case=str(fields[spine.entity_id]),
            event_timestamp=fields[spine.event_timestamp],
            fields=fields,
            online=values,
            offline={name: column[n] for name, column in columns.items()},
        )
        for n, (fields, values) in enumerate(vectors)
    ]
    keys = {view.name: view.key_names for view in spec.views}
    sources = [
        InputSource(
            one.name, one.source, _as_used(one.default), keys.get(one.source.split(":")[1], ())
        )
        for one in spec.inputs
    ]
    return compare(asked, sources)


def _online(
    life: Lifecycle,
    day: date,
    cases: list[dict[str, Any]],
    offline: Mapping[str, Any],
    lakehouse: Lakehouse,
    store: FeatureStore,
    progress: Callable[[int, int], None] | None,
) -> list[tuple[dict[str, Any], Mapping[str, Any]]]:
    """Fields and inputs of each case, as the gateway has them at its moment."""
    import pyarrow as pa

    from flywheel_serving.cases import CaseReader
    from flywheel_serving.online_store import open_online_store
    from flywheel_serving.request import RequestDecoder

    spec = life.spec
    start, end = (spec.calendar.midnight(d) for d in (day, day + timedelta(days=1)))
    manifest = inputs.manifest_of(
        spec,
        life.domain,
        "parity",
        start.isoformat(),
        inputs.vocabularies_of(spec, pa.table(dict(offline))),
        {},
    )
    decoder = RequestDecoder(manifest.request)
    online = open_online_store(store.online_store, timeout=5.0)
    reader = CaseReader(manifest, spec.request_features, online)
    store.apply(life.domain, spec.views)
    # What is older than its view's time to live may not be used on either side.
    oldest = start - max((view.ttl for view in spec.views), default=timedelta(0))
    feeds = feeds_of(life, lakehouse, oldest, end)
    answers = []
    with asyncio.Runner() as runner:  # a connection belongs to the loop that made it
        for done, case in enumerate(cases, start=1):
            moment = case[spec.spine.event_timestamp]
            for feed in feeds:
                store.push(life.domain, feed.view, feed.until(moment))
            body = msgspec.json.encode({f.name: case[f.name] for f in spec.spine.request})
            question = reader.question(decoder.single(body))
            rows = runner.run(reader.read([question]))
            answered = reader.case(question, rows)
            fields = {**answered.fields, **question.transformed}
            fields[spec.spine.event_timestamp] = answered.event_timestamp.astimezone(UTC)
            answers.append((fields, answered.vector.features))
            if progress:
                progress(done, len(cases))
        online.close()
    return answers


def _known(row: Mapping[str, Any]) -> datetime:
    """When a feature row could first be used."""
    return max(row["event_timestamp"], row["created_timestamp"])


def _as_used(default: float | str | None) -> float | str | None:
    """A default as the vectorizer applies it: numbers are floats."""
    return default if default is None or isinstance(default, str) else float(default)
