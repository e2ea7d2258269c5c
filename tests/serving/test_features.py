"""The vector is what the manifest says, and the scalar and column paths agree exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel_serving.features import FeatureError, Row, Vectorizer, ViewColumns
from flywheel_serving.manifest import Manifest

NOW = 1_400_000_000.0
REQUEST = {"flight_id": "f", "carrier": "DL", "origin": "JFK", "distance": 700.0, "seats": 90}
TRANSFORMED = {"hour": 14.0, "weekday": "5", "band": 1}
STATS = {"delay_mean": 3.5, "tempo": 0.5, "flights": 12, "strike": True, "tier": "flag"}


def rows(age_minutes: float = 30.0, **changes: Any) -> dict[str, Row | None]:
    """Feature rows of the test model, ``age_minutes`` old."""
    then = NOW - 60 * age_minutes
    return {
        "carrier_stats": Row(STATS | changes, then),
        "route_stats": Row({"route_mean": -1.25}, then),
    }


def number(manifest: Manifest, vector: Any, name: str) -> float:
    """One number of a vector, by name."""
    return vector.numeric[[item.name for item in manifest.numbers].index(name)]


def code(manifest: Manifest, vector: Any, name: str) -> int:
    """One category code of a vector, by name."""
    return vector.categorical[[item.name for item in manifest.categories].index(name)]


def test_values_stand_in_the_models_order(manifest: Manifest) -> None:
    vector = Vectorizer(manifest).vector(REQUEST, TRANSFORMED, rows(), NOW)
    assert vector.numeric == [700.0, 90.0, 14.0, 3.5, 0.5, 12.0, 1.0, 30.0, -1.25]
    assert vector.categorical == [2, 6, 2]
    assert vector.defaulted == []
    assert vector.features["tier"] == "flag"
    assert vector.features["carrier_age"] == 30.0
    assert set(vector.features) == {item.name for item in manifest.inputs}


def test_missing_rows_take_defaults_and_are_named(manifest: Manifest) -> None:
    vector = Vectorizer(manifest).vector(REQUEST, TRANSFORMED, {"carrier_stats": None}, NOW)
    assert number(manifest, vector, "delay_mean") == 5.0
    assert math.isnan(number(manifest, vector, "flights"))
    assert math.isnan(number(manifest, vector, "carrier_age"))
    assert code(manifest, vector, "tier") == 1
    assert vector.features["tier"] == "basic"
    assert vector.defaulted == [
        "delay_mean",
        "tempo",
        "flights",
        "strike",
        "tier",
        "carrier_age",
        "route_mean",
    ]


@pytest.mark.parametrize("null", [None, math.nan])
def test_a_null_feature_takes_its_default_alone(manifest: Manifest, null: float | None) -> None:
    vector = Vectorizer(manifest).vector(REQUEST, TRANSFORMED, rows(delay_mean=null), NOW)
    assert vector.defaulted == ["delay_mean"]
    assert number(manifest, vector, "delay_mean") == 5.0


@pytest.mark.parametrize(("minutes", "expired"), [(1440.0, False), (1440.5, True), (-5.0, False)])
def test_a_row_expires_after_its_ttl(manifest: Manifest, minutes: float, expired: bool) -> None:
    vector = Vectorizer(manifest).vector(REQUEST, TRANSFORMED, rows(minutes), NOW)
    assert ("flights" in vector.defaulted) is expired
    assert "route_mean" not in vector.defaulted  # that view has no TTL


def test_a_missing_request_field_is_not_a_defaulted_feature(manifest: Manifest) -> None:
    request = REQUEST | {"distance": None, "seats": None}
    vector = Vectorizer(manifest).vector(request, TRANSFORMED, rows(), NOW)
    assert math.isnan(number(manifest, vector, "distance"))
    assert number(manifest, vector, "seats") == 150.0
    assert vector.defaulted == []


def test_an_unknown_category_is_code_zero_but_logged_as_it_is(manifest: Manifest) -> None:
    request = REQUEST | {"carrier": "ZZ"}
    vector = Vectorizer(manifest).vector(request, TRANSFORMED, rows(), NOW)
    assert code(manifest, vector, "carrier") == 0
    assert vector.features["carrier"] == "ZZ"


def test_a_transform_must_return_what_the_inputs_read(manifest: Manifest) -> None:
    with pytest.raises(FeatureError, match="did not return 'hour'"):
        Vectorizer(manifest).vector(REQUEST, {"weekday": "1"}, rows(), NOW)


def test_a_number_may_not_be_text(manifest: Manifest) -> None:
    with pytest.raises(FeatureError, match="'hour' is a number"):
        Vectorizer(manifest).vector(REQUEST, TRANSFORMED | {"hour": "2"}, rows(), NOW)


maybe = st.none() | st.floats(-1e6, 1e6) | st.just(math.nan)
case = st.fixed_dictionaries(
    {
        "distance": maybe,
        "seats": st.none() | st.integers(-5, 500),
        "carrier": st.sampled_from(["AA", "DL", "UA", "ZZ", ""]),
        "hour": maybe,
        "weekday": st.none() | st.sampled_from(["0", "6", "x"]),
        "age": st.none() | st.floats(-1e5, 2e5),
        "delay_mean": maybe,
        "tempo": maybe,
        "flights": st.none() | st.integers(0, 10**6),
        "strike": st.none() | st.booleans(),
        "tier": st.none() | st.sampled_from(["basic", "flag", "other"]),
        "route_age": st.none() | st.floats(-1e7, 1e7),
        "route_mean": maybe,
    }
)


def column(cases: list[dict[str, Any]], name: str) -> np.ndarray:
    """An object column, as a table with nulls gives it."""
    values = np.empty(len(cases), object)
    values[:] = [item[name] for item in cases]
    return values


@settings(max_examples=60, deadline=None)
@given(cases=st.lists(case, min_size=1, max_size=8))
def test_columns_and_single_cases_agree_exactly(
    manifest: Manifest, cases: list[dict[str, Any]]
) -> None:
    vectorizer = Vectorizer(manifest)
    moments = NOW + np.arange(len(cases)) * 60.0

    def times(name: str) -> np.ndarray:
        ages = [math.nan if item[name] is None else item[name] for item in cases]
        return moments - np.array(ages, np.float64)

    carrier_times, route_times = times("age"), times("route_age")
    stats = ["delay_mean", "tempo", "flights", "strike", "tier"]
    matrix = vectorizer.matrix(
        {name: column(cases, name) for name in ("distance", "seats", "carrier")},
        {name: column(cases, name) for name in ("hour", "weekday")},
        {
            "carrier_stats": ViewColumns({n: column(cases, n) for n in stats}, carrier_times),
            "route_stats": ViewColumns({"route_mean": column(cases, "route_mean")}, route_times),
        },
        moments,
    )
    names = np.array([item.name for item in manifest.inputs])
    for index, item in enumerate(cases):
        found = {
            "carrier_stats": None
            if item["age"] is None
            else Row({n: item[n] for n in stats}, float(carrier_times[index])),
            "route_stats": None
            if item["route_age"] is None
            else Row({"route_mean": item["route_mean"]}, float(route_times[index])),
        }
        vector = vectorizer.vector(item, item, found, float(moments[index]))
        np.testing.assert_array_equal(
            matrix.numeric[index], np.array(vector.numeric, np.float64).astype(np.float32)
        )
        assert matrix.categorical[index].tolist() == vector.categorical
        assert names[matrix.defaulted[index]].tolist() == vector.defaulted


def test_columns_of_plain_numpy_types_work(manifest: Manifest) -> None:
    matrix = Vectorizer(manifest).matrix(
        {
            "distance": np.array([1, 2]),
            "seats": np.array([3.0, np.nan]),
            "carrier": np.array(["AA", "x"]),
        },
        {"hour": np.array([1.0, 2.0], np.float32), "weekday": np.array(["0", "1"], object)},
        {
            "carrier_stats": ViewColumns(
                {
                    "delay_mean": np.array([1.0, np.nan]),
                    "tempo": np.array([0.1, 0.2], np.float32),
                    "flights": np.array([1, 2]),
                    "strike": np.array([True, False]),
                    "tier": np.array(["flag", "basic"]),
                },
                np.array([NOW, np.nan]),
            ),
            "route_stats": ViewColumns({"route_mean": np.array([1.0, 2.0])}, np.array([NOW, NOW])),
        },
        np.array([NOW, NOW]),
    )
    assert matrix.categorical.tolist() == [[1, 1, 2], [0, 2, 1]]
    assert matrix.defaulted.sum(axis=1).tolist() == [0, 6]
    assert matrix.numeric.dtype == np.float32
