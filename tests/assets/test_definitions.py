"""What is defined, written down: a change of a key, group, owner or schedule shows up as a diff."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
from syrupy.assertion import SnapshotAssertion

from assets.flights.flight_delay import FLIGHT_DELAY
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.training import model
from definitions import defs
from flywheel.trainers.baselines import GradientBoosting, LogisticRegression
from flywheel.trainers.tabular import TabularNetwork
from flywheel.training import Trainer

REPOSITORY = defs.get_repository_def()
GRAPH = defs.resolve_asset_graph()


def test_the_definitions_are_valid() -> None:
    dg.Definitions.validate_loadable(defs)


def test_the_assets_are_those_written_down(snapshot: SnapshotAssertion) -> None:
    assert {
        key.to_user_string(): asset_facts(key) for key in sorted(GRAPH.get_all_asset_keys())
    } == (snapshot)


@pytest.mark.parametrize("trainer", [TabularNetwork(), GradientBoosting(), LogisticRegression()])
def test_the_catalog_shows_the_library_that_fits_a_model(trainer: Trainer) -> None:
    life = Lifecycle("flights", replace(FLIGHT_DELAY, trainer=trainer))
    assert model(life).get_asset_spec().kinds == {"mlflow", "onnx", trainer.kind}


def test_the_jobs_are_those_written_down(snapshot: SnapshotAssertion) -> None:
    jobs = [j for j in REPOSITORY.get_all_jobs() if not j.name.startswith("__")]
    assert {
        job.name: {
            "assets": sorted(key.to_user_string() for key in job.asset_layer.executable_asset_keys),
            "partitions": partitions(job.partitions_def),
            "tags": dict(job.tags),
        }
        for job in sorted(jobs, key=lambda job: job.name)
    } == snapshot


def test_the_schedules_are_those_written_down(snapshot: SnapshotAssertion) -> None:
    assert {
        schedule.name: {
            "cron": schedule.cron_schedule,
            "zone": schedule.execution_timezone,
            "job": schedule.job_name,
            "status": schedule.default_status.value,
        }
        for schedule in REPOSITORY.schedule_defs
    } == snapshot


def test_the_sensors_are_those_written_down(snapshot: SnapshotAssertion) -> None:
    assert {
        sensor.name: {
            "job": sensor.job_name if sensor.has_jobs or sensor.targets else None,
            "every_seconds": sensor.minimum_interval_seconds,
            "status": sensor.default_status.value,
        }
        for sensor in REPOSITORY.sensor_defs
    } == snapshot


def test_the_resources_are_those_written_down(snapshot: SnapshotAssertion) -> None:
    assert sorted(REPOSITORY.get_top_level_resources()) == snapshot


def asset_facts(key: dg.AssetKey) -> dict[str, Any]:
    """What somebody relies on: all but the words of the description."""
    node = GRAPH.get(key)
    return {
        "group": node.group_name,
        "owners": sorted(node.owners),
        "kinds": sorted(node.kinds),
        "tags": {k: v for k, v in sorted(node.tags.items()) if not k.startswith("dagster/kind")},
        "partitions": partitions(node.partitions_def),
        "backfill": repr(node.backfill_policy),
        "pools": sorted(node.pools or []),
        "code_version": node.code_version,
        "deps": {
            parent.to_user_string(): repr(node.partition_mappings.get(parent))
            for parent in sorted(node.parent_keys)
        },
        "checks": {
            check.name: "blocking" if GRAPH.get(check).blocking else "warning"
            for check in sorted(node.check_keys)
        },
    }


def partitions(definition: dg.PartitionsDefinition | None) -> str | None:
    """First and last partition, with the time zone."""
    if not isinstance(definition, dg.TimeWindowPartitionsDefinition):
        return None
    return f"{definition.cron_schedule} from {definition.start} to {definition.end}"
