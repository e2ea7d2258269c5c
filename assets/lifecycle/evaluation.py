"""Evaluation: candidate, champion and baselines on the same cases, and what the gates say of it."""

import hashlib
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.lifecycle import inputs
from assets.lifecycle.card import card_of, log_card, text_of
from assets.lifecycle.gathering import gather
from assets.lifecycle.histories import entered
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.scored import CANDIDATE, CHAMPION, Scored
from assets.lifecycle.training import materialization_tags, split_rows
from flywheel.evaluation import Origin, Scores
from flywheel.evidence import StoredVerdict, judge
from flywheel.gates import Cases
from flywheel.model import ModelSpec
from resources.feature_store import FeatureStore
from resources.lakehouse import Lakehouse, fingerprint
from resources.ledger import Evaluation, Ledger
from resources.registry import CHALLENGER, Registry, Version
from resources.trials import Trials

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

RECENT, STABLE = "recent", "stable"
SCORES = [name for name in Scores.__dataclass_fields__ if name != "rows"]


class EvaluationError(RuntimeError):
    """An evaluation cannot be made or used; the message says what to run first."""


def evaluation(life: Lifecycle) -> dg.AssetsDefinition:
    """The asset that scores candidate, champion and baselines on the same held-out cases."""
    spec = life.spec

    @dg.asset(
        key=life.key("evaluation"),
        partitions_def=life.as_of,
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
        ins={"training_set": dg.AssetIn(life.key("training_set"))},
        deps=[life.key("model")],
        pool="training",
        **life.facts(
            f"Candidate, champion and baselines on the last {spec.holdout_days} days before "
            "`as_of`, and on the stable days of all history, none of which any version was trained "
            "on. Every figure and every gate's verdict is a row of `lifecycle.evaluations` and "
            "`lifecycle.verdicts`.",
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
        trials: Trials,
    ) -> dg.MaterializeResult[Any]:
        as_of = date.fromisoformat(context.partition_key)
        ledger = Ledger(lakehouse, registry)
        candidate = candidate_of(spec, context.partition_key, registry)
        champion = ledger.champion(spec.name)
        held_out = split_rows(training_set, inputs.HOLDOUT)
        if not held_out.num_rows:
            raise EvaluationError(
                f"{spec.name}: no labelled case in the {spec.holdout_days} days before {as_of}"
            )
        stable = split_rows(training_set, inputs.STABLE)
        windows = _score(spec, candidate, champion, training_set, (held_out, stable), registry)
        gathered = gather(
            life, as_of, registry.bundle(candidate), windows[RECENT], held_out,
            lakehouse, feature_store, trials,
        )  # fmt: skip
        evaluated = Evaluation(
            evaluation_id=_identity(context, spec.name),
            model=spec.name,
            as_of=as_of,
            candidate=candidate.number,
            champion=champion.number if champion else None,
            holdout=fingerprint(held_out.select(["entity_id", "label"]))[:16],
            at=datetime.now(UTC),
        )
        recent = windows[RECENT]
        verdicts = judge(spec.gates, gathered.contest)
        figures = {name: _figures(spec, window) for name, window in windows.items()}
        plots = _plots(spec, recent)
        card = card_of(
            life, candidate, registry, recent, figures[RECENT], verdicts, evaluated.champion
        )
        tags = materialization_tags(context, life.key("evaluation"))
        with registry.run(spec.name, f"evaluation {context.partition_key}", tags) as run:
            run.log(
                metrics={
                    f"{window}/{name}/{metric}": float(value)
                    for window, scored in windows.items()
                    for name, one in scored.scores.items()
                    for metric, value in one.as_dict().items()
                },
                tags={
                    "model_version": candidate.number,
                    "evaluation_id": evaluated.evaluation_id,
                    "passed": str(all(v.verdict.passed for v in verdicts)),
                },
            )
            url = registry.run_url(run)
        page = log_card(registry, candidate, card, plots, url)
        ledger.enter(evaluated, figures, verdicts)
        if champion is None or champion.number != candidate.number:
            registry.set_alias(candidate, CHALLENGER)
        for event in entered("evaluations", "verdicts"):
            context.log_event(event)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(evaluated.evaluation_id),
            metadata={
                "mlflow_run": dg.MetadataValue.url(url),
                "evaluation_id": evaluated.evaluation_id,
                "passed": all(v.verdict.passed for v in verdicts),
                "verdict": dg.MetadataValue.md(verdict_table(verdicts)),
                "scores": dg.MetadataValue.md(_score_table(windows, evaluated)),
                "card": dg.MetadataValue.md(text_of(card)),
                "card_page": dg.MetadataValue.url(page),
                **recent.scores[CANDIDATE].as_dict(),
                **({"parity": gathered.parity.sentence} if gathered.parity else {}),
                **{name: dg.MetadataValue.md(plot) for name, plot in plots.items()},
            },
        )

    return compute


def origin(life: Lifecycle, one: Evaluation) -> Origin:
    """What an evaluation was made by and of, with the command that makes it again."""
    return Origin(
        asset=life.key("evaluation").to_user_string(),
        as_of=one.as_of.isoformat(),
        holdout=one.holdout,
        harness=one.harness,
    )


def candidate_of(spec: ModelSpec, as_of: str, registry: Registry) -> Version:
    """The newest version of a morning.

    Raises:
        EvaluationError: There is none.
    """
    for version in registry.versions(spec.name):
        if version.tags.get("as_of") == as_of:
            return version
    raise EvaluationError(f"{spec.name} has no version of {as_of}: materialize its model asset")


def predict(registry: Registry, version: Version, rows: "pa.Table") -> "np.ndarray":
    """What a version says of rows with its inputs as columns, float32 [n]."""
    from flywheel.onnx_runtime import predict
    from flywheel_serving.bundle import open_bundle

    bundle = open_bundle(registry.bundle(version))
    return predict(bundle.model_path.read_bytes(), inputs.encode(bundle.manifest, rows))


def verdict_table(verdicts: list[StoredVerdict]) -> str:
    """The verdicts as a Markdown table."""
    lines = ["| gate | verdict | because |", "|---|---|---|"]
    lines += [
        f"| {v.gate} | {'pass' if v.passed else '**fail**'} | {v.sentence} |"
        for v in (one.verdict for one in verdicts)
    ]
    return "\n".join(lines)


def _identity(context: dg.AssetExecutionContext, model: str) -> str:
    """The same for every retry of a step, another one for every run."""
    text = f"{context.run.run_id}/{model}/{context.partition_key}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _score(
    spec: ModelSpec,
    candidate: Version,
    champion: Version | None,
    training_set: "pa.Table",
    parts: "tuple[pa.Table, pa.Table]",
    registry: Registry,
) -> dict[str, Scored]:
    """Every contestant on every window that has days enough; each is fitted or loaded once."""
    import numpy as np
    import pyarrow as pa

    from flywheel.evaluation import score
    from flywheel_serving.bundle import open_bundle

    rows = pa.concat_tables(parts)
    predictions = {CANDIDATE: predict(registry, candidate, rows)}
    if champion is not None:
        predictions[CHAMPION] = predict(registry, champion, rows)
    manifest = open_bundle(registry.bundle(candidate)).manifest
    train = inputs.encode(manifest, split_rows(training_set, inputs.TRAIN))
    cases = inputs.encode(manifest, rows)
    for name, baseline in spec.baselines.items():
        predictions[name] = baseline.score(train, cases, spec.seed)
    windows: dict[str, Scored] = {}
    first = 0
    for window, part in zip((RECENT, STABLE), parts, strict=True):
        mine = {n: p[first : first + part.num_rows] for n, p in predictions.items()}
        first += part.num_rows
        label = inputs.numpy_column(part, "label").astype(np.float64)
        day = np.array(
            [spec.calendar.day_of(t).toordinal() for t in part["event_timestamp"].to_pylist()]
        )
        if window == STABLE and (len(set(day)) < 2 or len(set(label)) < 2):
            continue  # a young history has no two stable days to resample yet
        scored = Cases(
            label, day, mine[CANDIDATE], mine.get(CHAMPION),
            slices=inputs.slice_values(spec, part),
            features={i.name: inputs.numpy_column(part, i.name) for i in spec.inputs},
            seed=spec.seed,
        )  # fmt: skip
        windows[window] = Scored(scored, mine, {n: score(label, p) for n, p in mine.items()})
    return windows


def _figures(spec: ModelSpec, scored: Scored) -> list[Any]:
    from flywheel.evidence import calibration_bins, decisions, figures

    return [
        *figures(scored.cases, scored.predictions, CANDIDATE, spec.costs.calibrated_threshold),
        *decisions(scored.cases, scored.rivals, spec.costs),
        *calibration_bins(scored.cases, scored.rivals),
    ]


def _score_table(windows: dict[str, Scored], evaluated: Evaluation) -> str:
    """All contestants on all windows."""
    versions = {CANDIDATE: evaluated.candidate, CHAMPION: evaluated.champion or ""}
    head = ["window", "contestant", "version", "cases", *SCORES]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for window, scored in windows.items():
        for name, one in scored.scores.items():
            values = [f"{one.as_dict()[metric]:.4f}" for metric in SCORES]
            cells = [window, name, versions.get(name, ""), f"{one.rows:,}", *values]
            lines.append("| " + " | ".join(cells) + " |")
    if STABLE not in windows:
        lines.append("\nThe history is too short for two stable days with both outcomes.")
    return "\n".join(lines)


def _plots(spec: ModelSpec, recent: Scored) -> dict[str, str]:
    from flywheel.evaluation import average_precision
    from flywheel.plots import precision_recall, reliability, roc, threshold_costs

    label = recent.cases.label
    areas = {name: one.auc for name, one in recent.scores.items()}
    precisions = {n: average_precision(label, p) for n, p in recent.predictions.items()}
    return {
        "roc": roc(label, recent.predictions, areas),
        "precision_recall": precision_recall(label, recent.predictions, precisions),
        "calibration": reliability(label, recent.rivals),
        "cost_by_threshold": threshold_costs(label, recent.rivals, spec.costs),
    }
