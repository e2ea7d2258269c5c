"""The flights model as one plain script would make it: pure functions, Arrow tables, no framework.

Same files, same functions, same seed, same rows in the same order as the assets, so the scores come
out the same to the last digit. Import this only after `bench.without_dagster.pretend`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assets.flights import departures as flights
from assets.flights import source
from assets.flights import weather as stations
from assets.flights.aircraft_legs import aircraft_legs
from assets.flights.carrier_delays import carrier_delays
from assets.flights.dest_delays import dest_delays
from assets.flights.flight_delay import FLIGHT_DELAY as SPEC
from assets.flights.origin_backlog import origin_backlog
from assets.flights.origin_delays import origin_delays
from assets.flights.origin_weather import origin_weather
from assets.flights.route_delays import route_delays
from assets.lifecycle import inputs
from flywheel.evaluation import Scores, score
from flywheel.features import FeatureView
from flywheel.onnx_runtime import predict
from flywheel.pit import ABSENT, point_in_time_join
from flywheel.training import TrainedModel, TrainingData, validation_cases
from flywheel_serving.bundle import Manifest

DELAY_VIEWS = (carrier_delays, origin_delays, dest_delays, route_delays)
OTHER_VIEWS = (origin_backlog, aircraft_legs)


@dataclass(frozen=True)
class World:
    """What there is to learn from: the flights, and the rows of every feature view by name."""

    departures: pa.Table
    views: Mapping[str, pa.Table]

    def historical(
        self,
        _domain: str,
        views: Sequence[FeatureView],
        spine: pa.Table,
        _snapshots: object = None,
    ) -> pa.Table:
        """What the feature store's method of this name answers, from memory."""
        joined = spine
        for view in views:
            rows = self.views[view.name]
            at = point_in_time_join(
                spine, rows, view.key_names, ttl_seconds=view.ttl.total_seconds()
            )
            taken = rows.take(pa.array(at, mask=at == ABSENT))
            for name in (*view.feature_names, "event_timestamp"):
                joined = joined.append_column(f"{view.name}__{name}", taken.column(name))
        return joined

    def rows(self, cases: pa.Table, as_of: date) -> pa.Table:
        """Cases as rows of a training set made on a morning."""
        when = cases.column(SPEC.spine.event_timestamp)
        columns = inputs.input_values(SPEC, "flights", cases, cast("Any", self))
        rows = pa.table(
            {
                "as_of": pa.array([as_of] * cases.num_rows, pa.date32()),
                "entity_id": cases.column(SPEC.spine.entity_id),
                "event_timestamp": when,
                "label": cases.column(SPEC.spine.label),
                "label_known_at": cases.column(SPEC.spine.label_known_at),
                "split": inputs.splits(SPEC, as_of, when),
                **columns,
            }
        )
        return inputs.training_set_table(SPEC).conform(rows)

    def labelled(self, start: date, end: date, known_before: date) -> pa.Table:
        """Flights of the days in [start, end) whose answer was known before a morning."""
        day = self.departures.column("flight_date")
        known = self.departures.column(SPEC.spine.label_known_at)
        cut = pa.scalar(SPEC.calendar.midnight(known_before), known.type)
        wanted = pc.and_(pc.greater_equal(day, start), pc.less(day, end))
        wanted = pc.and_(wanted, pc.is_valid(self.departures.column(SPEC.spine.label)))
        return self.departures.filter(pc.and_(wanted, pc.fill_null(pc.less(known, cut), False)))


def read_world(start: date, end: date, *, withhold_own_departure: bool = False) -> World:
    """Read the files and compute every feature view over the local days in [start, end).

    Args:
        start: First day.
        end: Day after the last.
        withhold_own_departure: Let a departure count as evidence of carrier, origin, destination
            and route from its scheduled minute at the earliest.
    """
    raw = source.read("flights").to_pandas(date_as_object=False)
    day = pd.to_datetime(raw[["year", "month", "day"]])
    raw = raw[(day >= pd.Timestamp(start)) & (day < pd.Timestamp(end))]
    departures = flights.DEPARTURES.conform(flights.clean(raw, source.read("airports").to_pandas()))
    raw = source.read("weather").to_pandas()
    hour = pd.to_datetime(raw["time_hour"], utc=True)
    first, last = SPEC.calendar.midnight(start), SPEC.calendar.midnight(end)
    weather = stations.clean(raw[(hour >= first) & (hour < last)]).to_pandas()
    # The assets quarantine the file's one broken reading.
    weather = weather[~(weather["wind_speed"] > stations.FASTEST_WIND)]
    frame = departures.to_pandas()
    evidence: pd.DataFrame = frame
    if withhold_own_departure:
        due = frame["scheduled_departure"]
        later = frame["departed_at"].where(~(frame["departed_at"] < due), due)
        evidence = frame.assign(departed_at=later)
    frames = {
        **{view.__name__: view(cast("Any", None), evidence) for view in DELAY_VIEWS},
        **{view.__name__: view(cast("Any", None), frame) for view in OTHER_VIEWS},
        origin_weather.__name__: origin_weather(cast("Any", None), weather),
    }
    return World(
        departures,
        {
            view.name: view.dataset.conform(
                pa.Table.from_pandas(frames[view.name], preserve_index=False)
            )
            for view in SPEC.views
        },
    )


def split_rows(rows: pa.Table, split: str) -> pa.Table:
    """The rows to train on, or those held out."""
    return rows.filter(pc.equal(rows.column("split"), pa.scalar(split)))


def manifest_of(rows: pa.Table) -> Manifest:
    """The encoding learned from training rows."""
    vocabularies = inputs.vocabularies_of(SPEC, rows)
    created = datetime.now(UTC).isoformat()
    return inputs.manifest_of(SPEC, "flights", "1", created, vocabularies, {})


def validated_by(rows: pa.Table) -> NDArray[np.bool_]:
    """Which rows validate the fit, as in the model's asset."""
    microseconds = rows.column("event_timestamp").cast(pa.int64()).to_numpy()
    return validation_cases(microseconds // 86_400_000_000)


def fit(train: TrainingData, rows: pa.Table) -> TrainedModel:
    """Fit the model's network, as in the model's asset."""
    validation = validated_by(rows)
    return SPEC.trainer.fit(train.rows(~validation), train.rows(validation), SPEC.seed)


def contest(train_rows: pa.Table, case_rows: pa.Table) -> dict[str, Scores]:
    """Fit the network and its baselines on some rows, and score all of them on others."""
    manifest = manifest_of(train_rows)
    train, cases = (inputs.encode(manifest, rows) for rows in (train_rows, case_rows))
    predictions: dict[str, NDArray[Any]] = {
        "candidate": predict(fit(train, train_rows).onnx, cases)
    }
    for name, baseline in SPEC.baselines.items():
        predictions[name] = baseline.score(train, cases, SPEC.seed)
    label = cases.label.astype(np.float64)
    return {name: score(label, p) for name, p in predictions.items()}
