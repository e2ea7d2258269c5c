"""The walk-forward backtest: what the models would have been worth, retrained or left alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from assets.lifecycle import inputs
from assets.lifecycle.cases import cases_of
from assets.lifecycle.names import Lifecycle
from flywheel.backtest import (
    AUC,
    AUC_GAIN,
    CALIBRATION_GAP,
    ECE,
    FROZEN,
    LOG_LOSS,
    LOG_LOSS_GAIN,
    MEANINGS,
    BacktestError,
    Measure,
    Plan,
    measure,
    plan_of,
    policy_of,
)
from flywheel.calendar import Calendar
from flywheel.dataset import Dataset, columns, required
from resources.feature_store import FeatureStore
from resources.io_manager import table_metadata
from resources.lakehouse import Lakehouse, Window
from resources.registry import Registry, Version

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from flywheel_serving.bundle import Bundle

KEY = dg.AssetKey(["lifecycle", "backtest"])
TABLE = ".".join(KEY.path)

BACKTEST = Dataset(
    name="backtest",
    key=("model", "policy", "metric", "month"),
    columns=columns(
        required("model", "string", "Model."),
        required("policy", "string", "When it was retrained; `frozen` is never."),
        ("month", "date", "First day of the month; null for the whole period."),
        required("metric", "string", "; ".join(f"`{k}`: {v}" for k, v in MEANINGS.items()) + "."),
        ("value", "float64", "The figure; null where it is not defined."),
        ("low", "float64", "Lower end of its 95 % interval, from resampled days."),
        ("high", "float64", "Upper end of it."),
        required("rows", "int64", "Cases."),
    ),
)

SHOWN = (AUC, LOG_LOSS, ECE, CALIBRATION_GAP)


class Period(dg.Config):
    """What a run may be told; the defaults take in all that there is."""

    models: list[str] = Field(default=[], description="Names; all if none is given.")
    start: str = Field(default="", description="First day; default the first version's morning.")
    end: str = Field(
        default="", description="Day after the last; default after the last known label."
    )
    every: list[str] = Field(
        default=["month", "week"],
        description="What to compare with the frozen version: month, week, e.g. '10 days'.",
    )


def backtest(lives: Sequence[Lifecycle]) -> dg.AssetsDefinition:
    """The asset that scores every model's versions on the days they would have served."""

    @dg.asset(
        key=KEY,
        deps=[
            dg.AssetDep(life.key("model"), partition_mapping=dg.AllPartitionMapping())
            for life in lives
        ],
        group_name=KEY.path[0],
        description="Each day of the past predicted by the version that would have been in service "
        "on it: the first one for ever, or one retrained every month or week. By model, policy "
        "and month.",
        owners=sorted({life.spec.owner for life in lives}),
        kinds={"iceberg", "feast", "mlflow", "onnx"},
        tags={"flywheel/layer": "lifecycle"},
        pool="training",
    )
    def compute(
        context: dg.AssetExecutionContext,
        config: Period,
        lakehouse: Lakehouse,
        registry: Registry,
        feature_store: FeatureStore,
    ) -> dg.MaterializeResult[Any]:
        by_name = {life.spec.name: life for life in lives}
        if unknown := sorted(set(config.models) - set(by_name)):
            raise BacktestError(f"no model is called {unknown}: there are {sorted(by_name)}")
        metadata: dict[str, Any] = {}
        for name in config.models or by_name:
            walk = Walk(by_name[name], lakehouse, registry, feature_store)
            if len(walk.versions) < 2:
                context.log.info(
                    f"{name} is skipped: a comparison takes versions of two mornings, and it has "
                    f"those of {[d.isoformat() for d in walk.versions]}"
                )
                continue
            plan = walk.plan(config)
            for policy, lacking in plan.missing.items():
                context.log.warning(left_out(by_name[name], policy, lacking))
            if warning := walk.mixed_recipes(plan):
                context.log.warning(warning)
            measures = walk.measures(plan)
            rows = _rows(name, measures)
            written = lakehouse.write(TABLE, rows, Window.having("model", name))
            metadata |= table_metadata(TABLE, written, partitioned=False)
            metadata |= _story(name, plan, measures)
        return dg.MaterializeResult(metadata=metadata)

    return compute


def left_out(life: Lifecycle, policy: str, missing: Sequence[date]) -> str:
    """That a policy is left out, why, and the command that mends it."""
    assets = ",".join(life.key(step).to_user_string() for step in ("training_set", "model"))
    shown = ", ".join(morning.isoformat() for morning in missing[:5])
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    return (
        f"{life.spec.name}: {policy} is left out, for there is no version as of {shown}{more}. "
        f"Make them: dg launch --assets {assets} --partition {missing[0]} (and so on), or all with "
        f"flywheel backtest {life.spec.name}"
    )


@dataclass(frozen=True)
class Walk:
    """One model's walk through a period."""

    life: Lifecycle
    lakehouse: Lakehouse
    registry: Registry
    feature_store: FeatureStore
    _bundles: dict[date, "Bundle"] = field(default_factory=dict)

    @cached_property
    def versions(self) -> dict[date, Version]:
        """The newest version of each morning, by morning."""
        return versions_by_morning(self.registry, self.life.spec.name)

    def plan(self, config: Period) -> Plan:
        """Who serves when, as far as versions and labels go.

        Raises:
            BacktestError: There is no version as of the first day, or no day.
        """
        start = date.fromisoformat(config.start) if config.start else next(iter(self.versions))
        end = date.fromisoformat(config.end) if config.end else self._after_last_label()
        policies = [FROZEN, *(policy_of(every) for every in config.every)]
        plan = plan_of(policies, self.versions, start, end)
        if FROZEN.name in plan.missing:
            raise BacktestError(left_out(self.life, FROZEN.name, plan.missing[FROZEN.name]))
        return plan

    def measures(self, plan: Plan) -> list[Measure]:
        """The figures of every policy, over all labelled cases of the period.

        Raises:
            BacktestError: No case has a known label, or a version reads what the model no longer
                declares.
        """
        import numpy as np

        parts = list(self._predictions(plan))
        if not parts:
            raise BacktestError(
                f"{self.life.spec.name}: no case from {plan.start} up to {plan.end} has a known "
                f"label: materialize {self.life.domain}/{self.life.spec.spine.dataset.name} for "
                "those days first"
            )
        return measure(
            np.concatenate([label for label, _, _ in parts]),
            np.concatenate([day for _, day, _ in parts]),
            {name: np.concatenate([by[name] for _, _, by in parts]) for name in plan.served},
        )

    def mixed_recipes(self, plan: Plan) -> str | None:
        """A warning if the versions of a plan were not trained alike, else None."""
        recipes: dict[str, list[str]] = {}
        for morning in plan.mornings:
            version = self.versions[morning]
            parameters = self.registry.client.get_run(version.run_id).data.params
            recipe = {k: v for k, v in sorted(parameters.items()) if k != "as_of"}
            recipes.setdefault(str(recipe), []).append(version.number)
        if len(recipes) < 2:
            return None
        groups = "; ".join(f"versions {', '.join(group)}" for group in recipes.values())
        return (
            f"{self.life.spec.name}: not all versions were trained alike ({groups}), so the "
            "difference between policies is not that of retraining alone. Materialize the model "
            "as of the older ones' mornings again to compare like with like"
        )

    def _predictions(
        self, plan: Plan
    ) -> "Iterator[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]":
        """Labels, days and each policy's probabilities, month by month to bound memory."""
        import numpy as np

        from flywheel.onnx_runtime import predict

        for first, following in _months(plan.start, plan.end):
            rows, day = self._labelled(first, following)
            if not rows.num_rows:
                continue
            by_policy = {name: np.empty(rows.num_rows) for name in plan.served}
            served = {name: _served_on(day, days) for name, days in plan.served.items()}
            for morning in sorted({m for of_case in served.values() for m in set(of_case)}):
                places = {name: of_case == morning for name, of_case in served.items()}
                wanted = np.logical_or.reduce(list(places.values()))
                bundle = self._bundle(morning)
                data = inputs.encode(bundle.manifest, rows.filter(wanted))
                probability = np.empty(rows.num_rows)
                probability[wanted] = predict(bundle.model_path.read_bytes(), data)
                for name, mine in places.items():
                    by_policy[name][mine] = probability[mine]
            yield rows.column("label").to_numpy().astype(np.float64), day, by_policy

    def _labelled(self, first: date, following: date) -> "tuple[pa.Table, np.ndarray]":
        """Cases with a known label and their inputs, and the local day of each, datetime64[D]."""
        import pyarrow as pa
        import pyarrow.compute as pc

        spec, spine = self.life.spec, self.life.spec.spine
        cases = cases_of(self.life, self.lakehouse, first, following)
        cases = cases.filter(pc.is_valid(cases.column(spine.label)))
        day = _local_days(spec.calendar, first, following, cases.column(spine.event_timestamp))
        if not cases.num_rows:
            return cases, day
        values = inputs.input_values(spec, self.life.domain, cases, self.feature_store)
        return pa.table({"label": cases.column(spine.label), **values}), day

    def _bundle(self, morning: date) -> "Bundle":
        """The bundle of a morning's version, opened once and held to the declaration.

        Raises:
            BacktestError: It reads an input that the model no longer declares.
        """
        from flywheel_serving.bundle import open_bundle

        if morning not in self._bundles:
            version = self.versions[morning]
            bundle = open_bundle(self.registry.bundle(version))
            declared = {(i.name, i.source, i.kind) for i in self.life.spec.inputs}
            gone = [
                i.name for i in bundle.manifest.inputs if (i.name, i.source, i.kind) not in declared
            ]
            if gone:
                raise BacktestError(
                    f"version {version.number} of {version.model} reads {gone}, which the model no "
                    f"longer declares: materialize {self.life.key('training_set').to_user_string()}"
                    f" and {self.life.key('model').to_user_string()} as of {morning} again"
                )
            self._bundles[morning] = bundle
        return self._bundles[morning]

    def _after_last_label(self) -> date:
        """The day after the last case with a known label."""
        import pyarrow.compute as pc
        from pyiceberg.expressions import NotNull

        spec, spine = self.life.spec, self.life.spec.spine
        table = ".".join(self.life.sibling(spine.dataset.name).path)
        asked = self.lakehouse.table(table).scan(
            row_filter=NotNull(spine.label), selected_fields=(spine.event_timestamp,)
        )
        newest = pc.max(asked.to_arrow().column(spine.event_timestamp)).as_py()
        if newest is None:
            raise BacktestError(f"{table} has no case with a known label yet")
        return spec.calendar.day_of(newest) + timedelta(days=1)


def versions_by_morning(registry: Registry, model: str) -> dict[date, Version]:
    """The newest version of each `as_of` morning, the first morning first."""
    newest: dict[date, Version] = {}
    for version in registry.versions(model):  # the newest first
        if as_of := version.tags.get("as_of"):
            newest.setdefault(date.fromisoformat(as_of), version)
    return dict(sorted(newest.items()))


def _months(start: date, end: date) -> Iterator[tuple[date, date]]:
    """The period cut at the first of each month."""
    while start < end:
        following = min((start.replace(day=1) + timedelta(days=32)).replace(day=1), end)
        yield start, following
        start = following


def _local_days(
    calendar: Calendar, first: date, following: date, moments: "pa.ChunkedArray"
) -> "np.ndarray":
    """Local day of each moment, datetime64[D] [n].

    Raises:
        BacktestError: A moment lies on none of the days asked for.
    """
    import numpy as np
    import pyarrow as pa

    days = calendar.days(first, following + timedelta(days=1))
    midnights = [calendar.midnight(day) for day in days]
    begins = pa.array(midnights, pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    instants = moments.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    place = np.searchsorted(begins, instants, side="right") - 1
    if outside := int(((place < 0) | (place >= len(days) - 1)).sum()):
        raise BacktestError(
            f"{outside} cases filed under {first} up to {following} are asked on another day: "
            f"which version would have answered them cannot be told"
        )
    return np.array(days, dtype="datetime64[D]")[place]


def _served_on(day: "np.ndarray", served: Mapping[date, date]) -> "np.ndarray":
    """Morning of the version that serves each case, as objects [n]."""
    import numpy as np

    days, place = np.unique(day, return_inverse=True)
    return np.array([served[one.item()] for one in days], dtype=object)[place]


def _rows(name: str, measures: Sequence[Measure]) -> "pa.Table":
    import pyarrow as pa

    found = [{"model": name, **vars(one)} for one in measures]
    return BACKTEST.conform(pa.Table.from_pylist(found, schema=BACKTEST.schema))


def measures_of(lakehouse: Lakehouse, name: str) -> list[Measure]:
    """The figures of a model's last backtest, the frozen version's first.

    Raises:
        LookupError: There was none.
    """
    rows = lakehouse.read(TABLE, Window.having("model", name)).to_pylist()
    if not rows:
        raise LookupError(f"{TABLE} has nothing about {name}: materialize lifecycle/backtest first")
    found = [Measure(**{k: v for k, v in row.items() if k != "model"}) for row in rows]
    return sorted(found, key=lambda one: one.policy != FROZEN.name)


def _story(name: str, plan: Plan, measures: Sequence[Measure]) -> dict[str, Any]:
    """What the Dagster UI shows of one model's backtest."""
    from flywheel.plots import embedded, walk_forward

    title = f"{name}, {plan.start} to {plan.end - timedelta(days=1)}"
    told: dict[str, Any] = {
        f"{name}/figure": dg.MetadataValue.md(
            embedded(walk_forward(measures, title=title), f"walk-forward backtest of {name}")
        ),
        f"{name}/by month": dg.MetadataValue.md(_table(plan, measures)),
        f"{name}/versions": len(plan.mornings),
    }
    for one in measures:
        if one.month is None and one.metric in (AUC_GAIN, LOG_LOSS_GAIN):
            told[f"{name}/{one.policy}/{one.metric}"] = one.value
            told[f"{name}/{one.policy}/{one.metric} 95 %"] = interval(one)
    if plan.missing:
        told[f"{name}/left out"] = ", ".join(
            f"{policy} ({len(lacking)} versions missing)"
            for policy, lacking in plan.missing.items()
        )
    return told


def interval(one: Measure) -> str:
    """A figure's interval in words."""
    if one.low is None or one.high is None:
        return "no interval: too few days"
    return f"{one.low:+.4f} to {one.high:+.4f}"


def _table(plan: Plan, measures: Sequence[Measure]) -> str:
    figures = {(one.policy, one.month, one.metric): one for one in measures}
    months = list(dict.fromkeys(one.month for one in measures))
    heads = [f"{metric} {policy}" for metric in SHOWN for policy in plan.served]
    lines = [f"| month | rows | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for month in months:
        found = [figures[policy, month, metric] for metric in SHOWN for policy in plan.served]
        cells = ["" if one.value is None else f"{one.value:.4f}" for one in found]
        when = f"{month:%Y-%m}" if month else "**all**"
        lines.append(f"| {when} | {found[0].rows} | {' | '.join(cells)} |")
    return "\n".join(lines)
