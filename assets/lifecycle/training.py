"""Training set and model: what one would have trained on a given morning, from what was known."""

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.authoring import trailing
from assets.lifecycle import inputs
from assets.lifecycle.cases import cases_of
from assets.lifecycle.histories import entered
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.story import STORY_FILE, TAGGED, asked_by, read_story, story_of
from assets.lifecycle.tuned import tuned
from flywheel.checkpoints import Checkpoints
from flywheel.column import NUMBERS
from flywheel.dataset import arrow_type
from flywheel.model import ModelSpec
from flywheel.quantization import FLOAT_FILE, QUANTIZATION_VERSION, quantized
from flywheel.story import Meter, environment
from flywheel.training import (
    TrainedModel,
    TrainingData,
    TrainingError,
    validation_cases,
)
from resources.checkpoints import CheckpointFolder
from resources.feature_store import FeatureStore
from resources.io_manager import TAG
from resources.lakehouse import Lakehouse, fingerprint
from resources.ledger import Ledger
from resources.registry import Registry, Run, Version

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from flywheel_serving.bundle import Manifest

PROBE_ROWS = 16

PROFILE_FILE = "profile.json"
ENVIRONMENT_FILE = "environment.txt"

# Its own day and all days before it.
EVER = trailing(100 * 365)


def training_set(life: Lifecycle) -> dg.AssetsDefinition:
    """The asset with the labelled cases of the rolling window before its `as_of` day."""
    spec = life.spec

    @dg.asset(
        key=life.key("training_set"),
        partitions_def=life.as_of,
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
        deps=[
            dg.AssetDep(
                life.sibling(spec.spine.dataset.name),
                partition_mapping=trailing(spec.training_days, until=-1),
            ),
            *(
                dg.AssetDep(
                    life.sibling(view.name),
                    partition_mapping=trailing(
                        spec.training_days + math.ceil(view.ttl / timedelta(days=1)), until=-1
                    ),
                )
                for view in spec.views
            ),
        ],
        io_manager_key="io_manager",
        pool="training",
        **life.facts(
            f"The {spec.training_days} days before `as_of`: every case whose answer was known by "
            f"then, with its inputs as they were known at its moment. The last "
            f"{spec.holdout_days} days are held out, and so is one day in {spec.stable_every_days} "
            "of all history.",
            "iceberg",
            "feast",
        ),
    )
    def compute(
        context: dg.AssetExecutionContext, lakehouse: Lakehouse, feature_store: FeatureStore
    ) -> dg.Output[Any]:
        import pyarrow as pa
        import pyarrow.compute as pc

        as_of = date.fromisoformat(context.partition_key)
        snapshots = pin_inputs(life, as_of, lakehouse)
        cases = labelled_cases(life, as_of, lakehouse, snapshots)
        columns = inputs.input_values(spec, life.domain, cases, feature_store, snapshots)
        rows = training_rows(spec, as_of, cases, columns)
        rows = rows.replace_schema_metadata(
            {**(rows.schema.metadata or {}), TAG: training_tag(life, as_of)}
        )
        return dg.Output(
            rows,
            metadata={
                "training_rows": split_rows(rows, inputs.TRAIN).num_rows,
                "holdout_rows": split_rows(rows, inputs.HOLDOUT).num_rows,
                "stable_rows": split_rows(rows, inputs.STABLE).num_rows,
                "positive_share": pc.mean(rows.column("label").cast(pa.float64())).as_py(),
                "input_snapshots": dg.MetadataValue.json(snapshots),
                "tag": training_tag(life, as_of),
            },
        )

    return compute


def model(life: Lifecycle) -> dg.AssetsDefinition:
    """The asset that trains a version and registers it with its whole story."""
    spec = life.spec

    @dg.asset(
        key=life.key("model"),
        partitions_def=life.as_of,
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
        ins={"training_set": dg.AssetIn(life.key("training_set"))},
        deps=[dg.AssetDep(life.key("sweep"), partition_mapping=EVER)] if spec.sweep else [],
        code_version="+".join(_recipe_versions(spec)),
        pool="training",
        **life.facts(
            f"{spec.description}\n\nA version in the registry: an ONNX file with everything that "
            "serving needs, sealed with hashes.",
            "mlflow",
            "onnx",
            spec.trainer.kind,
        ),
    )
    def compute(
        context: dg.AssetExecutionContext,
        training_set: Any,
        lakehouse: Lakehouse,
        registry: Registry,
        checkpoints: CheckpointFolder,
    ) -> dg.MaterializeResult[Any]:
        as_of = date.fromisoformat(context.partition_key)
        best = tuned(life, as_of, lakehouse)
        identity = training_fingerprint(best.life.spec, training_set)
        snapshots = training_snapshots(life, as_of, lakehouse)
        tags = materialization_tags(context, life.key("model"))
        with registry.run(spec.name, f"model {context.partition_key}", tags) as run:
            version = registry.find(spec.name, identity)
            progress = checkpoints.of(identity)
            if version is None:
                checkpoints.prune(identity)
                trained, version = _train_and_register(
                    best.life, context.partition_key, training_set, identity, registry, run,
                    snapshots, progress, asked_by(context), best.tags,
                )  # fmt: skip
                plot = _training_plot(trained)
                metrics = trained.metrics
            else:
                plot, metrics = {}, {}
            progress.clear()
            if Ledger(lakehouse, registry).remember(version, read_story(registry, version)):
                for event in entered("models"):
                    context.log_event(event)
            run.log(tags={"model_version": version.number, "fingerprint": identity})
            return dg.MaterializeResult(
                data_version=dg.DataVersion(f"{spec.name}-v{version.number}"),
                metadata={
                    "model_version": int(version.number),
                    "trained_now": bool(metrics),
                    "mlflow_run": dg.MetadataValue.url(registry.run_url(run)),
                    "git_commit": version.tags.get("git_commit", "unknown"),
                    "input_snapshots": dg.MetadataValue.json(snapshots),
                    **best.tags,
                    **metrics,
                    **plot,
                },
            )

    return compute


def labelled_cases(
    life: Lifecycle, as_of: date, lakehouse: Lakehouse, snapshots: dict[str, int]
) -> "pa.Table":
    """Cases whose answer was known before the `as_of` day began.

    They are those of the training window, and those of the stable days of all history before it.

    Args:
        life: The model.
        as_of: The morning.
        lakehouse: Where the spine is.
        snapshots: State of it to read, by table; see `pin_inputs`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    spec, spine = life.spec, life.spec.spine
    start = as_of - timedelta(days=spec.training_days)
    table = ".".join(life.sibling(spine.dataset.name).path)
    spans = [(day, day + timedelta(days=1)) for day in inputs.stable_days(spec, start)]
    cases = pa.concat_tables(
        cases_of(life, lakehouse, first, end, snapshots.get(table))
        for first, end in (*spans, (start, as_of))
    )
    cut = pa.scalar(spec.calendar.midnight(as_of), arrow_type("timestamp"))
    known = pc.and_(
        pc.is_valid(cases.column(spine.label)),
        pc.fill_null(pc.less(cases.column(spine.label_known_at), cut), False),
    )
    labelled = cases.filter(known)
    if not labelled.num_rows:
        raise TrainingError(
            f"{spec.name}: no case with a known answer between {start} and {as_of}: materialize "
            f"{life.domain}/{spine.dataset.name} for those days first"
        )
    return labelled


def training_fingerprint(spec: ModelSpec, training_set: "pa.Table") -> str:
    """Identity of what a training would produce: rows, inputs, recipe, seed and transform."""
    versions = _recipe_versions(spec)
    recipe = repr((spec.inputs, spec.trainer, *versions, spec.seed, spec.drift))
    digest = hashlib.sha256(fingerprint(training_set).encode())
    digest.update(recipe.encode())
    digest.update(inputs.transform_source(spec) or b"")
    return digest.hexdigest()


def _recipe_versions(spec: ModelSpec) -> list[str]:
    """Versions of the code that makes a model of its rows."""
    versions = [spec.trainer.version]
    if spec.precision == "int8":
        versions.append(QUANTIZATION_VERSION)
    return versions


def split_rows(training_set: "pa.Table", split: str) -> "pa.Table":
    """The rows to train on, or those held out."""
    import pyarrow.compute as pc

    return training_set.filter(pc.equal(training_set.column("split"), split))


def training_data(
    manifest: "Manifest", rows: "pa.Table"
) -> "tuple[TrainingData, NDArray[np.bool_]]":
    """The rows to train on, encoded, and which of them validate (bool [n])."""
    return inputs.encode(manifest, rows), validation_cases(_day_numbers(rows))


def training_tag(life: Lifecycle, as_of: date) -> str:
    """Name of the states that a training set was made of, and of its own, e.g. `model/2013-03-01`.

    A tag is never expired: the training can be done again for as long as the table lives.
    """
    return f"{life.spec.name}/{as_of.isoformat()}"


def pin_inputs(life: Lifecycle, as_of: date, lakehouse: Lakehouse) -> dict[str, int]:
    """Tag the current state of every table that a training reads, before anything is read.

    Returns:
        Snapshot id by table; a table without rows has none.
    """
    tag = training_tag(life, as_of)
    tagged = {table: lakehouse.tag(table, tag) for table in _input_tables(life)}
    return {table: snapshot for table, snapshot in tagged.items() if snapshot}


def training_snapshots(life: Lifecycle, as_of: date, lakehouse: Lakehouse) -> dict[str, int]:
    """The states that the training set of a morning was made of, and its own."""
    tag = training_tag(life, as_of)
    tables = [*_input_tables(life), life.table("training_set")]
    return {
        table: lakehouse.resolve(table, tag)
        for table in tables
        if tag in lakehouse.table(table).refs()
    }


def _input_tables(life: Lifecycle) -> list[str]:
    names = [life.spec.spine.dataset.name, *(view.name for view in life.spec.views)]
    return [".".join(life.sibling(name).path) for name in names]


def materialization_tags(context: dg.AssetExecutionContext, key: dg.AssetKey) -> dict[str, str]:
    """What identifies this materialization in MLflow."""
    return {
        "dagster_run_id": context.run.run_id,
        "asset": "/".join(key.path),
        "partition": context.partition_key if context.has_partition_key else "",
    }


def training_rows(
    spec: ModelSpec, as_of: date, cases: "pa.Table", columns: "dict[str, pa.ChunkedArray]"
) -> "pa.Table":
    """The training set of a morning, from labelled cases and their inputs."""
    import pyarrow as pa

    spine = spec.spine
    when = cases.column(spine.event_timestamp)
    rows = pa.table(
        {
            "as_of": pa.array([as_of] * cases.num_rows, pa.date32()),
            "entity_id": cases.column(spine.entity_id).cast(pa.string()),
            inputs.EVENT_TIMESTAMP: when,
            "label": cases.column(spine.label),
            "label_known_at": cases.column(spine.label_known_at),
            "split": inputs.splits(spec, as_of, when),
            **columns,
            **{
                column.name: cases.column(column.name).cast(
                    pa.float64() if column.dtype in NUMBERS else pa.string()
                )
                for column in spec.extra_slices
            },
        }
    )
    return inputs.training_set_table(spec).conform(rows)


@dataclass(frozen=True)
class Fitted:
    """A model that was just fitted, before it is anything in a registry.

    Attributes:
        trained: What the trainer gave back.
        manifest: What its bundle will say.
        rows: The rows of the train split.
        data: The same, encoded.
    """

    trained: TrainedModel
    manifest: "Manifest"
    rows: "pa.Table"
    data: TrainingData


def fit(
    life: Lifecycle,
    as_of: str,
    training_set: "pa.Table",
    number: str,
    metadata: Mapping[str, str],
    checkpoints: Checkpoints | None = None,
) -> Fitted:
    """Fit the version of a morning; the same arguments give the same bytes.

    Args:
        life: The model.
        as_of: The morning.
        training_set: All of its rows; only the train split is looked at.
        number: Version number it will have.
        metadata: What else its manifest is to say.
        checkpoints: Where the fit keeps its state.

    Raises:
        TrainingError: The data cannot be learned from, or the fit diverged.
    """
    spec = life.spec
    rows = split_rows(training_set, inputs.TRAIN)
    manifest = inputs.manifest_of(
        spec,
        life.domain,
        number,
        spec.calendar.midnight(date.fromisoformat(as_of)).isoformat(),
        inputs.vocabularies_of(spec, rows),
        {"as_of": as_of, **metadata},
    )
    data, validation = training_data(manifest, rows)
    trained = spec.trainer.fit(
        data.rows(~validation), data.rows(validation), spec.seed, checkpoints
    )
    if spec.precision == "int8":
        trained = quantized(trained)
    return Fitted(trained, manifest, rows, data)


def _train_and_register(
    life: Lifecycle,
    as_of: str,
    training_set: "pa.Table",
    identity: str,
    registry: Registry,
    run: Run,
    snapshots: dict[str, int],
    checkpoints: Checkpoints,
    asked: Mapping[str, str],
    swept: Mapping[str, str],
) -> tuple[TrainedModel, Version]:
    """Fit, write the story, seal the bundle, upload it, and register it last."""
    spec = life.spec
    number = registry.next_number(spec.name)
    commit = run.client.get_run(run.run_id).data.tags["git_commit"]
    with Meter(registry.cpu_hour_price) as meter:
        fitted = fit(
            life, as_of, training_set, number,
            {"mlflow_run": run.run_id, "git_commit": commit}, checkpoints,
        )  # fmt: skip
    story = story_of(life, as_of, fitted, identity, commit, snapshots, meter.usage, asked, swept)
    run.log(
        parameters={**story["parameters"], **swept},
        metrics={
            "training_rows": float(fitted.rows.num_rows),
            **{name: story[name] for name in ("wall_seconds", "cpu_seconds", "cost")},
            **fitted.trained.metrics,
        },
        curves=fitted.trained.curves,
        tags={"input_snapshots": json.dumps(snapshots)},
    )
    _log_inputs(run, snapshots)
    run.client.log_text(run.run_id, "\n".join(environment()) + "\n", ENVIRONMENT_FILE)
    with tempfile.TemporaryDirectory(prefix=f"{spec.name}-") as folder:
        bundle = _write_bundle(Path(folder) / "bundle", spec, fitted, story)
        source = run.log_directory(bundle, "bundle")
    tags = {name: str(story[name]) for name in TAGGED}
    tags |= {
        "registered_at": datetime.now(UTC).isoformat(),
        "input_snapshots": json.dumps(snapshots),
        **swept,
    }
    return fitted.trained, registry.register(spec.name, number, run, source, tags)


def _write_bundle(
    directory: Path, spec: ModelSpec, fitted: Fitted, story: Mapping[str, Any]
) -> Path:
    """The deployed artifact: an MLflow ONNX model with transform, probe, profile and manifest."""
    import mlflow.onnx
    import numpy as np
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from flywheel.drift import profile
    from flywheel.onnx_runtime import predict
    from flywheel_serving.bundle import Probe, seal, write_probe

    data = fitted.data
    signature = ModelSignature(
        inputs=Schema(
            [
                TensorSpec(np.dtype(np.float32), (-1, len(data.numbers)), "numeric"),
                TensorSpec(np.dtype(np.int64), (-1, len(data.categories)), "categorical"),
            ]
        ),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1), "probability")]),
    )
    mlflow.onnx.save_model(
        onnx.load_from_string(fitted.trained.onnx),
        str(directory),
        signature=signature,
        pip_requirements=["onnxruntime"],
        # The default moves the weights out of the object that is being saved.
        save_as_external_data=False,
    )
    source = inputs.transform_source(spec)
    if source is not None:
        (directory / inputs.TRANSFORM_FILE).write_bytes(source)
    if fitted.trained.original is not None:
        (directory / FLOAT_FILE).write_bytes(fitted.trained.original)
    probe = data.rows(np.linspace(0, len(data) - 1, PROBE_ROWS).astype(np.int64))
    expected = predict((directory / "model.onnx").read_bytes(), probe)
    write_probe(
        directory,
        Probe(
            numeric=[[None if np.isnan(v) else float(v) for v in row] for row in probe.numeric],
            categorical=probe.categorical.tolist(),
            probability=[[float(p)] for p in expected],
        ),
    )
    columns = {i.name: inputs.numpy_column(fitted.rows, i.name) for i in spec.inputs}
    described = profile(columns, _day_numbers(fitted.rows), spec.drift.window_days)
    (directory / PROFILE_FILE).write_text(json.dumps(described.as_json(), sort_keys=True))
    (directory / STORY_FILE).write_text(json.dumps(story, sort_keys=True, indent=2))
    seal(directory, fitted.manifest)
    return directory


def _log_inputs(run: Run, snapshots: dict[str, int]) -> None:
    """Tell MLflow which snapshots were read, without reading them again."""
    from mlflow.entities import Dataset, DatasetInput

    run.client.log_inputs(
        run.run_id,
        [
            DatasetInput(Dataset(name, str(snapshot), "iceberg", json.dumps({"table": name})))
            for name, snapshot in snapshots.items()
        ],
    )


def _day_numbers(rows: "pa.Table") -> Any:
    """int64 [n]: days since the epoch (UTC) of each case's moment."""
    import pyarrow as pa

    return rows.column(inputs.EVENT_TIMESTAMP).cast(pa.int64()).to_numpy() // 86_400_000_000


def _training_plot(trained: TrainedModel) -> dict[str, Any]:
    from flywheel.plots import training_curve

    return {"training_curve": dg.MetadataValue.md(training_curve(trained.curves))}
