"""A declaration that contradicts itself is refused, in a sentence that says what to change."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from flywheel.calendar import Calendar
from flywheel.dataset import Dataset, columns, required
from flywheel.features import FeatureView, join_keys, number
from flywheel.gates import AtLeast, Quantized
from flywheel.model import (
    DriftPolicy,
    Input,
    ModelSpec,
    RequestField,
    SpecError,
    Spine,
    view_inputs,
)
from flywheel.trainers.tabular import TabularNetwork

ORDERS = Dataset(
    name="orders",
    key=("order_id",),
    partition_by="ordered_at",
    columns=columns(
        required("order_id", "string", "Order."),
        required("ordered_at", "timestamp", "When it was placed."),
        required("customer", "string", "Who placed it."),
        ("returned", "bool", "Came back."),
        ("settled_at", "timestamp", "When that was known."),
    ),
)
CUSTOMERS = FeatureView(
    name="customers",
    join_keys=join_keys("customer"),
    features=(number("orders_7d", "Orders."), number("returns_7d", "Returns.")),
    ttl=timedelta(days=7),
    description="What a customer did lately.",
    owner="team:orders",
)
SPINE = Spine(
    dataset=ORDERS,
    entity_id="order_id",
    event_timestamp="ordered_at",
    label="returned",
    label_known_at="settled_at",
    request=(RequestField("order_id", "string"), RequestField("customer", "string")),
)


def request_features(request: Any) -> dict[str, float | str | None]:
    return {"hour": 1.0}


RETURNS = ModelSpec(
    name="returns",
    description="Comes back.",
    owner="team:orders",
    calendar=Calendar(date(2013, 1, 1), "UTC"),
    spine=SPINE,
    views=(CUSTOMERS,),
    inputs=(
        Input("customer", "request:customer", "category"),
        Input("hour", "transform:hour", "number"),
        *view_inputs(CUSTOMERS, age=True),
    ),
    trainer=TabularNetwork(),
    gates=(AtLeast(),),
    drift=DriftPolicy(signals=("hour",)),
    request_features=request_features,
)


def test_a_spec_knows_its_numbers_and_categories_in_order() -> None:
    assert RETURNS.categories == ["customer"]
    assert RETURNS.numbers == [
        "hour",
        "customers__orders_7d",
        "customers__returns_7d",
        "customers__age",
    ]


def test_view_inputs_may_be_a_choice() -> None:
    assert view_inputs(CUSTOMERS, only=["returns_7d"]) == [
        Input("customers__returns_7d", "view:customers:returns_7d", "number")
    ]


def with_input(name: str, source: str) -> dict[str, Any]:
    return {"inputs": (*RETURNS.inputs, Input(name, source, "number"))}


CONTRADICTIONS = {
    "name in capitals": ({"name": "Returns"}, "'Returns': a model's name is lower_snake_case"),
    "name with a slash": ({"name": "a/b"}, "lower_snake_case"),
    "empty name": ({"name": ""}, "lower_snake_case"),
    "holdout of the whole window": ({"training_days": 7}, "holdout_days must lie between 0 and"),
    "no holdout": ({"holdout_days": 0}, "holdout_days must lie between 0 and training_days"),
    "limits as one text": ({"limits": "Not for pricing."}, "limits is a tuple of sentences"),
    "input twice": (with_input("hour", "request:customer"), r"\['hour'\] are declared twice"),
    "unknown kind of source": (with_input("x", "oracle:x"), "'x' has source 'oracle:x'"),
    "unknown request field": (with_input("x", "request:weight"), "request:weight.*one of"),
    "unknown view": (with_input("x", "view:shops:orders_7d"), "view:shops:orders_7d"),
    "unknown feature": (with_input("x", "view:customers:age_7d"), "view:customers:age_7d"),
    "view without feature": (with_input("x", "view:customers"), "view:VIEW:FEATURE"),
    "age of an unknown view": (with_input("x", "age:shops"), "age:VIEW"),
    "source without a name": (with_input("x", "request"), "'request'"),
    "transform without a function": ({"request_features": None}, "'transform:hour'"),
    "unknown drift signal": (
        {"drift": DriftPolicy(signals=("hour", "minute"))},
        r"drift signals \['minute'\] are not inputs",
    ),
    "int8 without its gate": ({"precision": "int8"}, r"add Quantized\(tolerance=0.001\) to gates"),
    "int8's gate without int8": (
        {"gates": (AtLeast(), Quantized(0.001))},
        'add precision="int8", or take the gate out',
    ),
    "unknown precision": ({"precision": "int4"}, "float32 or int8, not 'int4'"),
    "unknown entity": ({"spine": replace(SPINE, entity_id="id")}, "names 'id', which orders lacks"),
    "unknown moment": ({"spine": replace(SPINE, event_timestamp="at")}, "'at'"),
    "unknown label": ({"spine": replace(SPINE, label="bad")}, "'bad'.*it has"),
    "unknown label moment": ({"spine": replace(SPINE, label_known_at="then")}, "'then'"),
    "unknown request column": (
        {"spine": replace(SPINE, request=(RequestField("weight", "float"),))},
        "names 'weight', which orders lacks",
    ),
}


@pytest.mark.parametrize("contradiction", CONTRADICTIONS, ids=str)
def test_a_contradiction_is_refused(contradiction: str) -> None:
    changes, sentence = CONTRADICTIONS[contradiction]
    with pytest.raises(SpecError, match=sentence):
        replace(RETURNS, **changes)


def test_an_int8_network_goes_with_the_gate_that_compares_it() -> None:
    gates = (AtLeast(), Quantized(0.001))
    assert replace(RETURNS, precision="int8", gates=gates).precision == "int8"
