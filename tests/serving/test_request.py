"""Wrong requests are refused with the field at fault; right ones arrive whole."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from flywheel_serving.errors import ServingError
from flywheel_serving.manifest import Manifest
from flywheel_serving.request import RequestDecoder

GOOD: dict[str, Any] = {
    "flight_id": "f1",
    "scheduled_departure": "2013-05-04T14:03:00-04:00",
    "carrier": "AA",
    "origin": "JFK",
    "distance": 1000,
    "seats": 90,
}


@pytest.fixture(scope="module")
def decoder(manifest: Manifest) -> RequestDecoder:
    return RequestDecoder(manifest.request)


def test_fields_arrive_decoded(decoder: RequestDecoder) -> None:
    fields = decoder.single(msgspec.json.encode(GOOD))
    assert fields["scheduled_departure"] == datetime(2013, 5, 4, 18, 3, tzinfo=UTC)
    assert fields["scheduled_departure"].hour == 14  # the offset survives for the transform
    assert fields["distance"] == 1000.0
    assert isinstance(fields["distance"], float)


def test_nullable_fields_may_be_absent_and_unknown_ones_are_ignored(
    decoder: RequestDecoder,
) -> None:
    body = {key: value for key, value in GOOD.items() if key not in ("distance", "seats")}
    fields = decoder.single(msgspec.json.encode(body | {"new": 1, "seats": None}))
    assert fields["distance"] is None
    assert fields["seats"] is None
    assert "new" not in fields


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flight_id", None),
        ("carrier", 5),
        ("distance", "far"),
        ("distance", True),
        ("seats", 1.5),
        ("scheduled_departure", "2013-05-04T14:03:00"),
        ("scheduled_departure", "yesterday"),
        ("scheduled_departure", 1367690580),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(
    decoder: RequestDecoder, field: str, value: object
) -> None:
    with pytest.raises(ServingError, match=f"'{field}' is wrong") as caught:
        decoder.single(msgspec.json.encode(GOOD | {field: value}))
    assert caught.value.status == 422
    assert caught.value.field == field


@pytest.mark.parametrize("field", ["flight_id", "origin", "scheduled_departure"])
def test_a_missing_field_is_refused_with_its_name(decoder: RequestDecoder, field: str) -> None:
    body = {key: value for key, value in GOOD.items() if key != field}
    with pytest.raises(ServingError, match=f"'{field}' is missing") as caught:
        decoder.single(msgspec.json.encode(body))
    assert caught.value.field == field


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"\xff"', b"{} {}", b'{"a": NaN}'])
def test_what_is_not_an_object_is_refused(decoder: RequestDecoder, body: bytes) -> None:
    with pytest.raises(ServingError) as caught:
        decoder.single(body)
    assert caught.value.status == 422


def test_a_batch_names_the_instance_at_fault(decoder: RequestDecoder) -> None:
    body = msgspec.json.encode({"instances": [GOOD, GOOD, GOOD | {"seats": "x"}]})
    assert decoder.is_batch(body)
    with pytest.raises(ServingError, match="'seats' of instance 2 is wrong") as caught:
        decoder.batch(body)
    assert caught.value.field == "seats"


@pytest.mark.parametrize(
    "instances", [[], {}, None, [1], [GOOD] * 4097], ids=["empty", "object", "null", "1", "many"]
)
def test_a_batch_must_be_a_list_of_a_bounded_size(
    decoder: RequestDecoder, instances: object
) -> None:
    body = msgspec.json.encode({"instances": instances})
    assert decoder.is_batch(body)
    with pytest.raises(ServingError) as caught:
        decoder.batch(body)
    assert caught.value.status == 422


def test_the_word_instances_in_a_value_makes_no_batch(decoder: RequestDecoder) -> None:
    body = msgspec.json.encode(GOOD | {"carrier": "instances", "x": {"instances": 1}})
    assert not decoder.is_batch(body)
    assert decoder.single(body)["carrier"] == "instances"
