"""A small world for the end-to-end tests: a lakehouse, a registry and a gateway of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dagster as dg

from assets.lifecycle.names import Lifecycle
from flywheel.settings import Settings

QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}


@dataclass
class World:
    """A lakehouse, a registry and a gateway of their own, and the jobs that work on them."""

    settings: Settings
    definitions: dg.Definitions
    resources: dict[str, Any]
    instance: dg.DagsterInstance
    life: Lifecycle

    def run(self, job: str, first: str, last: str | None = None, **tags: str) -> Any:
        """Run a job for a day, or for a range of days as a single run."""
        partition = {"dagster/partition": first} if last is None else {
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
        }  # fmt: skip
        return self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            run_config=QUIET,
            tags={**partition, **tags},
            partition_key=first if last is None else None,
        )

    def train(self, as_of: str) -> Any:
        """Run the training job for a morning."""
        return self.run("flight_delay_training", as_of, **self.life.run_tags(as_of))

    def metadata(self, step: str) -> dict[str, Any]:
        """Metadata of the newest materialization of one of the model's assets."""
        event = self.instance.get_latest_materialization_event(self.life.key(step))
        assert event is not None
        assert event.asset_materialization is not None
        return {k: v.value for k, v in event.asset_materialization.metadata.items()}
