"""How a domain declares its assets: `@dataset` and `@feature_view` around a plain function.

The function computes a table from tables. Everything else follows from the declaration: key, group,
Iceberg table, partitions, schema, catalog facts, and the blocking check that the table keeps its
contract. Rows that break it are put aside; a batch with too many of them is not written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.batch import CONTRACT_CHECK, check_result, failure, history_audit, part
from assets.catalog import DATASET_LAYER, column_schema, contract_sentence
from flywheel.calendar import Calendar
from flywheel.dataset import Dataset
from flywheel.features import FeatureView
from resources.io_manager import Audited

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Compute = Callable[..., "pa.Table | pd.DataFrame"]
Decorator = Callable[[Compute], dg.AssetsDefinition]

# How an annotation says in which form an input is handed over, by the name of its type. Annotations
# may stay strings, so that pandas need not be imported to load the code location.
FORMS = {"Table": "arrow", "DataFrame": "pandas", "DataScan": "scan"}


@dataclass(frozen=True)
class AssetContext:
    """What an asset's function may ask about its run."""

    dagster: dg.AssetExecutionContext

    @property
    def instants(self) -> tuple[datetime, datetime]:
        """Start and end of the partitions at hand, aware."""
        window = self.dagster.partition_time_window
        return window.start, window.end

    @property
    def dates(self) -> tuple[date, date]:
        """First local day of the partitions at hand, and the day after the last."""
        start, end = self.instants
        return start.date(), end.date()


def partitions_of(calendar: Calendar) -> dg.DailyPartitionsDefinition:
    """Daily partitions of a calendar."""
    return dg.DailyPartitionsDefinition(
        start_date=calendar.start.isoformat(),
        end_date=calendar.end.isoformat() if calendar.end else None,
        timezone=calendar.timezone,
    )


def trailing(days: int, *, until: int = 0) -> dg.TimeWindowPartitionMapping:
    """A partition needs its own day and `days` before it (`until=-1`: not its own day)."""
    return dg.TimeWindowPartitionMapping(
        start_offset=-days, end_offset=until, allow_nonexistent_upstream_partitions=True
    )


def dataset(
    declared: Dataset,
    *,
    owner: str,
    calendar: Calendar | None = None,
    ins: Mapping[str, dg.PartitionMapping] | None = None,
    kinds: frozenset[str] | set[str] = frozenset(),
) -> Decorator:
    """Declare the asset that computes a dataset.

    Args:
        declared: What the table promises; its name is the asset's.
        owner: `team:...` or an e-mail address.
        calendar: Days of the partitions; None for a table that is computed whole.
        ins: Partition mappings of inputs that need more than their own day.
        kinds: What it is made of, for the catalog.

    Example:
        >>> @dataset(DEPARTURES, calendar=YEAR, owner="team:flights")   # doctest: +SKIP
        ... def departures(context: AssetContext, airports: pd.DataFrame) -> pa.Table: ...
    """

    def decorate(compute: Compute) -> dg.AssetsDefinition:
        return _table_asset(
            compute,
            declared,
            owner=owner,
            calendar=calendar,
            ins=ins or {},
            kinds={"iceberg", *kinds},
            description=inspect.getdoc(compute) or inspect.getdoc(inspect.getmodule(compute)) or "",
            tags={"flywheel/layer": DATASET_LAYER},
        )

    return decorate


def feature_view(
    declared: FeatureView,
    *,
    calendar: Calendar,
    ins: Mapping[str, dg.PartitionMapping] | None = None,
) -> Decorator:
    """Declare the asset that computes the rows of a feature view.

    The function may return rows outside of its partitions (evidence reaches over midnight); those
    are left to the partitions they belong to.

    Args:
        declared: The view; its name is the asset's.
        calendar: Days of the partitions, by `event_timestamp`.
        ins: Partition mappings of inputs that need more than their own day.
    """

    def decorate(compute: Compute) -> dg.AssetsDefinition:
        return _table_asset(
            compute,
            declared.dataset,
            owner=declared.owner,
            calendar=calendar,
            ins=ins or {},
            kinds={"iceberg", "feast"},
            description=inspect.getdoc(inspect.getmodule(compute)) or declared.description,
            tags={"flywheel/layer": "features"},
            only_own_rows=True,
        )

    return decorate


def domain_of(compute: Callable[..., object]) -> str:
    """The folder under `assets/` that a function was written in."""
    return compute.__module__.split(".")[1]


def _table_asset(
    compute: Compute,
    declared: Dataset,
    *,
    owner: str,
    calendar: Calendar | None,
    ins: Mapping[str, dg.PartitionMapping],
    kinds: set[str],
    description: str,
    tags: Mapping[str, str],
    only_own_rows: bool = False,
) -> dg.AssetsDefinition:
    domain = domain_of(compute)
    if compute.__name__ != declared.name:
        raise dg.DagsterInvalidDefinitionError(
            f"assets/{domain}: the function {compute.__name__} computes {declared.name!r}; "
            "give both the same name."
        )
    parameters = inspect.signature(compute).parameters
    wants_context = "context" in parameters
    inputs = [name for name in parameters if name != "context"]

    def run(context: dg.AssetExecutionContext, **tables: Any) -> Iterator[Any]:
        import pyarrow as pa

        arguments = {"context": AssetContext(context)} if wants_context else {}
        computed = compute(**arguments, **tables)
        if not isinstance(computed, pa.Table):
            computed = pa.Table.from_pandas(computed, preserve_index=False)
        rows = declared.conform(computed)
        if only_own_rows:
            rows = _own_rows(rows, context.partition_time_window, declared)
        validation = part(context, declared, rows, inside=only_own_rows)
        table = f"{domain}.{declared.name}"
        if validation.failures:
            yield check_result(table, validation)
            raise failure(table, declared, validation)
        if declared.audit == "history":
            yield dg.Output(Audited(validation.clean, history_audit(table, declared)))
        else:
            yield dg.Output(validation.clean)
        yield check_result(table, validation)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(inspect.Parameter(name, kind) for name in ("context", *inputs))
    setattr(run, "__signature__", signature)  # noqa: B010 - where Dagster looks for the inputs
    run.__annotations__ = {"context": dg.AssetExecutionContext}
    return dg.asset(
        name=declared.name,
        key_prefix=domain,
        group_name=domain,
        description=description,
        owners=[owner],
        kinds=kinds,
        tags=dict(tags),
        metadata={"dagster/column_schema": column_schema(declared)},
        required_resource_keys={"lakehouse"},
        ins={
            name: dg.AssetIn(
                key=dg.AssetKey([domain, name]),
                partition_mapping=ins.get(name),
                metadata={"form": _form(compute, parameters[name])},
            )
            for name in inputs
        },
        partitions_def=partitions_of(calendar) if calendar else None,
        backfill_policy=dg.BackfillPolicy.single_run() if calendar else None,
        check_specs=[
            dg.AssetCheckSpec(
                CONTRACT_CHECK,
                asset=dg.AssetKey([domain, declared.name]),
                blocking=True,
                description=contract_sentence(declared),
            )
        ],
        io_manager_key="io_manager",
        pool="lakehouse",
    )(run)


def _form(compute: Compute, parameter: inspect.Parameter) -> str:
    """In which form a parameter wants its table."""
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    form = FORMS.get(text.rpartition(".")[2])
    if form is None:
        raise dg.DagsterInvalidDefinitionError(
            f"{compute.__module__}.{compute.__name__}: annotate {parameter.name!r} as pa.Table, "
            "pd.DataFrame or DataScan, to say in which form the table is handed over."
        )
    return form


def _own_rows(rows: pa.Table, window: dg.TimeWindow, declared: Dataset) -> pa.Table:
    """The rows that belong to the partitions at hand."""
    import pyarrow as pa
    import pyarrow.compute as pc

    assert declared.partition_by is not None  # feature views are partitioned by event time
    when = rows.column(declared.partition_by)
    start, end = (pa.scalar(bound, when.type) for bound in (window.start, window.end))
    return rows.filter(pc.and_(pc.greater_equal(when, start), pc.less(when, end)))
