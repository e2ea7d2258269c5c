"""The registry's memory, and the fence around promotion: append-only histories in the lakehouse.

MLflow's aliases have no compare-and-set, so two promotions at once would both succeed, and nobody
would know. A promotion is therefore first an event in `lifecycle.deployments`, which Iceberg
commits only if nothing was decided meanwhile; the alias `champion` mirrors it. A process that dies
between the two leaves an alias that the next one to ask puts right.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from flywheel.dataset import Dataset
from flywheel.evaluation import HARNESS_VERSION
from flywheel.evidence import Figure, StoredVerdict
from flywheel.history import (
    DEPLOYMENTS,
    EVALUATIONS,
    MODELS,
    TOLD_APART,
    VERDICTS,
    Decision,
    Event,
    champion_of,
    follow,
)
from resources.lakehouse import Lakehouse, Window
from resources.registry import CHALLENGER, CHAMPION, Registry, Version

if TYPE_CHECKING:
    import pyarrow as pa

NAMESPACE = "lifecycle"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What identifies an evaluation, and what it was of.

    Attributes:
        evaluation_id: Unique; the same for every retry of the same run.
        model: Registry name.
        as_of: The morning of the candidate.
        candidate: Its version.
        champion: The version that it was compared with; None while there was none.
        holdout: Fingerprint of the held-out cases.
        at: When it was made, UTC.
        harness: `HARNESS_VERSION` of the code that made it.
    """

    evaluation_id: str
    model: str
    as_of: date
    candidate: str
    champion: str | None
    holdout: str
    at: datetime
    harness: int = HARNESS_VERSION

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Evaluation:
        """From a row of `lifecycle.evaluations` or `lifecycle.verdicts`."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    def as_row(self) -> dict[str, Any]:
        """The columns that each of its rows begins with."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Ledger:
    """The histories of all models.

    Attributes:
        lakehouse: Where they are.
        registry: Whose aliases mirror them.
    """

    lakehouse: Lakehouse
    registry: Registry

    def remember(self, version: Version, story: Mapping[str, Any]) -> bool:
        """Enter a registered version into `lifecycle.models`; False if it is there already."""
        tags = version.tags
        row = {
            "event_id": f"{version.model}/{version.number}/{tags['fingerprint']}",
            "at": datetime.fromisoformat(tags["registered_at"]),
            "model": version.model,
            "version": version.number,
            "as_of": date.fromisoformat(tags["as_of"]),
            "fingerprint": tags["fingerprint"],
            "run_id": version.run_id,
            **{name: story[name] for name in TOLD_APART},
            "story": json.dumps(story, sort_keys=True),
        }
        return bool(self._add_once(MODELS, [row], "event_id", version.model))

    def models(self, model: str) -> list[dict[str, Any]]:
        """Rows of `lifecycle.models` of a model, the oldest version first."""
        return sorted(self._rows(MODELS, "model", model), key=lambda row: int(row["version"]))

    def story(self, model: str, number: str) -> dict[str, Any] | None:
        """The row of a version in `lifecycle.models` with its story read; None if it has none."""
        rows = [row for row in self.models(model) if row["version"] == number]
        return {**rows[0], "story": json.loads(rows[0]["story"])} if rows else None

    def enter(
        self,
        evaluation: Evaluation,
        figures: Mapping[str, Sequence[Figure]],
        verdicts: Sequence[StoredVerdict],
    ) -> None:
        """Enter an evaluation, once: figures by window, then the verdicts, by which it counts."""
        head = evaluation.as_row()
        found = [
            {**head, "window": window, **figure.as_row()}
            for window, many in figures.items()
            for figure in many
        ]
        judged = [{**one.as_row(), **head} for one in verdicts]
        self._add_once(EVALUATIONS, found, "evaluation_id", evaluation.model)
        self._add_once(VERDICTS, judged, "evaluation_id", evaluation.model)

    def evaluations(self, model: str) -> list[tuple[Evaluation, list[StoredVerdict]]]:
        """Every evaluation of a model with its verdicts, by morning and then by time."""
        groups: dict[str, tuple[Evaluation, list[StoredVerdict]]] = {}
        for row in self._rows(VERDICTS, "model", model):
            evaluation = Evaluation.from_row(row)
            group = groups.setdefault(evaluation.evaluation_id, (evaluation, []))
            group[1].append(StoredVerdict.from_row(row))
        return sorted(groups.values(), key=lambda group: (group[0].as_of, group[0].at))

    def figures(self, evaluation_id: str) -> list[dict[str, Any]]:
        """Rows of `lifecycle.evaluations` of one evaluation."""
        return self._rows(EVALUATIONS, "evaluation_id", evaluation_id)

    def events(self, model: str) -> list[Event]:
        """Decisions and changes of traffic of a model, the oldest first."""
        rows = self._rows(DEPLOYMENTS, "model", model)
        return sorted((Event(**row) for row in rows), key=lambda event: (event.at, event.sequence))

    def champion(self, model: str) -> Version | None:
        """The version that is to serve; its alias is put right if it says anything else."""
        number = champion_of(self.events(model))
        aliased = self.registry.alias(model, CHAMPION)
        if number is None:
            if aliased is not None:
                log.warning(
                    "%s has the alias %s on version %s, which nobody has promoted: it does not "
                    "count. Use flywheel promote",
                    model, CHAMPION, aliased.number,
                )  # fmt: skip
            return None
        version = self.registry.version(model, number)
        if aliased is None or aliased.number != number:
            self.registry.set_alias(version, CHAMPION)
        return version

    def decide(self, model: str, decision: Decision) -> Event | None:
        """Take a decision, unless it has been taken already; the alias follows.

        Returns:
            The event; None if it was decided so before.

        Raises:
            DecisionError: The version does not exist, or see `flywheel.history.follow`.
        """
        version = self.registry.version(model, decision.version)
        rows: list[Event] = []

        def following(held: pa.Table) -> pa.Table:
            event = follow(
                [Event(**row) for row in held.to_pylist()], model, decision, datetime.now(UTC)
            )
            rows[:] = [event] if event else []
            return _table(DEPLOYMENTS, [one.as_row() for one in rows])

        self.lakehouse.transact(
            _name(DEPLOYMENTS), DEPLOYMENTS.schema, following, Window.having("model", model)
        )
        self.champion(model)
        challenger = self.registry.alias(model, CHALLENGER)
        if challenger and challenger.number == version.number and decision.action != "kept_out":
            self.registry.drop_alias(model, CHALLENGER)
        return rows[0] if rows else None

    def follow_traffic(self, events: Sequence[Event]) -> int:
        """Enter changes of traffic that are not in `lifecycle.deployments` yet; their number."""
        if not events:
            return 0
        rows = [event.as_row() for event in events]
        return self._add_once(DEPLOYMENTS, rows, "event_id", events[0].model)

    def _rows(self, dataset: Dataset, column: str, text: str) -> list[dict[str, Any]]:
        name = _name(dataset)
        if not self.lakehouse.exists(name):
            return []
        return self.lakehouse.read(name, Window.having(column, text)).to_pylist()

    def _add_once(
        self, dataset: Dataset, rows: Sequence[Mapping[str, Any]], key: str, model: str
    ) -> int:
        """Add the rows whose key is not there yet."""

        def missing(held: pa.Table) -> pa.Table:
            known = set(held.column(key).to_pylist())
            return _table(dataset, [row for row in rows if row[key] not in known])

        added = self.lakehouse.transact(
            _name(dataset), dataset.schema, missing, Window.having("model", model)
        )
        return added.num_rows


def newest(
    evaluations: Iterable[tuple[Evaluation, list[StoredVerdict]]], version: str
) -> tuple[Evaluation, list[StoredVerdict]] | None:
    """The last evaluation in which a version was the candidate; None if there is none."""
    found = [one for one in evaluations if one[0].candidate == version]
    return max(found, key=lambda one: one[0].at) if found else None


def _name(dataset: Dataset) -> str:
    return f"{NAMESPACE}.{dataset.name}"


def _table(dataset: Dataset, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    return dataset.conform(pa.Table.from_pylist(list(rows), schema=dataset.schema))
