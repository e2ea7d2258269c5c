"""A feature view as the gateway's manifest tells it; no Feast and no Dagster in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flywheel.dataset import DType
from flywheel.features import FeatureView
from flywheel_serving import manifest

# What Feast and the manifest call our types.
FEAST_TYPES: Mapping[DType, Any] = {
    "string": "string",
    "int64": "int64",
    "float64": "double",
    "bool": "bool",
}


def online_view(view: FeatureView) -> manifest.FeatureView:
    """What the gateway must know to read a view online."""
    return manifest.FeatureView(
        name=view.name,
        join_keys=[
            manifest.JoinKey(name=c.name, dtype=FEAST_TYPES[c.dtype]) for c in view.join_keys
        ],
        features=[
            manifest.ViewFeature(name=c.name, dtype=FEAST_TYPES[c.dtype]) for c in view.features
        ],
        ttl_seconds=view.ttl.total_seconds(),
        stale=view.stale,
    )
