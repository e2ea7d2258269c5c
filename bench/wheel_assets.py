"""January and February through Dagster, Iceberg, Feast and MLflow, as `make demo` does them.

Expects `FLYWHEEL_HOME` to be an empty folder.
"""

from __future__ import annotations

from datetime import date
from typing import Any

from bench.measure import Stopwatch, report
from flywheel.services import prepare_dagster_home
from flywheel.settings import Settings

FIRST_DAY, AS_OF = date(2013, 1, 1), date(2013, 3, 1)


def main() -> None:
    """Materialize everything up to the evaluation; report scores and where the time went."""
    watch = Stopwatch()
    watch.watch_imports()
    import dagster as dg

    from assets.discovery import domains
    from assets.lifecycle.names import Lifecycle
    from definitions import build_definitions
    from jobs.demo import QUIET, range_tags, trust_the_page_cache

    trust_the_page_cache()
    prepare_dagster_home(Settings())
    definitions = build_definitions()
    with watch.part("Dagster's databases, made"):
        instance = dg.DagsterInstance.get()
    life = Lifecycle("flights", next(d for d in domains() if d.name == "flights").models[0])
    watch_parts(watch, life.spec)

    def run(job: str, **arguments: Any) -> None:
        result = definitions.resolve_job_def(job).execute_in_process(
            instance=instance, run_config=QUIET, **arguments
        )
        assert result.success

    run("flights_reference")
    run("flights_data", tags=range_tags((FIRST_DAY, AS_OF)))
    run(
        f"{life.spec.name}_training",
        partition_key=AS_OF.isoformat(),
        asset_selection=[life.key(step) for step in ("training_set", "model", "evaluation")],
    )
    parts = watch.parts()
    report({"parts": parts, "scores": scores_of(life)})


def watch_parts(watch: Stopwatch, spec: Any) -> None:
    """Charge what the parts of the wheel do to their names."""
    from dagster._core.storage.event_log import SqliteEventLogStorage

    from assets.lifecycle import training
    from flywheel import plots
    from flywheel.trainers.tabular import TabularNetwork
    from resources import registry
    from resources.feature_store import FeatureStore
    from resources.lakehouse import Lakehouse

    watch.watch(TabularNetwork, "fit", "fit")
    for baseline in spec.baselines.values():
        watch.watch(type(baseline), "score", "baselines")
    for method in ("store_event", "store_event_batch"):
        watch.watch(SqliteEventLogStorage, method, "event log")
    watch.watch(Lakehouse, "write", "Iceberg writes")
    watch.watch(Lakehouse, "read", "Iceberg reads")
    watch.watch(FeatureStore, "historical", "Feast offline")
    watch.watch(FeatureStore, "materialize", "Feast online")
    for method in ("versions", "find", "register", "alias", "bundle"):
        watch.watch(registry.Registry, method, "MLflow")
    for method in ("log", "log_directory"):
        watch.watch(registry.Run, method, "MLflow")
    watch.watch(registry, "_client", "MLflow's database, made")
    watch.watch(training, "_write_bundle", "bundle")
    for plot in ("training_curve", "roc", "reliability"):
        watch.watch(plots, plot, "plots")


def scores_of(life: Any) -> dict[str, dict[str, float]]:
    """What the evaluation found on the last days, by contestant."""
    from assets.lifecycle.evaluation import RECENT, SCORES
    from flywheel.evidence import ALL
    from resources.build import default_resources
    from resources.ledger import Ledger

    resources = default_resources(Settings())
    ledger = Ledger(resources["lakehouse"], resources["registry"])
    evaluated, _ = ledger.evaluations(life.spec.name)[-1]
    found: dict[str, dict[str, float]] = {}
    for row in ledger.figures(evaluated.evaluation_id):
        if (row["window"], row["slice_column"]) == (RECENT, ALL) and row["metric"] in SCORES:
            scores = found.setdefault(row["contestant"], {"rows": row["rows"]})
            scores[row["metric"]] = row["value"]
    return found


if __name__ == "__main__":
    main()
