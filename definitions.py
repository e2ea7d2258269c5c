"""The front door: everything that Dagster should know, assembled in one place."""

from __future__ import annotations

from typing import Any

import dagster as dg

import assets
from assets.catalog import quarantine_specs
from assets.discovery import domains
from assets.lifecycle.build import lifecycle_assets
from assets.lifecycle.histories import history_specs
from flywheel.settings import Settings
from jobs.build import jobs_and_schedules
from resources.build import default_resources
from sensors.continuous_training import drift_sensors


def build_definitions(**resource_overrides: Any) -> dg.Definitions:
    """Assemble the code location.

    Args:
        resource_overrides: Replace single resources by key, for tests and tools.
    """
    settings = Settings()
    jobs, schedules = jobs_and_schedules(domains())
    tables = dg.load_assets_from_package_module(assets)
    return dg.Definitions(
        assets=[
            *tables,
            *quarantine_specs(tables),
            *lifecycle_assets(domains()),
            *history_specs(domains()),
        ],
        jobs=jobs,
        schedules=schedules,
        sensors=drift_sensors(domains()),
        resources={**default_resources(settings), **resource_overrides},
        executor=dg.in_process_executor,
    )


defs = build_definitions()
