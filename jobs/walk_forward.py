"""A walk-forward backtest from the command line: what is missing of it is made, then it is scored.

All of it are ordinary runs of ordinary assets on the Dagster instance of the home, one after the
other in this process. What a run has made is there for good, so a killed walk goes on where it was.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any

import dagster as dg
from dagster._core.definitions.partitions.subset import PartitionsSubset

from assets.lifecycle.backtest import KEY, measures_of, versions_by_morning
from assets.lifecycle.names import Lifecycle
from flywheel.backtest import BacktestError, Measure, Policy
from flywheel.settings import Settings
from jobs.demo import QUIET, cause_of, range_tags
from resources.build import default_resources

# Tag of the runs of a walk. They have no `flywheel/as_of`: that would tell sensor and schedule that
# a live training of that morning was tried.
TRIGGER = {"flywheel/trigger": "backtest"}


TWO_MONTHS = timedelta(days=59)


class WalkForwardError(RuntimeError):
    """The walk cannot go on; the message says why, and in which run."""


@dataclass(frozen=True)
class Batch:
    """Days of one month, and the tables that lack one of them.

    Attributes:
        first: First day; None for tables without days.
        last: Last day.
        keys: The tables' assets.
    """

    first: date | None
    last: date | None
    keys: frozenset[dg.AssetKey]

    @property
    def what(self) -> str:
        """In words."""
        days = "" if self.first is None else f" of {self.first} to {self.last}"
        return f"{len(self.keys)} tables{days}"


class WalkForward:
    """One model's walk through a period, on one Dagster instance."""

    def __init__(self, life: Lifecycle, start: date, end: date, policies: Sequence[Policy]) -> None:
        from definitions import build_definitions

        self.life = life
        self.start = start
        self.end = end
        self.policies = policies
        self.definitions = build_definitions()
        self.graph = self.definitions.resolve_asset_graph()
        self.instance = dg.DagsterInstance.get()
        resources = default_resources(Settings())
        self.lakehouse = resources["lakehouse"]
        self.registry = resources["registry"]

    @cached_property
    def mornings(self) -> list[date]:
        """All mornings that a policy trains on."""
        return sorted(
            {m for policy in self.policies for m in policy.mornings(self.start, self.end)}
        )

    def untrained(self) -> list[date]:
        """The mornings that have no version yet."""
        made = versions_by_morning(self.registry, self.life.spec.name)
        return [morning for morning in self.mornings if morning not in made]

    def lacking(self) -> list[Batch]:
        """What must be ingested, month by month; tables without days come first."""
        whole: set[dg.AssetKey] = set()
        by_month: defaultdict[date, defaultdict[dg.AssetKey, set[date]]] = defaultdict(
            lambda: defaultdict(set)
        )
        for key, needed in self._needed().items():
            there = self.instance.get_materialized_partitions(key)
            if needed is None:
                if self.instance.get_latest_materialization_event(key) is None:
                    whole.add(key)
                continue
            for partition in set(needed.get_partition_keys()) - there:
                day = date.fromisoformat(partition)
                by_month[day.replace(day=1)][key].add(day)
        batches = [Batch(None, None, frozenset(whole))] if whole else []
        for _, by_key in sorted(by_month.items()):
            days = set().union(*by_key.values())
            batches.append(Batch(min(days), max(days), frozenset(by_key)))
        return batches

    def ingest(self, batch: Batch) -> None:
        """Materialize the tables for the days, as one run.

        The online store is left alone: old days must not reach it.
        """
        tags = (
            range_tags((batch.first, batch.last + timedelta(days=1)))
            if batch.first and batch.last
            else {}
        )
        self._run(batch.what, batch.keys, tags)

    def train(self, morning: date) -> None:
        """Make the training set and the version of a morning, as one run."""
        keys = [self.life.key(step) for step in ("training_set", "model")]
        tags = {"dagster/partition": morning.isoformat(), "flywheel/model": self.life.spec.name}
        self._run(f"the version as of {morning}", keys, tags)

    def score(self, every: Sequence[str]) -> list[Measure]:
        """Materialize the backtest and return its figures."""
        config = {
            "models": [self.life.spec.name],
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "every": list(every),
        }
        ops = {"ops": {KEY.to_python_identifier(): {"config": config}}}
        self._run("the backtest", [KEY], {}, ops)
        return measures_of(self.lakehouse, self.life.spec.name)

    def _needed(self) -> dict[dg.AssetKey, "PartitionsSubset | None"]:
        """The days of every table that training and scoring read, by way of the partition mappings.

        Returns:
            Partitions by asset; None for an asset without partitions.
        """
        needed: dict[dg.AssetKey, PartitionsSubset | None] = {}

        def want(key: dg.AssetKey, wanted: PartitionsSubset | None) -> None:
            node = self.graph.get(key)
            if not node.is_materializable:
                return  # somebody else's table
            if wanted is not None and node.partitions_def is not None:
                held = needed.get(key)
                wanted = wanted if held is None else held | wanted
                if held is not None and len(wanted) == len(held):
                    return
            elif key in needed:
                return
            needed[key] = wanted
            for parent in node.parent_keys:
                want(parent, self._upstream(key, wanted, parent))

        training_set = self.life.key("training_set")
        definition = self.life.as_of
        wanted = definition.subset_with_partition_keys([m.isoformat() for m in self.mornings])
        for parent in self.graph.get(training_set).parent_keys:
            want(parent, self._upstream(training_set, wanted, parent))
        spec = self.life.spec
        want(self.life.sibling(spec.spine.dataset.name), self._days(self.start))
        for view in spec.views:
            back = timedelta(days=math.ceil(view.ttl / timedelta(days=1)))
            want(self.life.sibling(view.name), self._days(self.start - back))
        return needed

    def _upstream(
        self, key: dg.AssetKey, wanted: "PartitionsSubset | None", parent: dg.AssetKey
    ) -> "PartitionsSubset | None":
        """What some partitions of an asset read of one of its parents."""
        theirs = self.graph.get(parent).partitions_def
        if theirs is None:
            return None
        mapping = self.graph.get_partition_mapping(key, parent)
        return mapping.get_upstream_mapped_partitions_result_for_partitions(
            wanted, self.graph.get(key).partitions_def, theirs
        ).partitions_subset

    def _days(self, first: date) -> "PartitionsSubset":
        """The partitions from a day on to the end of the period."""
        calendar = self.life.spec.calendar
        days = calendar.days(max(first, calendar.start), self.end)
        return self.life.days.subset_with_partition_keys([day.isoformat() for day in days])

    def _run(
        self,
        what: str,
        keys: Collection[dg.AssetKey],
        tags: Mapping[str, str],
        run_config: Mapping[str, Any] | None = None,
    ) -> None:
        """Run some assets in this process.

        Raises:
            WalkForwardError: The run failed.
        """
        job = self.definitions.resolve_implicit_global_asset_job_def()
        with _quiet():
            result = job.get_subset(asset_selection=set(keys)).execute_in_process(
                instance=self.instance,
                tags={**tags, **TRIGGER},
                partition_key=tags.get("dagster/partition"),
                raise_on_error=False,
                run_config={**QUIET, **(run_config or {})},
            )
        if not result.success:
            if _interrupted(result):
                raise WalkForwardError(
                    f"{what} was interrupted. The same command goes on where this one was."
                )
            raise WalkForwardError(f"{what} failed in run {result.run_id}:\n{cause_of(result)}")


def period_of(life: Lifecycle, start: date | None, end: date | None) -> tuple[date, date]:
    """The days to walk through: as asked for, held to what the calendar has.

    Args:
        life: The model.
        start: First day; default two months into the data, when there is something to learn from.
        end: Day after the last; default the end of the calendar, or today.

    Raises:
        BacktestError: There is no day, or no data for them.
    """
    spec = life.spec
    start = start or spec.calendar.start + min(timedelta(days=spec.training_days), TWO_MONTHS)
    end = end or spec.calendar.end or date.today()  # noqa: DTZ011 - a source that is still alive
    earliest = spec.calendar.start + timedelta(days=spec.holdout_days + 1)
    if start < earliest:
        raise BacktestError(
            f"{spec.name} has data from {spec.calendar.start} on, and its last {spec.holdout_days} "
            f"days are held out: --start {earliest} is the earliest that leaves a day to train on"
        )
    if spec.calendar.end and end > spec.calendar.end:
        raise BacktestError(f"the data of {spec.name} ends: --end {spec.calendar.end} is the last")
    if end <= start:
        raise BacktestError(f"from {start} up to {end} there is no day: --end must be later")
    return start, end


def _interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether somebody stopped the run, by Ctrl-C or a signal."""
    failures = [e.step_failure_data for e in result.all_events if e.is_step_failure]
    names = {one.error.cls_name for one in failures if one.error}
    return dg.DagsterExecutionInterruptedError.__name__ in names


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of libraries about one another; the logs have them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
