"""Evaluation, champion, deployment: who is better, who is to serve, and who serves."""

import json
from collections.abc import Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.lifecycle import inputs
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.parity import replay_parity
from assets.lifecycle.training import materialization_tags, split_rows
from flywheel.dataset import Dataset, columns, required
from flywheel.evaluation import Scores
from flywheel.gates import Contest, Parity, ParityCount, Verdict
from flywheel.model import ModelSpec
from flywheel.parity import ParityReport
from resources.feature_store import FeatureStore
from resources.lakehouse import Lakehouse
from resources.registry import Registry, Version
from resources.serving import Serving

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

CANDIDATE, CHAMPION = "candidate", "champion"
SCORES = [name for name in Scores.__dataclass_fields__ if name != "rows"]


class EvaluationError(RuntimeError):
    """An evaluation cannot be made or used; the message says what to run first."""


def evaluation_table(spec: ModelSpec) -> Dataset:
    """One row per contestant and `as_of` day."""
    return Dataset(
        name=f"{spec.name}_evaluation",
        key=("as_of", "contestant"),
        partition_by="as_of",
        columns=columns(
            required("as_of", "date", "Day of the candidate."),
            required("contestant", "string", "`candidate`, `champion` or a baseline's name."),
            ("model_version", "string", "Registry version; null for a baseline."),
            required("rows", "int64", "Held-out cases, the same for all contestants."),
            *((name, "float64", f"{name} on the held-out cases.") for name in SCORES),
            ("parity_requests", "int64", "Requests replayed; null where no gate asks for it."),
            ("parity_differences", "int64", "Inputs that differed online and offline."),
        ),
    )


def evaluation(life: Lifecycle) -> dg.AssetsDefinition:
    """The asset that scores candidate, champion and baselines on the same held-out cases."""
    spec = life.spec

    @dg.asset(
        key=life.key("evaluation"),
        partitions_def=life.as_of,
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
        ins={"training_set": dg.AssetIn(life.key("training_set"))},
        deps=[life.key("model")],
        io_manager_key="io_manager",
        pool="training",
        **life.facts(
            f"Candidate, champion and baselines on the last {spec.holdout_days} days before "
            "`as_of`, which no version was trained on.",
            "iceberg",
            "mlflow",
        ),
    )
    def compute(
        context: dg.AssetExecutionContext,
        training_set: Any,
        registry: Registry,
        lakehouse: Lakehouse,
        feature_store: FeatureStore,
    ) -> dg.Output[Any]:
        import numpy as np
        import pyarrow as pa

        as_of = date.fromisoformat(context.partition_key)
        candidate = _candidate(spec, context.partition_key, registry)
        champion = registry.champion(spec.name)
        held_out = split_rows(training_set, inputs.HOLDOUT)
        if not held_out.num_rows:
            raise EvaluationError(
                f"{spec.name}: no labelled case in the {spec.holdout_days} days before {as_of}"
            )
        predictions = _predictions(spec, candidate, champion, training_set, held_out, registry)
        label = inputs.numpy_column(held_out, "label").astype(np.float64)
        scores = {name: _score(label, p) for name, p in predictions.items()}
        versions = {CANDIDATE: candidate.number, CHAMPION: champion.number if champion else None}
        parity = _parity(life, as_of, lakehouse, feature_store)
        verdicts = judge(spec, scores, count_of(parity))
        tags = materialization_tags(context, life.key("evaluation"))
        with registry.run(spec.name, f"evaluation {context.partition_key}", tags) as run:
            run.log(
                metrics={
                    f"{name}/{metric}": float(value)
                    for name, one in scores.items()
                    for metric, value in one.as_dict().items()
                },
                tags={"model_version": candidate.number, "verdict": json.dumps(_words(verdicts))},
            )
            url = registry.run_url(run)
        table = [
            {
                "as_of": as_of,
                "contestant": name,
                "model_version": versions.get(name),
                **one.as_dict(),
            }
            for name, one in scores.items()
        ]
        if parity is not None:
            table[0]["parity_requests"] = parity.requests
            table[0]["parity_differences"] = len(parity.differences)
        rows = pa.Table.from_pylist(table, schema=evaluation_table(spec).schema)
        return dg.Output(
            evaluation_table(spec).conform(rows),
            metadata={
                "mlflow_run": dg.MetadataValue.url(url),
                "passed": all(v.passed for v in verdicts),
                "verdict": dg.MetadataValue.md(_verdict_table(verdicts)),
                "scores": dg.MetadataValue.md(_score_table(scores, versions)),
                **scores[CANDIDATE].as_dict(),
                **({"parity": parity.sentence} if parity else {}),
                **_plots(label, predictions, scores),
            },
        )

    return compute


def champion(life: Lifecycle) -> dg.AssetsDefinition:
    """The asset that crowns the newest candidate that passes every gate, or yields nothing."""
    spec = life.spec

    @dg.multi_asset(
        name=f"{life.domain}__{spec.name}_champion",
        specs=[
            dg.AssetSpec(
                life.key("champion"),
                deps=[
                    dg.AssetDep(life.key("evaluation"), partition_mapping=dg.AllPartitionMapping())
                ],
                skippable=True,
                **life.facts(
                    "The version that is to serve. A candidate that does not pass leaves it as it "
                    "is, and the run stays green.",
                    "mlflow",
                ),
            )
        ],
        pool="promotion",
    )
    def compute(
        context: dg.AssetExecutionContext, lakehouse: Lakehouse, registry: Registry
    ) -> Iterator[dg.MaterializeResult[Any]]:
        as_of, scores, versions, parity = _newest_evaluation(life, lakehouse)
        verdicts = judge(spec, scores, parity)
        for verdict in verdicts:
            context.log.info(f"{verdict.gate}: {verdict.sentence}")
        current = registry.champion(spec.name)
        candidate = versions[CANDIDATE]
        if current and current.number == candidate:
            context.log.info(f"version {candidate} is the champion already")
        elif current and current.tags.get("as_of", "") >= as_of:
            context.log.info(
                f"the champion was made on {current.tags['as_of']}: a candidate of {as_of} is older"
            )
            return
        elif (current.number if current else None) != versions.get(CHAMPION):
            raise EvaluationError(
                f"version {candidate} was compared with champion {versions.get(CHAMPION)}, but "
                f"{current.number if current else 'nobody'} is champion now: materialize "
                f"{life.key('evaluation').to_user_string()} for {as_of} again"
            )
        elif not all(v.passed for v in verdicts):
            context.log.info(f"version {candidate} is not crowned; the champion stays")
            return
        else:
            crowned = {v.number: v for v in registry.versions(spec.name)}[candidate]
            registry.crown(crowned)
        yield dg.MaterializeResult(
            asset_key=life.key("champion"),
            data_version=dg.DataVersion(f"{spec.name}-v{candidate}"),
            metadata={
                "model_version": int(candidate),
                "as_of": as_of,
                "replaced": versions.get(CHAMPION) or "nobody",
                "verdict": dg.MetadataValue.md(_verdict_table(verdicts)),
            },
        )

    return compute


def deployment(life: Lifecycle) -> dg.AssetsDefinition:
    """The asset that makes serving agree with the registry."""
    spec = life.spec

    @dg.asset(
        key=life.key("deployment"),
        deps=[life.key("champion")],
        retry_policy=dg.RetryPolicy(max_retries=3, delay=5, backoff=dg.Backoff.EXPONENTIAL),
        pool="promotion",
        **life.facts(
            "The champion behind Triton: loaded, warmed and probed before it gets traffic; the "
            "version before it stays loaded.",
            "triton",
        ),
    )
    def compute(
        context: dg.AssetExecutionContext, registry: Registry, serving: Serving
    ) -> dg.MaterializeResult[Any]:
        version = registry.champion(spec.name)
        if version is None:
            raise EvaluationError(
                f"{spec.name} has no champion: materialize {life.key('champion').to_user_string()}"
            )
        tags = context.run.tags
        deployed = serving.client.deploy(
            registry.bundle(version),
            actor=tags.get("flywheel/actor", "dagster"),
            reason=tags.get("flywheel/reason", f"run {context.run.run_id}"),
            model=spec.name,
        )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(f"{spec.name}-v{deployed.version}"),
            metadata={
                "model_version": int(deployed.version),
                "previous": deployed.previous or "none",
                "changed": deployed.changed,
                "load_seconds": deployed.load_seconds,
                "probe_max_abs_diff": deployed.probe_max_abs_diff,
                "endpoint": dg.MetadataValue.url(f"{serving.url}/v1/models/{spec.name}/predict"),
            },
        )

    return compute


def judge(spec: ModelSpec, scores: dict[str, Scores], parity: ParityCount | None) -> list[Verdict]:
    """Every gate's verdict on an evaluation."""
    contest = Contest(scores[CANDIDATE], scores.get(CHAMPION), parity)
    return [gate.judge(contest) for gate in spec.gates]


def count_of(report: ParityReport | None) -> ParityCount | None:
    """A parity report as a gate takes it."""
    return ParityCount(report.requests, len(report.differences)) if report else None


def _parity(
    life: Lifecycle, as_of: date, lakehouse: Lakehouse, feature_store: FeatureStore
) -> ParityReport | None:
    """Replay requests of the last held-out day, if a gate asks for it."""
    asking = [gate for gate in life.spec.gates if isinstance(gate, Parity)]
    if not asking:
        return None
    limit = max(gate.requests for gate in asking)
    last = as_of - timedelta(days=1)
    return replay_parity(life, last, lakehouse, feature_store, limit=limit)


def _candidate(spec: ModelSpec, as_of: str, registry: Registry) -> Version:
    for version in registry.versions(spec.name):
        if version.tags.get("as_of") == as_of:
            return version
    raise EvaluationError(f"{spec.name} has no version of {as_of}: materialize its model asset")


def _predictions(
    spec: ModelSpec,
    candidate: Version,
    champion: Version | None,
    training_set: "pa.Table",
    held_out: "pa.Table",
    registry: Registry,
) -> "dict[str, np.ndarray]":
    """Probabilities of the held-out cases by contestant."""
    from flywheel.onnx_runtime import predict
    from flywheel_serving.bundle import open_bundle

    def serve(version: Version) -> "np.ndarray":
        bundle = open_bundle(registry.bundle(version))
        return predict(bundle.model_path.read_bytes(), inputs.encode(bundle.manifest, held_out))

    predictions = {CANDIDATE: serve(candidate)}
    if champion is not None:
        predictions[CHAMPION] = serve(champion)
    manifest = open_bundle(registry.bundle(candidate)).manifest
    train = inputs.encode(manifest, split_rows(training_set, inputs.TRAIN))
    cases = inputs.encode(manifest, held_out)
    for name, baseline in spec.baselines.items():
        predictions[name] = baseline.score(train, cases, spec.seed)
    return predictions


def _score(label: "np.ndarray", probability: "np.ndarray") -> Scores:
    from flywheel.evaluation import score

    return score(label, probability)


def _newest_evaluation(
    life: Lifecycle, lakehouse: Lakehouse
) -> tuple[str, dict[str, Scores], dict[str, str], ParityCount | None]:
    """Day, scores, versions and parity of the evaluation of the newest `as_of` day."""
    rows = lakehouse.read(life.table("evaluation")).to_pylist()
    if not rows:
        raise EvaluationError(
            f"{life.table('evaluation')} is empty: materialize the evaluation first"
        )
    newest = max(row["as_of"] for row in rows)
    rows = [row for row in rows if row["as_of"] == newest]
    scores = {
        row["contestant"]: Scores(**{name: row[name] for name in ("rows", *SCORES)}) for row in rows
    }
    versions = {row["contestant"]: row["model_version"] for row in rows if row["model_version"]}
    replayed = [row for row in rows if row["parity_requests"] is not None]
    parity = (
        ParityCount(replayed[0]["parity_requests"], replayed[0]["parity_differences"])
        if replayed
        else None
    )
    return newest.isoformat(), scores, versions, parity


def _words(verdicts: list[Verdict]) -> dict[str, str]:
    return {v.gate: f"{'pass' if v.passed else 'FAIL'}: {v.sentence}" for v in verdicts}


def _verdict_table(verdicts: list[Verdict]) -> str:
    lines = ["| gate | verdict | because |", "|---|---|---|"]
    lines += [
        f"| {v.gate} | {'pass' if v.passed else '**fail**'} | {v.sentence} |" for v in verdicts
    ]
    return "\n".join(lines)


def _score_table(scores: dict[str, Scores], versions: dict[str, str | None]) -> str:
    lines = [f"| contestant | version | {' | '.join(SCORES)} |", "|---" * (2 + len(SCORES)) + "|"]
    for name, one in scores.items():
        values = " | ".join(f"{one.as_dict()[metric]:.4f}" for metric in SCORES)
        lines.append(f"| {name} | {versions.get(name) or ''} | {values} |")
    return "\n".join(lines)


def _plots(
    label: "np.ndarray", predictions: "dict[str, np.ndarray]", scores: dict[str, Scores]
) -> dict[str, Any]:
    from flywheel.plots import reliability, roc

    contestants = {n: p for n, p in predictions.items() if n in (CANDIDATE, CHAMPION)}
    areas = {name: one.auc for name, one in scores.items()}
    return {
        "roc": dg.MetadataValue.md(roc(label, predictions, areas)),
        "calibration": dg.MetadataValue.md(reliability(label, contestants)),
    }
