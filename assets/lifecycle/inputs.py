"""A model's inputs as columns: offline from the feature store, and encoded as the gateway does it.

The encoding is the gateway's own `Vectorizer`, so that training and serving cannot differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flywheel.column import NUMBERS, Classification
from flywheel.dataset import Column, Dataset, arrow_type, required
from flywheel.model import ModelSpec
from flywheel.training import TrainingData, stable_day
from flywheel_serving.bundle import Manifest, ModelInput, RequestField, RequestSchema
from resources.feature_store import FeatureStore
from resources.online_view import online_view

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

EVENT_TIMESTAMP = "event_timestamp"
TRAIN, HOLDOUT, STABLE = "train", "holdout", "stable"

TRANSFORM_FILE = "transform.py"


def input_columns(spec: ModelSpec) -> tuple[Column, ...]:
    """The inputs as nullable table columns: float64 for numbers, text for categories.

    What comes straight from a classified field of the request is classified likewise.
    """
    classified = _classified(spec)
    return tuple(
        Column(
            i.name,
            "float64" if i.kind == "number" else "string",
            f"Input: {i.source}.",
            classification=classified.get(i.source),
        )
        for i in spec.inputs
    )


def _classified(spec: ModelSpec) -> dict[str, Classification]:
    """Classification of the request's fields, by source."""
    return {
        f"request:{column.name}": column.classification
        for column in spec.spine.dataset.columns
        if column.classification
    }


def training_set_table(spec: ModelSpec) -> Dataset:
    """What a training set's table looks like."""
    return Dataset(
        name=f"{spec.name}_training_set",
        key=("as_of", EVENT_TIMESTAMP, "entity_id"),
        partition_by="as_of",
        columns=(
            required("as_of", "date", "The morning it was made on."),
            required("entity_id", "string", f"The case ({spec.spine.entity_id})."),
            required(EVENT_TIMESTAMP, "timestamp", "When the question is asked."),
            required("label", "bool", f"The answer ({spec.spine.label})."),
            required("label_known_at", "timestamp", "When the answer became known."),
            required(
                "split",
                "string",
                f"`{TRAIN}`; `{HOLDOUT}`: the last days; `{STABLE}`: days of all history that no "
                "version is trained on.",
            ),
            *input_columns(spec),
            *(
                Column(
                    column.name,
                    "string" if column.dtype not in NUMBERS else "float64",
                    f"Slice: {column.description}",
                    classification=column.classification,
                )
                for column in spec.extra_slices
            ),
        ),
    )


def spine_rows(spec: ModelSpec, cases: pa.Table) -> pa.Table:
    """The spine's rows for a feature join: request fields, and `event_timestamp`."""
    names = [f.name for f in spec.spine.request]
    return cases.select(names).append_column(
        EVENT_TIMESTAMP, cases.column(spec.spine.event_timestamp)
    )


def input_values(
    spec: ModelSpec,
    domain: str,
    cases: pa.Table,
    store: FeatureStore,
    snapshots: Mapping[str, int] | None = None,
) -> dict[str, pa.ChunkedArray]:
    """Each input of each case, as it was known at the case's moment.

    Args:
        spec: The model.
        domain: Namespace of its feature views.
        cases: Rows of the spine dataset.
        store: The feature store.
        snapshots: State of each view's table to read; what is current where none is given.

    Returns:
        Columns by input name, null where missing.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    spine = spine_rows(spec, cases)
    joined = store.historical(domain, spec.views, spine, snapshots)
    transformed = _transformed(spec, spine)
    asked = joined.column(EVENT_TIMESTAMP)
    columns = {}
    for one in spec.inputs:
        kind, *rest = one.source.split(":")
        if kind == "request":
            column = joined.column(rest[0])
        elif kind == "transform":
            column = pa.chunked_array([pa.array([row[rest[0]] for row in transformed])])
        elif kind == "view":
            column = joined.column(f"{rest[0]}__{rest[1]}")
        else:
            age = pc.subtract(asked, joined.column(f"{rest[0]}__{EVENT_TIMESTAMP}"))
            seconds = pc.divide(age.cast(pa.int64()).cast(pa.float64()), 1e6)
            column = pc.divide(seconds, 60.0)
        columns[one.name] = column.cast(pa.float64() if one.kind == "number" else pa.string())
    return columns


def manifest_of(
    spec: ModelSpec,
    domain: str,
    version: str,
    created_at: str,
    vocabularies: Mapping[str, list[str]],
    metadata: Mapping[str, str],
) -> Manifest:
    """The bundle's manifest, as far as it is known before the files are."""
    classified = _classified(spec)
    return Manifest(
        model=spec.name,
        version=version,
        created_at=created_at,
        project=domain,
        request=RequestSchema(
            entity_id=spec.spine.entity_id,
            event_timestamp=spec.spine.event_timestamp,
            fields=[
                RequestField(
                    name=f.name,
                    dtype=f.dtype,
                    nullable=f.nullable,
                    classification=classified.get(f"request:{f.name}"),
                )
                for f in spec.spine.request
            ],
        ),
        transform=TRANSFORM_FILE if spec.request_features else None,
        feature_views=[online_view(view) for view in spec.views],
        inputs=[
            ModelInput(
                name=i.name,
                source=i.source,
                kind=i.kind,
                default=i.default,
                vocabulary=vocabularies[i.name] if i.kind == "category" else None,
            )
            for i in spec.inputs
        ],
        metadata=dict(metadata),
    )


def vocabularies_of(spec: ModelSpec, rows: pa.Table) -> dict[str, list[str]]:
    """The values of each category in some rows, sorted."""
    import pyarrow.compute as pc

    return {
        name: sorted(v for v in pc.unique(rows.column(name)).to_pylist() if v is not None)
        for name in spec.categories
    }


def encode(manifest: Manifest, rows: pa.Table) -> TrainingData:
    """Rows with the inputs as columns, as the model's tensors.

    Args:
        manifest: Says order, defaults and vocabularies.
        rows: Columns by input name, and `label`.
    """
    import numpy as np
    import pyarrow as pa

    from flywheel_serving.features import Vectorizer

    by_name = msgspec.structs.replace(
        manifest,
        inputs=[
            msgspec.structs.replace(one, source=f"request:{one.name}") for one in manifest.inputs
        ],
        feature_views=[],
    )
    columns = {one.name: numpy_column(rows, one.name) for one in manifest.inputs}
    instants = np.zeros(rows.num_rows)
    matrix = Vectorizer(by_name).matrix(columns, {}, {}, instants)
    return TrainingData(
        matrix.numeric,
        matrix.categorical,
        rows.column("label").cast(pa.float32()).to_numpy(),
        tuple(one.name for one in manifest.numbers),
        tuple(one.name for one in manifest.categories),
        tuple(len(one.vocabulary or []) + 1 for one in manifest.categories),
    )


def numpy_column(rows: pa.Table, name: str) -> np.ndarray[Any, Any]:
    """A column as float64 with NaN, or as objects with None."""
    import numpy as np
    import pyarrow as pa

    column = rows.column(name)
    if pa.types.is_floating(column.type):
        return column.to_numpy()
    return np.array(column.to_pylist(), dtype=object)


def slice_values(spec: ModelSpec, rows: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
    """What scores are broken down by, objects or numbers' bands as text, [n] each."""
    from flywheel.slices import bands

    return {
        name: bands(numpy_column(rows, name), edges) if edges else numpy_column(rows, name)
        for name, edges in spec.slice_bands.items()
    }


def stable_days(spec: ModelSpec, end: date) -> list[date]:
    """The days of all history before `end` that no version is trained on."""
    days = spec.calendar.days(spec.calendar.start, max(end, spec.calendar.start))
    return [day for day in days if stable_day(day, spec.stable_every_days)]


def splits(spec: ModelSpec, as_of: date, when: pa.ChunkedArray) -> pa.ChunkedArray:
    """What each case is for, by the local day of its moment."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def since(day: date) -> Any:
        moment = pa.scalar(spec.calendar.midnight(day), arrow_type("timestamp"))
        return pc.greater_equal(when, moment)

    stable = pa.chunked_array([pa.repeat(False, len(when))])
    for day in stable_days(spec, as_of):
        inside = pc.and_(since(day), pc.invert(since(day + timedelta(days=1))))
        stable = pc.or_(stable, inside)
    split = pc.if_else(stable, STABLE, TRAIN)
    return pc.if_else(since(as_of - timedelta(days=spec.holdout_days)), HOLDOUT, split)


def transform_source(spec: ModelSpec) -> bytes | None:
    """Source of the module that defines the request-time features."""
    if spec.request_features is None:
        return None
    return Path(inspect.getfile(spec.request_features)).read_bytes()


def _transformed(spec: ModelSpec, spine: pa.Table) -> list[Mapping[str, Any]]:
    """The request-time features of every row, computed by the function that serving runs."""
    if spec.request_features is None:
        return []
    return [spec.request_features(row) for row in spine.to_pylist()]
