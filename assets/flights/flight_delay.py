"""Will this flight arrive more than 15 minutes late? Asked at its scheduled departure."""

from __future__ import annotations

from assets.flights.aircraft_legs import AIRCRAFT_LEGS
from assets.flights.carrier_delays import CARRIER_DELAYS
from assets.flights.departures import DEPARTURES
from assets.flights.dest_delays import DEST_DELAYS
from assets.flights.origin_backlog import ORIGIN_BACKLOG
from assets.flights.origin_delays import ORIGIN_DELAYS
from assets.flights.origin_weather import ORIGIN_WEATHER
from assets.flights.request import request_features
from assets.flights.route_delays import ROUTE_DELAYS
from assets.flights.year import YEAR
from flywheel.gates import (
    AtLeast,
    BeatsChampion,
    Calibrated,
    NoLeakage,
    NoSliceRegression,
    Parity,
)
from flywheel.model import DriftPolicy, Input, ModelSpec, RequestField, Spine, view_inputs
from flywheel.trainers.baselines import GradientBoosting, LogisticRegression
from flywheel.trainers.tabular import TabularNetwork

SCHEDULE = (
    Input("carrier", "request:carrier", "category"),
    Input("origin", "request:origin", "category"),
    Input("dest", "request:dest", "category"),
    Input("weekday", "transform:weekday", "category"),
    Input("hour", "transform:hour", "number"),
    Input("block_minutes", "transform:block_minutes", "number"),
    Input("distance", "request:distance", "number"),
)

FLIGHT_DELAY = ModelSpec(
    name="flight_delay",
    description="Probability that a flight leaving New York arrives more than 15 minutes late, "
    "asked at its scheduled departure.",
    owner="team:flights",
    calendar=YEAR,
    spine=Spine(
        dataset=DEPARTURES,
        entity_id="flight_id",
        event_timestamp="scheduled_departure",
        label="late",
        label_known_at="landed_at",
        request=(
            RequestField("flight_id", "string"),
            RequestField("carrier", "string"),
            RequestField("tailnum", "string", nullable=True),
            RequestField("origin", "string"),
            RequestField("dest", "string"),
            RequestField("distance", "float"),
            RequestField("scheduled_departure", "timestamp"),
            RequestField("scheduled_arrival", "timestamp"),
        ),
    ),
    views=(
        CARRIER_DELAYS,
        ORIGIN_DELAYS,
        DEST_DELAYS,
        ROUTE_DELAYS,
        ORIGIN_BACKLOG,
        AIRCRAFT_LEGS,
        ORIGIN_WEATHER,
    ),
    inputs=(
        *SCHEDULE,
        *view_inputs(CARRIER_DELAYS),
        *view_inputs(ORIGIN_DELAYS),
        *view_inputs(DEST_DELAYS),
        *view_inputs(ROUTE_DELAYS),
        *view_inputs(ORIGIN_BACKLOG),
        *view_inputs(AIRCRAFT_LEGS, age=True),
        *view_inputs(ORIGIN_WEATHER),
    ),
    request_features=request_features,
    trainer=TabularNetwork(),
    baselines={"logistic regression": LogisticRegression(), "boosted trees": GradientBoosting()},
    gates=(
        AtLeast("auc", 0.7),
        NoLeakage(),
        BeatsChampion("log_loss"),
        NoSliceRegression(("origin", "carrier")),
        Calibrated(0.08),
        Parity(),
    ),
    slices={"hour": (9, 13, 17, 21)},
    # Weather follows the season whatever happens to delays: it is measured, but it may not trigger.
    drift=DriftPolicy(
        signals=(
            "carrier_delays__arr_delay_7d",
            "origin_delays__arr_delay_7d",
            "route_delays__arr_delay_7d",
            "origin_delays__arr_delay_24h",
            "dest_delays__arr_delay_24h",
            "origin_backlog__waiting_3h",
        ),
    ),
    training_days=59,
    holdout_days=7,
)
