"""What a model's assets are called, and what they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg

from assets.authoring import partitions_of
from flywheel.calendar import Calendar
from flywheel.model import ModelSpec


@dataclass(frozen=True)
class Lifecycle:
    """A model in its domain: keys, partitions and catalog facts of its assets."""

    domain: str
    spec: ModelSpec

    def key(self, step: str) -> dg.AssetKey:
        """Key of one of the model's assets, e.g. `flights/flight_delay_model`."""
        return dg.AssetKey([self.domain, f"{self.spec.name}_{step}"])

    def table(self, step: str) -> str:
        """Iceberg table of one of the model's assets."""
        return ".".join(self.key(step).path)

    def sibling(self, name: str) -> dg.AssetKey:
        """Key of a dataset or feature view in the same domain."""
        return dg.AssetKey([self.domain, name])

    @property
    def days(self) -> dg.DailyPartitionsDefinition:
        """Partitions of predictions, drift and performance: the days as they pass."""
        return partitions_of(self.spec.calendar)

    @property
    def as_of(self) -> dg.DailyPartitionsDefinition:
        """Partitions of training set, model and evaluation: the morning they are made on."""
        calendar = self.spec.calendar
        day = timedelta(days=1)
        return partitions_of(
            Calendar(
                start=calendar.start + day,
                end=calendar.end + day if calendar.end else None,
                timezone=calendar.timezone,
            )
        )

    def facts(self, description: str, *kinds: str) -> dict[str, Any]:
        """Catalog facts for `dg.AssetSpec` and the asset decorators."""
        return {
            "group_name": self.domain,
            "description": description,
            "owners": [self.spec.owner],
            "kinds": set(kinds),
            "tags": {"flywheel/layer": "lifecycle", "flywheel/model": self.spec.name},
        }

    def run_tags(self, as_of: str) -> dict[str, str]:
        """Tags of every run that trains this model for a day."""
        return {"flywheel/model": self.spec.name, "flywheel/as_of": as_of}
