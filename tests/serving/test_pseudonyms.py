"""Classified values never reach the prediction log in the clear, and equal ones stay equal."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import pytest

from flywheel_serving.manifest import Manifest, ManifestError, check_manifest
from flywheel_serving.pseudonyms import Pseudonyms

FIELDS: dict[str, Any] = {"flight_id": "f1", "carrier": "AA", "origin": "JFK", "distance": 700.0}
# Of the test model, before manifests knew of classification and stale views.
OLD_DIGEST = "20cfaec29918cc7c3757fa56650f85febdca5708f90e8ad6bd8e11eddf921b6f"
FEATURES: dict[str, Any] = {"carrier": "AA", "distance": 700.0, "hour": 14.0, "tempo": math.nan}


def classified(manifest: Manifest, **fields: Literal["pii", "sensitive"]) -> Manifest:
    """The manifest with some of its request fields classified."""
    schema = manifest.request
    changed = [
        msgspec.structs.replace(field, classification=fields.get(field.name))
        for field in schema.fields
    ]
    request = msgspec.structs.replace(schema, fields=changed)
    return msgspec.structs.replace(manifest, request=request)


def test_what_is_not_classified_is_logged_as_it_is(manifest: Manifest) -> None:
    masks = Pseudonyms(manifest, "key")
    assert masks.request(FIELDS) is FIELDS
    assert masks.features(FEATURES) is FEATURES


def test_a_pseudonym_stands_for_one_value_under_one_key(manifest: Manifest) -> None:
    secret = classified(manifest, carrier="pii", origin="sensitive")
    masked = Pseudonyms(secret, "key").request(FIELDS)
    assert list(masked) == list(FIELDS)
    assert masked["flight_id"] == "f1"
    assert masked["distance"] == 700.0
    assert len(masked["carrier"]) == len(masked["origin"]) == 32
    assert int(masked["carrier"], 16) > 0
    assert (
        Pseudonyms(secret, "key").request(FIELDS | {"origin": "AA"})["origin"] == masked["carrier"]
    )
    assert Pseudonyms(secret, "other").request(FIELDS)["carrier"] != masked["carrier"]
    assert "AA" not in str(masked)


@pytest.mark.parametrize("value", [7, 1.5, datetime(2013, 5, 4, tzinfo=UTC)])
def test_any_type_has_a_pseudonym_and_null_stays_null(manifest: Manifest, value: object) -> None:
    masks = Pseudonyms(classified(manifest, carrier="pii"), "key")
    assert len(masks.request({"carrier": value})["carrier"]) == 32
    assert masks.request({"carrier": None}) == {"carrier": None}


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_classified_values_are_left_out(manifest: Manifest, key: str | None) -> None:
    masks = Pseudonyms(classified(manifest, carrier="pii", distance="sensitive"), key)
    assert masks.request(FIELDS) == {"flight_id": "f1", "origin": "JFK"}
    masked = masks.features(FEATURES)
    assert (masked["carrier"], masked["distance"], masked["hour"]) == (None, None, 14.0)


def test_inputs_read_from_a_classified_field_are_masked_too(manifest: Manifest) -> None:
    masks = Pseudonyms(classified(manifest, carrier="pii", distance="sensitive"), "key")
    masked = masks.features(FEATURES)
    assert masked["carrier"] == masks.request(FIELDS)["carrier"]
    assert masked["distance"] is None
    assert FEATURES["carrier"] == "AA"


@pytest.mark.parametrize("name", ["flight_id", "scheduled_departure"])
def test_what_predictions_are_joined_by_may_not_be_classified(
    manifest: Manifest, name: str
) -> None:
    with pytest.raises(ManifestError, match=f"'{name}', which is classified as pii"):
        check_manifest(classified(manifest, **{name: "pii"}))


def test_a_version_sealed_before_keeps_its_identity_and_a_new_fact_changes_it(
    manifest: Manifest,
) -> None:
    same = msgspec.structs.replace(manifest, version="1")
    assert same.digest == OLD_DIGEST
    assert classified(same, carrier="pii").digest != OLD_DIGEST
    views = [msgspec.structs.replace(v, stale="refuse") for v in same.feature_views]
    assert msgspec.structs.replace(same, feature_views=views).digest != OLD_DIGEST
