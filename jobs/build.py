"""The jobs of every domain and model, and the schedules that launch them."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.discovery import Domain
from assets.lifecycle.names import Lifecycle
from jobs.continuous_training import training_schedule
from jobs.replay import replay_job

TRAINING_STEPS = ("training_set", "model", "evaluation", "champion", "deployment")
MONITORING_STEPS = ("predictions", "drift", "performance")


def jobs_and_schedules(
    domains: Iterable[Domain],
) -> tuple[list[UnresolvedAssetJobDefinition | dg.JobDefinition], list[dg.ScheduleDefinition]]:
    """Per domain jobs for its data, per model those that train, watch and exercise it."""
    jobs: list[UnresolvedAssetJobDefinition | dg.JobDefinition] = []
    schedules: list[dg.ScheduleDefinition] = []
    for domain in domains:
        if domain.models:
            upkeep = maintenance_job(domain)
            jobs += [reference_job(domain), data_job(domain), upkeep]
            schedules.append(maintenance_schedule(domain, upkeep))
        for spec in domain.models:
            life = Lifecycle(domain.name, spec)
            train = training_job(life)
            jobs += [train, monitoring_job(life), replay_job(life)]
            if spec.sweep:
                jobs.append(sweep_job(life))
            schedules.append(training_schedule(life, train))
    return jobs, schedules


def data_job(domain: Domain) -> UnresolvedAssetJobDefinition:
    """Datasets and features of a day, and the online store after them."""
    return dg.define_asset_job(
        f"{domain.name}_data",
        dg.AssetSelection.groups(domain.name)
        & (
            dg.AssetSelection.tag("flywheel/layer", "dataset")
            | dg.AssetSelection.tag("flywheel/layer", "features")
        )
        - _unpartitioned(domain),
        description=f"Ingest a day of {domain.name}, compute its features, put them online.",
    )


def reference_job(domain: Domain) -> UnresolvedAssetJobDefinition:
    """The tables that are read whole."""
    return dg.define_asset_job(
        f"{domain.name}_reference",
        _unpartitioned(domain),
        description=f"Refresh the tables of {domain.name} that have no days.",
    )


def maintenance_job(domain: Domain) -> UnresolvedAssetJobDefinition:
    """Upkeep of the domain's tables."""
    return dg.define_asset_job(
        f"{domain.name}_maintenance",
        dg.AssetSelection.assets(dg.AssetKey([domain.name, "maintenance"])),
        description=f"Compact, expire and clear up the tables of {domain.name}.",
    )


def maintenance_schedule(
    domain: Domain, job: UnresolvedAssetJobDefinition
) -> dg.ScheduleDefinition:
    """Upkeep every night: a table without it commits 12 times slower after 400 commits."""
    return dg.ScheduleDefinition(
        name=f"{domain.name}_maintenance",
        job=job,
        cron_schedule="30 3 * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def training_job(life: Lifecycle) -> UnresolvedAssetJobDefinition:
    """From the training set of a morning to what serves."""
    return dg.define_asset_job(
        f"{life.spec.name}_training",
        dg.AssetSelection.assets(*(life.key(step) for step in TRAINING_STEPS)),
        partitions_def=life.as_of,
        description=f"Train {life.spec.name} as of a day, compare it with the champion, and deploy "
        "it if it is better.",
        tags={"flywheel/model": life.spec.name},
    )


def sweep_job(life: Lifecycle) -> UnresolvedAssetJobDefinition:
    """The search of a trainer's parameters: by hand, as it takes many times as long as a fit."""
    return dg.define_asset_job(
        f"{life.spec.name}_sweep",
        dg.AssetSelection.assets(life.key("training_set"), life.key("sweep")),
        partitions_def=life.as_of,
        description=f"Search the parameters of {life.spec.name} as of a day; models of that day "
        "and later take the best.",
        tags={"flywheel/model": life.spec.name},
    )


def monitoring_job(life: Lifecycle) -> UnresolvedAssetJobDefinition:
    """What was served on a day, and how it went."""
    return dg.define_asset_job(
        f"{life.spec.name}_monitoring",
        dg.AssetSelection.assets(*(life.key(step) for step in MONITORING_STEPS)),
        partitions_def=life.days,
        description=f"Collect the predictions of {life.spec.name}, measure drift and performance.",
    )


def _unpartitioned(domain: Domain) -> dg.AssetSelection:
    """The datasets of a domain without partitions."""
    keys = {
        key
        for module in domain.modules
        for value in vars(module).values()
        if isinstance(value, dg.AssetsDefinition) and value.partitions_def is None
        for key in value.keys
    }
    return dg.AssetSelection.assets(*keys)
