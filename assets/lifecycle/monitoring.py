"""Predictions, drift, performance: what was served, whether the world moved, how good it was."""

import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.authoring import AssetContext, trailing
from assets.lifecycle import inputs
from assets.lifecycle.cases import cases_of
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.training import PROFILE_FILE
from flywheel.dataset import Dataset, arrow_type, columns, required
from flywheel.model import ModelSpec
from resources.lakehouse import Lakehouse, Window
from resources.registry import Registry
from resources.serving import Serving

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

DRIFT_CHECK = "drift"

PERFORMANCE = ("base_rate", "mean_probability", "auc", "log_loss", "brier", "ece")


def predictions_table(spec: ModelSpec) -> Dataset:
    """One row per request that was answered."""
    return Dataset(
        name=f"{spec.name}_predictions",
        key=("event_timestamp", "request_id"),
        partition_by="event_timestamp",
        columns=columns(
            required("request_id", "string", "Unique id of the request."),
            required("event_timestamp", "timestamp", "The moment the question is about."),
            required("received_at", "timestamp", "When the gateway received it."),
            required("entity_id", "string", f"The case ({spec.spine.entity_id})."),
            required("model_version", "string", "Version that answered."),
            required("role", "string", "Part it played, e.g. `champion`."),
            required("probability", "float64", "The answer."),
            required("defaulted", "list<string>", "Inputs that were missing."),
            required("latency_ms", "float64", "Milliseconds inside the gateway."),
            ("label", "bool", "What came of it; null while unknown."),
            ("label_known_at", "timestamp", "When that became known."),
            *((c.name, c.dtype, c.description) for c in inputs.input_columns(spec)),
        ),
    )


def drift_table(spec: ModelSpec) -> Dataset:
    """One row per day and input."""
    return Dataset(
        name=f"{spec.name}_drift",
        key=("day", "input"),
        partition_by="day",
        columns=columns(
            required("day", "date", "Last day of the window."),
            required("input", "string", "Model input."),
            required("psi", "float64", "Population stability index against the training window."),
            ("limit", "float64", "Threshold; null for inputs that cannot trigger training."),
            required("drifted", "bool", "Over its threshold, on enough predictions."),
            required("rows", "int64", "Predictions in the window."),
            required("model_version", "string", "The version whose training window it is."),
        ),
    )


def performance_table(spec: ModelSpec) -> Dataset:
    """One row per day and version that served."""
    return Dataset(
        name=f"{spec.name}_performance",
        key=("day", "model_version"),
        partition_by="day",
        columns=columns(
            required("day", "date", "Day of the predictions."),
            required("model_version", "string", "Version that answered."),
            required("predictions", "int64", "Requests answered."),
            required("labelled", "int64", "Those whose outcome is known."),
            *((name, "float64", f"{name} over the labelled ones.") for name in PERFORMANCE),
        ),
    )


def predictions(life: Lifecycle) -> dg.AssetsDefinition:
    """The asset that brings the prediction log into the lakehouse, joined with the outcomes."""
    spec = life.spec

    @dg.asset(
        key=life.key("predictions"),
        partitions_def=life.days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[life.sibling(spec.spine.dataset.name), life.key("deployment")],
        io_manager_key="io_manager",
        pool="lakehouse",
        **life.facts(
            "Every answered request of the day, with the inputs that were used, from the gateway's "
            "durable log; joined with what came of it, as far as that is known.",
            "iceberg",
        ),
    )
    def compute(
        context: dg.AssetExecutionContext, lakehouse: Lakehouse, serving: Serving
    ) -> dg.Output[Any]:
        import pyarrow as pa
        import pyarrow.compute as pc

        start, end = AssetContext(context).instants
        table = predictions_table(spec)
        logged = _logged(spec, Path(serving.spool), start, end)
        earlier = _earlier(
            lakehouse, life.table("predictions"), Window("event_timestamp", start, end)
        )
        rows: dict[str, dict[str, Any]] = {}
        for row in (*earlier, *logged):
            # A request id that comes again is the same request: its first answer stays.
            rows.setdefault(row["request_id"], row)
        answers = pa.Table.from_pylist(list(rows.values()), schema=table.schema)
        answers = _with_outcomes(life, lakehouse, answers, *AssetContext(context).dates)
        labelled = answers.num_rows - answers.column("label").null_count
        defaulted = pc.sum(pc.greater(pc.list_value_length(answers.column("defaulted")), 0)).as_py()
        return dg.Output(
            table.conform(answers),
            metadata={"labelled": labelled, "with_defaulted_inputs": defaulted or 0},
        )

    return compute


def drift(life: Lifecycle) -> dg.AssetsDefinition:
    """The asset that compares what was served with what the champion was trained on."""
    spec = life.spec
    policy = spec.drift

    @dg.asset(
        key=life.key("drift"),
        partitions_def=life.days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        ins={
            "predictions": dg.AssetIn(
                life.key("predictions"), partition_mapping=trailing(policy.window_days - 1)
            )
        },
        check_specs=[
            dg.AssetCheckSpec(
                DRIFT_CHECK,
                asset=life.key("drift"),
                description="No signal has moved past its threshold. A warning: it asks for "
                "training and blocks nothing.",
            )
        ],
        io_manager_key="io_manager",
        pool="lakehouse",
        **life.facts(
            f"Population stability of every input over the last {policy.window_days} days of "
            "predictions against the champion's training window. Signals that may trigger training "
            f"have a threshold: {', '.join(policy.signals)}.",
            "iceberg",
        ),
    )
    def compute(
        context: dg.AssetExecutionContext, predictions: Any, registry: Registry
    ) -> Iterator[dg.Output[Any] | dg.AssetCheckResult]:
        import pyarrow as pa

        start, end = AssetContext(context).dates
        reports = {
            day: report
            for day in spec.calendar.days(start, end)
            if (report := _drift_of_day(spec, day, predictions, registry)) is not None
        }
        rows = [
            {
                "day": day,
                "input": name,
                "psi": psi,
                "limit": report.limits.get(name),
                "drifted": name in report.drifted,
                "rows": report.rows,
                "model_version": version,
            }
            for day, (version, report) in reports.items()
            for name, psi in report.psi.items()
        ]
        table = drift_table(spec)
        last = max(reports, default=None)
        metadata: dict[str, Any] = {"day": str(last)}
        if last is None:
            passed, verdict = True, "nothing was served"
        else:
            report = reports[last][1]
            passed, verdict = not report.drifted, report.sentence()
            metadata["psi"] = dg.MetadataValue.md(_psi_plot(spec, report, last))
        yield dg.Output(
            table.conform(pa.Table.from_pylist(rows, schema=table.schema)),
            metadata={**metadata, "verdict": verdict},
        )
        yield dg.AssetCheckResult(
            check_name=DRIFT_CHECK,
            passed=passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=verdict,
            metadata={"day": str(last), "verdict": verdict},
        )

    return compute


def performance(life: Lifecycle) -> dg.AssetsDefinition:
    """The asset that scores the predictions whose outcome is known."""
    spec = life.spec

    @dg.asset(
        key=life.key("performance"),
        partitions_def=life.days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        ins={"predictions": dg.AssetIn(life.key("predictions"))},
        io_manager_key="io_manager",
        pool="lakehouse",
        **life.facts(
            "Scores of the day's predictions, once their outcomes are known, by version.",
            "iceberg",
        ),
    )
    def compute(predictions: Any) -> dg.Output[Any]:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        from flywheel.plots import reliability

        table = performance_table(spec)
        rows = list(_performance_rows(spec, predictions))
        labelled = predictions.filter(pc.is_valid(predictions.column("label")))
        metadata: dict[str, Any] = {"labelled": labelled.num_rows}
        label = inputs.numpy_column(labelled, "label").astype(np.float64)
        if len(set(label)) > 1:
            served = {"served": labelled.column("probability").to_numpy()}
            metadata |= _overall(label, served["served"])
            metadata["calibration"] = dg.MetadataValue.md(reliability(label, served))
        return dg.Output(
            table.conform(pa.Table.from_pylist(rows, schema=table.schema)), metadata=metadata
        )

    return compute


def _logged(
    spec: ModelSpec, spool: Path, start: datetime, end: datetime
) -> Iterator[dict[str, Any]]:
    """The log's records whose moment lies in [start, end), as table rows."""
    from flywheel_serving.prediction_log import read_spool

    names = [i.name for i in spec.inputs]
    for record in read_spool(spool, spec.name):
        moment = datetime.fromisoformat(record.event_timestamp)
        if start <= moment < end:
            yield {
                "request_id": record.request_id,
                "event_timestamp": moment,
                "received_at": datetime.fromisoformat(record.received_at),
                "entity_id": record.entity_id,
                "model_version": record.model_version,
                "role": record.role,
                "probability": record.probability,
                "defaulted": list(record.defaulted_features),
                "latency_ms": record.latency_ms,
                **{name: record.features.get(name) for name in names},
            }


def _earlier(lakehouse: Lakehouse, name: str, window: Window) -> list[dict[str, Any]]:
    """Rows of the window that are in the table already: the log may have been pruned since."""
    return lakehouse.read(name, window).to_pylist() if lakehouse.exists(name) else []


def _with_outcomes(
    life: Lifecycle, lakehouse: Lakehouse, answers: "pa.Table", start: date, end: date
) -> "pa.Table":
    """The answers with the label of their case, as known now."""
    import pyarrow as pa
    import pyarrow.compute as pc

    spine = life.spec.spine
    cases = cases_of(life, lakehouse, start, end)
    places = pc.index_in(
        answers.column("entity_id"),
        cases.column(spine.entity_id).cast(pa.string()).combine_chunks(),
    )
    for name, column in (("label", spine.label), ("label_known_at", spine.label_known_at)):
        index = answers.schema.get_field_index(name)
        values = cases.column(column).take(places)
        answers = answers.set_column(index, answers.schema.field(name), values)
    return answers


def _drift_of_day(
    spec: ModelSpec, day: date, predictions: "pa.Table", registry: Registry
) -> tuple[str, Any] | None:
    """Version and drift report of the window that ends with `day`; None if nothing was served."""
    from flywheel.drift import Profile, compare

    policy = spec.drift
    served = _between(spec, predictions, day, day + timedelta(days=1))
    if not served.num_rows:
        return None
    version = served.column("model_version")[-1].as_py()  # sorted by time: the last to serve
    window = _between(
        spec, predictions, day - timedelta(days=policy.window_days - 1), day + timedelta(days=1)
    )
    bundle = registry.bundle({v.number: v for v in registry.versions(spec.name)}[version])
    reference = Profile.from_json(json.loads((bundle / PROFILE_FILE).read_text()))
    values = {i.name: inputs.numpy_column(window, i.name) for i in spec.inputs}
    served_days = {spec.calendar.day_of(t) for t in window.column("event_timestamp").to_pylist()}
    return version, compare(
        reference,
        values,
        len(served_days),
        signals=policy.signals,
        threshold=policy.threshold,
        margin=policy.margin,
        min_rows=policy.min_rows,
    )


def _between(spec: ModelSpec, predictions: "pa.Table", start: date, end: date) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.compute as pc

    when = predictions.column("event_timestamp")
    first, last = (
        pa.scalar(spec.calendar.midnight(d), arrow_type("timestamp")) for d in (start, end)
    )
    return predictions.filter(pc.and_(pc.greater_equal(when, first), pc.less(when, last)))


def _performance_rows(spec: ModelSpec, predictions: "pa.Table") -> Iterator[dict[str, Any]]:
    """One row per local day and version."""
    import numpy as np
    import pyarrow.compute as pc

    days = [spec.calendar.day_of(t) for t in predictions.column("event_timestamp").to_pylist()]
    versions = predictions.column("model_version").to_pylist()
    groups: dict[tuple[date, str], list[int]] = {}
    for place, group in enumerate(zip(days, versions, strict=True)):
        groups.setdefault(group, []).append(place)
    for (day, version), places in sorted(groups.items()):
        rows = predictions.take(places)
        known = rows.filter(pc.is_valid(rows.column("label")))
        label = inputs.numpy_column(known, "label").astype(np.float64)
        scores: Mapping[str, float | None] = dict.fromkeys(PERFORMANCE)
        if len(set(label)) > 1:
            scores = _overall(label, known.column("probability").to_numpy())
        yield {
            "day": day,
            "model_version": version,
            "predictions": rows.num_rows,
            "labelled": known.num_rows,
            **scores,
        }


def _overall(label: "np.ndarray", probability: "np.ndarray") -> dict[str, float]:
    from flywheel.evaluation import score

    scores = score(label, probability).as_dict()
    return {name: scores[name] for name in PERFORMANCE}


def _psi_plot(spec: ModelSpec, report: Any, day: date) -> str:
    from flywheel.plots import bars_against_limit

    # All signals, and the inputs that moved most beside them.
    others = sorted(set(report.psi) - set(report.limits), key=lambda n: report.psi[n])[-12:]
    shown = {name: report.psi[name] for name in (*report.limits, *others)}
    return bars_against_limit(
        shown, report.limits, title=f"{spec.name}: drift up to {day}", unit="PSI (tick: threshold)"
    )
