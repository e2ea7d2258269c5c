"""The sweep: which parameters a trainer would do best with, from what was known on a morning."""

import dataclasses
import hashlib
import tempfile
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.lifecycle import inputs
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.training import materialization_tags, split_rows, training_data
from assets.lifecycle.tuned import sweep_table, trainer_name
from flywheel.model import ModelSpec
from flywheel.study import RECIPE, Study, run_study
from flywheel.study_place import save_study
from flywheel.sweep import Sweep, Trial, best, to_json
from resources.lakehouse import fingerprint
from resources.registry import Registry, Run
from resources.sweeps import Sweeps

if TYPE_CHECKING:
    import pyarrow as pa


def sweep(life: Lifecycle) -> dg.AssetsDefinition:
    """The asset that searches the trainer's parameters on a training set, a row per trial."""
    spec, declared = life.spec, life.spec.sweep
    if declared is None:
        raise dg.DagsterInvalidDefinitionError(f"{spec.name} declares no sweep")

    @dg.asset(
        key=life.key("sweep"),
        partitions_def=life.as_of,
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
        ins={"training_set": dg.AssetIn(life.key("training_set"))},
        code_version=spec.trainer.version,
        io_manager_key="io_manager",
        pool="training",
        **life.facts(
            f"{declared.trials} trials of {', '.join(sorted(declared.space))} by the validation "
            "log-loss; the held-out days are not looked at. Models of this morning and later take "
            "the best parameters.",
            "iceberg",
            "mlflow",
            "optuna",
        ),
    )
    def compute(
        context: dg.AssetExecutionContext, training_set: Any, registry: Registry, sweeps: Sweeps
    ) -> dg.Output[Any]:
        as_of = context.partition_key
        rows = split_rows(training_set, inputs.TRAIN)
        vocabularies = inputs.vocabularies_of(spec, rows)
        manifest = inputs.manifest_of(spec, life.domain, "0", as_of, vocabularies, {})
        data, validation = training_data(manifest, rows)
        place = sweeps.of(f"{spec.name}-{as_of}-{_identity(spec, declared, rows)}")
        tags = materialization_tags(context, life.key("sweep"))
        with registry.run(spec.name, f"sweep {as_of}", tags) as run:
            told = _Told(context, spec, registry, run)
            study = run_study(
                declared, spec.trainer, data.rows(~validation), data.rows(validation), spec.seed,
                place, told,
            )  # fmt: skip
            found = best(study.trials)
            assert found is not None  # else the study raised
            run.log(
                parameters={
                    "as_of": as_of,
                    "trainer": type(spec.trainer).__name__,
                    "sampler": declared.sampler,
                    "pruner": declared.pruner,
                    "trials": declared.trials,
                    "best_trial": found.number,
                    **{f"best.{name}": value for name, value in found.parameters.items()},
                },
                metrics=_figures(study),
            )
            with tempfile.TemporaryDirectory(prefix=f"{spec.name}-") as folder:
                save_study(place, Path(folder) / "study.journal")
                run.log_directory(Path(folder), "study")
            url = registry.run_url(run)
        return dg.Output(
            _table(spec, date.fromisoformat(as_of), study),
            metadata={
                **_figures(study),
                "best_trial": found.number,
                "best_parameters": dg.MetadataValue.json(dict(found.parameters)),
                "mlflow_run": dg.MetadataValue.url(url),
                **_plots(declared, study),
            },
        )

    return compute


class _Told:
    """Logs each finished trial, and gives it a run of its own under the sweep's."""

    def __init__(
        self, context: dg.AssetExecutionContext, spec: ModelSpec, registry: Registry, run: Run
    ) -> None:
        self._context, self._spec, self._registry, self._run = context, spec, registry, run
        self._trials: list[Trial] = []

    def __call__(self, trial: Trial) -> None:
        self._trials.append(trial)
        found = best(self._trials)
        assert self._spec.sweep is not None  # else there is no study
        self._context.log.info(
            f"trial {trial.number} ({len(self._trials)} of {self._spec.sweep.trials}): "
            f"{trial.state}{'' if trial.value is None else f', {trial.value:.5f}'} in "
            f"{trial.seconds:.0f} s with {to_json(trial.parameters)}"
            f"{f'; {trial.sentence}' if trial.sentence else ''}"
            f"{f'; best {found.value:.5f} of trial {found.number}' if found else ''}"
        )
        name = f"trial {trial.number}"
        with self._registry.run(
            self._spec.name, name, {"trial": str(trial.number)}, self._run
        ) as child:
            known = {"validation_loss": trial.value, "epochs": trial.epochs}
            child.log(
                parameters=trial.parameters,
                metrics={n: float(v) for n, v in known.items() if v is not None}
                | {"seconds": trial.seconds},
                tags={"state": trial.state, "sentence": trial.sentence or ""},
            )


def _identity(spec: ModelSpec, declared: Sweep, rows: "pa.Table") -> str:
    """What a study's trials follow from; not how many there are, so that more can be added."""
    import optuna

    searched = dataclasses.replace(declared, space=dict(sorted(declared.space.items())), trials=1)
    trainer = (spec.trainer, spec.trainer.version, spec.seed)
    digest = hashlib.sha256(fingerprint(rows).encode())
    digest.update(repr((searched, spec.inputs, trainer, RECIPE, optuna.__version__)).encode())
    digest.update(inputs.transform_source(spec) or b"")
    return digest.hexdigest()[:16]


def _table(spec: ModelSpec, as_of: date, study: Study) -> "pa.Table":
    import pyarrow as pa

    table = sweep_table(spec)
    rows = [
        {
            "as_of": as_of,
            "trial": trial.number,
            **{
                name: getattr(trial, name)
                for name in ("state", "value", "epochs", "seconds", "sentence")
            },
            "parameters": to_json(trial.parameters),
            "trainer": trainer_name(spec.trainer),
        }
        for trial in study.trials
    ]
    return table.conform(pa.Table.from_pylist(rows, schema=table.schema))


def _figures(study: Study) -> dict[str, float]:
    """Losses of the best and of the declared parameters, and how the trials ended."""
    found, declared = best(study.trials), study.trials[0]
    values = {
        "best_validation_loss": found.value if found else None,
        "declared_validation_loss": declared.value if declared.state == "complete" else None,
        **{
            f"{state}_trials": float(sum(trial.state == state for trial in study.trials))
            for state in ("complete", "pruned", "failed")
        },
    }
    return {name: value for name, value in values.items() if value is not None}


def _plots(declared: Sweep, study: Study) -> dict[str, Any]:
    from flywheel.plots import parallel_coordinates, parameter_importance, search_history

    logarithmic = [name for name, values in declared.space.items() if getattr(values, "log", False)]
    pictures = {
        "history": search_history(study.trials),
        "parallel_coordinates": parallel_coordinates(study.trials, logarithmic),
    }
    if study.importances:
        pictures["parameter_importance"] = parameter_importance(study.importances)
    return {name: dg.MetadataValue.md(picture) for name, picture in pictures.items()}
