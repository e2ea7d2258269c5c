"""What a feature view promises: its entity, its features, and how long a row stays true.

A feature view is a dataset whose rows say what was known about an entity and from when on. The same
declaration is the Iceberg table, the Feast feature view (compiled in `resources.feature_store`) and
the part of the bundle that tells the gateway what to fetch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Unpack

from flywheel.dataset import Column, Dataset, Rules, required

EVENT_TIMESTAMP = required("event_timestamp", "timestamp", "From when on the values may be used.")
CREATED_TIMESTAMP = required("created_timestamp", "timestamp", "When the row came to be known.")


@dataclass(frozen=True)
class FeatureView:
    """Features of one entity over time.

    Attributes:
        name: View and table name inside its domain.
        join_keys: The entity's columns.
        features: The feature columns.
        ttl: Age after which a row counts as absent.
        description: One sentence for the catalog.
        owner: `team:...` or an e-mail address.
        stale: What the gateway does with a request whose row is absent or older than `ttl`: the
            features take their `default`, or it is answered 503 (`refuse`).
        freshness: How far the view's newest row may lie behind the newest case; None for views
            that no check watches.
    """

    name: str
    join_keys: tuple[Column, ...]
    features: tuple[Column, ...]
    ttl: timedelta
    description: str
    owner: str
    stale: Literal["default", "refuse"] = "default"
    freshness: timedelta | None = None

    @property
    def dataset(self) -> Dataset:
        """The table: join keys, features, event and creation time; partitioned by event time."""
        return Dataset(
            name=self.name,
            columns=(*self.join_keys, *self.features, EVENT_TIMESTAMP, CREATED_TIMESTAMP),
            key=(*(c.name for c in self.join_keys), "event_timestamp", "created_timestamp"),
            partition_by="event_timestamp",
        )

    @property
    def key_names(self) -> list[str]:
        """Names of the join keys, in order."""
        return [column.name for column in self.join_keys]

    @property
    def feature_names(self) -> list[str]:
        """Names of the features, in order."""
        return [column.name for column in self.features]


def number(name: str, description: str, **rules: Unpack[Rules]) -> Column:
    """A float64 feature; null where there is no evidence."""
    return Column(name, "float64", description, **rules)


def join_key(name: str, description: str = "Join key.", **rules: Unpack[Rules]) -> Column:
    """A string join key."""
    return required(name, "string", description, **rules)


def join_keys(*names: str) -> tuple[Column, ...]:
    """String join keys without rules of their own."""
    return tuple(join_key(name) for name in names)


def distinct_keys(views: Sequence[FeatureView]) -> dict[str, Column]:
    """All join keys of some views by name."""
    return {column.name: column for view in views for column in view.join_keys}
