"""A card with everything on it, of a model that was really trained and evaluated."""

from __future__ import annotations

import hashlib
from datetime import date, timedelta
from functools import lru_cache

import numpy as np

from flywheel import plots
from flywheel.calendar import Calendar
from flywheel.card import Card, Declaration, Evaluation, Link, Provenance, ThresholdTable
from flywheel.dataset import Dataset, columns, required
from flywheel.evaluation import average_precision, calibration, score
from flywheel.evidence import figures
from flywheel.features import FeatureView, join_key, number
from flywheel.gates import AtLeast, BeatsChampion, Cases, Contest, Fairness, NoLeakage
from flywheel.model import DriftPolicy, Input, ModelSpec, RequestField, Spine, view_inputs
from flywheel.onnx_runtime import predict
from flywheel.story import Meter, environment_hash, hardware
from flywheel.thresholds import Costs, best_threshold, threshold_table
from flywheel.trainers.baselines import LogisticRegression
from tests.flywheel.training_cases import TRAIN, VALIDATION, cases

HISTORY = FeatureView(
    name="history",
    join_keys=(join_key("customer", classification="pii"),),
    features=(number("returns_7d", "Orders sent back in the last 7 days.", minimum=0),),
    ttl=timedelta(days=7),
    description="What a customer did lately.",
    owner="team:shop",
)

SPEC = ModelSpec(
    name="returns",
    description="Probability that an order comes back.",
    owner="team:shop",
    calendar=Calendar(date(2024, 1, 1), "UTC"),
    spine=Spine(
        dataset=Dataset(
            name="orders",
            key=("order_id",),
            partition_by="ordered_at",
            columns=columns(
                required("order_id", "string", "Unique id."),
                required("ordered_at", "timestamp", "When it was placed."),
                required("customer", "string", "Who ordered.", classification="pii"),
                ("amount", "float64", "Euros."),
                required("carrier", "string", "Who brings it."),
                ("returned", "bool", "Came back."),
                ("settled_at", "timestamp", "When that was known."),
            ),
        ),
        entity_id="order_id",
        event_timestamp="ordered_at",
        label="returned",
        label_known_at="settled_at",
        request=(
            RequestField("order_id", "string"),
            RequestField("customer", "string"),
            RequestField("amount", "float", nullable=True),
            RequestField("carrier", "string"),
        ),
    ),
    views=(HISTORY,),
    inputs=(
        Input("amount", "request:amount", "number"),
        *view_inputs(HISTORY, age=True),
        Input("carrier", "request:carrier", "category"),
        Input("hour", "transform:hour", "category", default="12"),
    ),
    trainer=LogisticRegression(),
    gates=(AtLeast(), BeatsChampion(), NoLeakage(), Fairness("carrier", min_rows=100)),
    drift=DriftPolicy(signals=("amount",)),
    request_features=lambda request: {"hour": str(request["ordered_at"].hour)},
    intended_use="Tells the warehouse how many orders will come back.",
    limits=("Not for judging customers.", "It knows nothing of sales and holidays."),
)


@lru_cache(maxsize=1)
def full() -> Card:
    """A version with a champion, a baseline, slices, costs, pictures and links."""
    with Meter(0.05) as meter:
        trained = SPEC.trainer.fit(TRAIN, VALIDATION, SPEC.seed)
    # Learned from few cases, the champion is there to be beaten.
    earlier = SPEC.trainer.fit(TRAIN.rows(slice(0, 60)), VALIDATION, SPEC.seed)
    held_out = cases(3, 900)
    predictions = {
        "candidate": predict(trained.onnx, held_out),
        "champion": predict(earlier.onnx, held_out),
        "base rate": np.full(900, TRAIN.label.mean()),
    }
    label = held_out.label.astype(np.float64)
    carrier = np.array(["", "DHL", "UPS", "post"], dtype=object)[held_out.categorical[:, 0]]
    judged = Cases(
        label, np.arange(900) % 6, predictions["candidate"], predictions["champion"],
        {"carrier": carrier}, {"amount": held_out.numeric[:, 0]},
    )  # fmt: skip
    scores = {name: score(label, one) for name, one in predictions.items()}
    contest = Contest(scores["candidate"], scores["champion"], cases=judged)
    costs, mine = Costs(1.0, 4.0), predictions["candidate"]
    contest_of_two = {name: predictions[name] for name in ("candidate", "champion")}
    return Card(
        declared=Declaration.of(SPEC),
        version="2",
        made=Provenance(
            as_of=date(2024, 3, 1),
            training_set="shop.returns_training_set",
            snapshots={"shop.orders": 8_127_364_981, "shop.returns_training_set": 4_711},
            commit="09572ef1c4b39d0e7c1d6ad0f0dd3a0a7cb2b7e5",
            onnx_sha256=hashlib.sha256(trained.onnx).hexdigest(),
            parameters={"trainer": "LogisticRegression", **vars(SPEC.trainer), "seed": SPEC.seed},
            training_rows=len(TRAIN) + len(VALIDATION),
            environment=environment_hash(),
            hardware=hardware(),
            usage=meter.usage,
        ),
        evaluation=Evaluation(
            figures=figures(judged, predictions, "candidate"),
            verdicts=[gate.judge(contest) for gate in SPEC.gates],
            champion="1",
            calibration=calibration(label, mine),
            thresholds=ThresholdTable(
                costs, threshold_table(label, mine, costs), best_threshold(label, mine, costs)
            ),
            min_rows=100,
        ),
        plots=(
            plots.roc(label, predictions, {name: one.auc for name, one in scores.items()}),
            plots.reliability(label, contest_of_two),
            plots.precision_recall(
                label,
                contest_of_two,
                {name: average_precision(label, one) for name, one in contest_of_two.items()},
            ),
        ),
        links=(Link("MLflow run", "http://127.0.0.1:5050/#/experiments/1/runs/0a1b?x=1&y=2"),),
    )
