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
    Latency,
    Loads,
    NoLeakage,
    NoSliceRegression,
    Parity,
    SizeLimit,
    ValidData,
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
        ValidData(),
        Loads(),
        # With much room: evaluations run on laptops beside other work.
        Latency(p99_ms=1000.0, at_concurrency=4, requests=500),
        SizeLimit(megabytes=5.0),
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
    training_days=365,
    holdout_days=7,
    intended_use="Tells passengers and ground staff, at a flight's scheduled departure from EWR, "
    "JFK or LGA, how likely it is to arrive more than 15 minutes late. A display or a person acts "
    "on it, and a wrong answer costs waiting or a needless call. It is the reference model of "
    "Flywheel, on public records.",
    limits=(
        "Not for safety, pricing, insurance, compensation, or judging airlines, crews or aircraft: "
        "it knows what goes along with delay, not what causes it.",
        "It knows the three airports of New York in 2013 and nothing else; other airports, and "
        "later years, need their own data.",
        "It is meant for the minute of the scheduled departure. About half of all flights have "
        "left by then, a few minutes early, and their own departure counts among the latest of "
        "their carrier, origin, destination and route. Asked hours before, it answers worse than "
        "its scores here say.",
        "Cancelled and diverted flights have no label: the probability is that of a flight that "
        "lands where it was to.",
        "Of weather it sees the last reading at the airport of departure: nothing on the way, "
        "nothing at the destination, no forecast.",
        "Only departures from New York are recorded, so an aircraft's way back is guessed from its "
        "last flight out.",
        "It learns from the year before it: a season it has not seen, a strike or a new timetable "
        "makes it worse until the next training.",
        "Carriers and destinations with few flights are known poorly.",
    ),
)
