"""One small world for the end-to-end tests: real Iceberg, Feast, MLflow, Triton and gateway."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from assets.discovery import domains
from assets.lifecycle.names import Lifecycle
from definitions import build_definitions
from flywheel.services import Services, environment, prepare_dagster_home
from flywheel.settings import Settings
from resources.build import default_resources
from tests.end_to_end.world import QUIET, World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two weeks of January, ingested; Triton and gateway running, nothing deployed."""
    home: Path = tmp_path_factory.mktemp("world")
    before = dict(os.environ)
    os.environ.pop("DAGSTER_HOME", None)
    os.environ["FLYWHEEL_HOME"] = str(home)
    settings = Settings(home=home)
    os.environ.update(environment(settings))
    prepare_dagster_home(settings)
    services = Services(settings)
    serving = services.start("serving")
    try:
        settings = Settings(home=home)
        resources = default_resources(settings)
        domain = next(d for d in domains() if d.name == "flights")
        made = World(
            settings,
            build_definitions(**resources),
            resources,
            dg.DagsterInstance.ephemeral(),
            Lifecycle("flights", domain.models[0]),
        )
        assert (
            made.definitions.resolve_job_def("flights_reference")
            .execute_in_process(instance=made.instance, run_config=QUIET)
            .success
        )
        assert made.run("flights_data", "2013-01-01", "2013-01-14").success
        services.wait(serving)
        yield made
    finally:
        services.stop("serving")
        os.environ.clear()
        os.environ.update(before)
