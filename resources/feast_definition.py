"""Compiles the declarations of a domain to Feast's objects: the one definition of a feature.

A feature view becomes a Feast view over its Iceberg table, with a push source beside it; a model
becomes a feature service, with an on-demand view for the features worked out from the request.
Nothing here reads or writes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel.dataset import Column, DType
from flywheel.features import FeatureView, distinct_keys
from flywheel.model import ModelSpec

if TYPE_CHECKING:
    import feast

BY_ROW = "request_features_by_row"

# Feast keeps this text in its registry and runs it after the module that defines the function: a
# reader of the registry needs nothing of this project. Feast hands over columns, and times as
# seconds, datetimes or text, depending on where they come from. Online, when asked for full feature
# names, Feast 0.67 looks for those among the outputs; offline (where there is an event time) it
# makes them itself, and stumbles over a column that is there already.
_BY_ROW_SOURCE = '''

def {by_row}(columns):
    """One list per output, from one list per request field: `{function}` row by row."""
    from datetime import datetime, timezone

    def instant(value):
        if isinstance(value, (int, float)):
            return datetime.fromtimestamp(value, timezone.utc)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if value is not None and value.tzinfo is None:
            value = value.replace(tzinfo=timezone.utc)
        return value

    count = max(len(values) for values in columns.values())
    fields = {{name: columns.get(name, [None] * count) for name in {fields!r}}}
    for name in {times!r}:
        fields[name] = [instant(value) for value in fields[name]]
    rows = [dict(zip(fields, values)) for values in zip(*fields.values())]
    answers = [{function}(row) for row in rows]
    lists = {{name: [answer[name] for answer in answers] for name in {outputs!r}}}
    if "event_timestamp" in columns:
        return lists
    return lists | {{"{view}__" + name: values for name, values in lists.items()}}
'''


@dataclass(frozen=True)
class Lake:
    """Where the tables of the feature views are.

    Attributes:
        catalog_uri: Address of the Iceberg catalog.
        warehouse: Address of its warehouse.
    """

    catalog_uri: str
    warehouse: str


def compile_domain(
    domain: str, views: Sequence[FeatureView], specs: Sequence[ModelSpec], lake: Lake
) -> list[Any]:
    """Every Feast object of a domain, in the order in which Feast wants them applied.

    Args:
        domain: Feast project, and namespace of the views' tables.
        views: Feature views.
        specs: Models; their views must be among `views`.
        lake: Where the tables are.
    """
    entities = {name: _entity(column) for name, column in distinct_keys(views).items()}
    compiled = {view.name: _view(domain, view, entities, lake) for view in views}
    objects: list[Any] = [*entities.values(), *compiled.values()]
    for spec in specs:
        on_demand = _on_demand_view(domain, spec)
        if on_demand is not None:
            objects.append(on_demand)
        objects.append(_service(domain, spec, compiled, on_demand))
    return objects


def _entity(column: Column) -> feast.Entity:
    import feast
    from feast.value_type import ValueType

    types = {"string": ValueType.STRING, "int64": ValueType.INT64}
    return feast.Entity(
        name=column.name,
        join_keys=[column.name],
        value_type=types[column.dtype],
        description=column.description,
    )


def _view(
    domain: str, view: FeatureView, entities: Mapping[str, feast.Entity], lake: Lake
) -> feast.FeatureView:
    import feast
    from feast.infra.data_sources.contrib.iceberg_catalog import IcebergSource

    table = IcebergSource(
        name=f"{domain}.{view.name}",
        catalog_type="sql",
        catalog_name="flywheel",  # a SQL catalog keeps its tables by its own name
        endpoint=lake.catalog_uri,
        warehouse=lake.warehouse,
        namespace=domain,
        table=view.name,
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=view.description,
        owner=view.owner,
    )
    return feast.FeatureView(
        name=view.name,
        entities=[entities[name] for name in view.key_names],
        schema=[
            feast.Field(name=c.name, dtype=_type(c.dtype), description=c.description)
            for c in (*view.join_keys, *view.features)
        ],
        source=feast.PushSource(name=f"{view.name}_push", batch_source=table, owner=view.owner),
        ttl=view.ttl,
        online=True,
        description=view.description,
        owner=view.owner,
        tags={"domain": domain, "stale": view.stale},
    )


def _on_demand_view(domain: str, spec: ModelSpec) -> feast.OnDemandFeatureView | None:
    """The model's request-time features; None if it has none."""
    import feast
    from feast import types

    outputs = {
        one.source.removeprefix("transform:"): types.Float64
        if one.kind == "number"
        else types.String
        for one in spec.inputs
        if one.source.startswith("transform:")
    }
    if spec.request_features is None or not outputs:
        return None
    requested = {
        "string": types.String,
        "float": types.Float64,
        "int": types.Int64,
        "timestamp": types.UnixTimestamp,
    }
    # Feast takes a name for either a join key or request data; the function is given both.
    keys = {name for view in spec.views for name in view.key_names}
    schema = [feast.Field(name=name, dtype=dtype) for name, dtype in outputs.items()]
    return feast.OnDemandFeatureView(
        name=_on_demand_name(spec),
        sources=[
            feast.RequestSource(
                name=f"{spec.name}_request_fields",
                schema=[
                    feast.Field(name=f.name, dtype=requested[f.dtype])
                    for f in spec.spine.request
                    if f.name not in keys
                ],
            )
        ],
        schema=schema,
        feature_transformation=_transformation(spec, schema),
        mode="python",
        description=f"What {spec.name} works out from a request itself.",
        owner=spec.owner,
        tags={"domain": domain, "model": spec.name},
    )


def _on_demand_name(spec: ModelSpec) -> str:
    return f"{spec.name}_request"


def _transformation(spec: ModelSpec, schema: list[feast.Field]) -> Any:
    """The model's own function, from the source that also travels in its bundle."""
    from feast.transformation.python_transformation import PythonTransformation
    from feast.transformation.udf_rehydrate import rehydrate_udf_from_source

    class Declared(PythonTransformation):
        """Feast would run the function on made-up text to guess the types that are declared."""

        def infer_features(self, *_: Any, **__: Any) -> list[feast.Field]:
            return schema

    assert spec.request_features is not None
    request = spec.spine.request
    module = Path(inspect.getfile(spec.request_features)).read_text()
    source = module + _BY_ROW_SOURCE.format(
        by_row=BY_ROW,
        function=spec.request_features.__name__,
        view=_on_demand_name(spec),
        fields=[f.name for f in request],
        times=[f.name for f in request if f.dtype == "timestamp"],
        outputs=[field.name for field in schema],
    )
    by_row: Any = rehydrate_udf_from_source(source, preferred_name=BY_ROW)
    if by_row is None:
        raise ValueError(
            f"{spec.name}: the module of {spec.request_features.__name__} does not run by itself; "
            "it may import only the standard library"
        )
    return Declared(udf=by_row, udf_string=source)


def _service(
    domain: str,
    spec: ModelSpec,
    views: Mapping[str, feast.FeatureView],
    on_demand: feast.OnDemandFeatureView | None,
) -> feast.FeatureService:
    """All that the model reads, under its name."""
    import feast

    read: dict[str, list[str]] = {}
    for one in spec.inputs:
        if one.source.startswith("view:"):
            _, view, feature = one.source.split(":")
            read.setdefault(view, []).append(feature)
    features: list[Any] = [views[name][list(dict.fromkeys(used))] for name, used in read.items()]
    if on_demand is not None:
        features.append(on_demand)
    return feast.FeatureService(
        name=spec.name,
        features=features,
        description=spec.description,
        owner=spec.owner,
        tags={"domain": domain, "model": spec.name},
    )


def _type(dtype: DType) -> Any:
    from feast import types

    return {
        "string": types.String,
        "int64": types.Int64,
        "float64": types.Float64,
        "bool": types.Bool,
    }[dtype]
