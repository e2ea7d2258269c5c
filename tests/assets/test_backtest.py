"""Versions of January, scored on the days that each would have served, and on no other."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import assets
from assets.discovery import domains
from assets.lifecycle import inputs
from assets.lifecycle.backtest import BACKTEST, KEY, TABLE, backtest, measures_of
from assets.lifecycle.cases import cases_of
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.training import model, split_rows, training_set
from flywheel.backtest import AUC, LOG_LOSS, BacktestError, Measure
from flywheel.evaluation import auc, log_loss
from flywheel.onnx_runtime import predict
from flywheel.settings import Settings
from flywheel.trainers.linear import LogisticRegression
from flywheel_serving.bundle import open_bundle
from resources.build import default_resources
from resources.lakehouse import Window

pytestmark = pytest.mark.slow

SPEC = replace(
    next(d for d in domains() if d.name == "flights").models[0],
    trainer=LogisticRegression(),
    training_days=14,
    holdout_days=2,
)
LIFE = Lifecycle("flights", SPEC)
FIRST, SECOND, END = date(2013, 1, 8), date(2013, 1, 13), date(2013, 1, 18)
EVERY = "5 days"
POLICY = "every 5 days"


class World:
    """A home with flights and features to 17 January, and what runs in it."""

    def __init__(self, home: Path) -> None:
        self.resources = default_resources(Settings(home=home))
        self.lakehouse = self.resources["lakehouse"]
        self.instance = dg.DagsterInstance.ephemeral()
        self.assets = [
            *dg.load_assets_from_package_module(assets),
            *(step(LIFE) for step in (training_set, model)),
            backtest([LIFE]),
        ]

    def run(self, *keys: dg.AssetKey, **options: Any) -> dg.ExecuteInProcessResult:
        """Materialize assets."""
        return dg.materialize(
            self.assets,
            selection=dg.AssetSelection.assets(*keys),
            resources=self.resources,
            instance=self.instance,
            **options,
        )

    def train(self, as_of: date) -> None:
        """Make the version of a morning."""
        keys = [LIFE.key(step) for step in ("training_set", "model")]
        assert self.run(*keys, partition_key=as_of.isoformat()).success

    def backtest(self, **config: Any) -> dg.ExecuteInProcessResult:
        """Materialize the backtest."""
        ops = {KEY.to_python_identifier(): {"config": config}}
        return self.run(KEY, run_config={"ops": ops})

    def labelled(self) -> pa.Table:
        """The cases of the period with a known label."""
        cases = cases_of(LIFE, self.lakehouse, FIRST, END)
        return cases.filter(pc.is_valid(cases.column(SPEC.spine.label)))

    def probabilities(self, as_of: date) -> np.ndarray[Any, Any]:
        """What the version of a morning says to all cases of the period."""
        cases = self.labelled()
        values = inputs.input_values(SPEC, "flights", cases, self.resources["feature_store"])
        registry = self.resources["registry"]
        version = next(
            v for v in registry.versions(SPEC.name) if v.tags["as_of"] == as_of.isoformat()
        )
        bundle = open_bundle(registry.bundle(version))
        rows = pa.table({"label": cases.column(SPEC.spine.label), **values})
        return predict(bundle.model_path.read_bytes(), inputs.encode(bundle.manifest, rows))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Flights and features ingested, and a version of one morning."""
    made = World(tmp_path_factory.mktemp("home"))
    assert made.run(dg.AssetKey(["flights", "airports"])).success
    tables = ["departures", "weather", *(view.name for view in SPEC.views)]
    days = {
        "dagster/asset_partition_range_start": "2013-01-01",
        "dagster/asset_partition_range_end": (END - timedelta(days=1)).isoformat(),
    }
    assert made.run(*(LIFE.sibling(name) for name in tables), tags=days).success
    made.train(FIRST)
    return made


@pytest.fixture(scope="module")
def compared(world: World) -> World:
    """Versions of both mornings, compared; another model has been compared before."""
    other = {
        "model": "other", "policy": "frozen", "month": None, "metric": AUC, "value": 0.5,
        "low": None, "high": None, "rows": 1,
    }  # fmt: skip
    world.lakehouse.write(TABLE, pa.Table.from_pylist([other], schema=BACKTEST.schema))
    world.train(SECOND)
    assert world.backtest(start=FIRST.isoformat(), end=END.isoformat(), every=[EVERY]).success
    return world


def figure(found: list[Measure], policy: str, metric: str) -> Measure:
    """A policy's figure over the whole period."""
    return next(m for m in found if (m.policy, m.month, m.metric) == (policy, None, metric))


def test_a_model_with_one_version_is_skipped(world: World) -> None:
    result = world.backtest()
    assert result.success
    assert not world.lakehouse.exists(TABLE)


def test_every_case_is_scored_by_the_version_that_served_on_its_day(compared: World) -> None:
    cases, calendar = compared.labelled(), SPEC.calendar
    label = cases.column(SPEC.spine.label).to_numpy()
    first, second = (compared.probabilities(morning) for morning in (FIRST, SECOND))
    days = [calendar.day_of(m) for m in cases.column(SPEC.spine.event_timestamp).to_pylist()]
    retrained = np.array(
        [q if day >= SECOND else p for p, q, day in zip(first, second, days, strict=True)]
    )
    assert not np.array_equal(first, retrained)
    found = measures_of(compared.lakehouse, SPEC.name)
    for policy, probability in (("frozen", first), (POLICY, retrained)):
        assert figure(found, policy, AUC).value == pytest.approx(auc(label, probability))
        assert figure(found, policy, LOG_LOSS).value == pytest.approx(log_loss(label, probability))
        assert figure(found, policy, AUC).rows == len(label)


def test_no_version_has_learned_from_the_days_it_is_scored_on(compared: World) -> None:
    for morning in (FIRST, SECOND):
        rows = compared.lakehouse.read(
            LIFE.table("training_set"), Window("as_of", morning, morning + timedelta(days=1))
        )
        midnight = SPEC.calendar.midnight(morning)
        assert pc.max(rows.column("label_known_at")).as_py() < midnight
        learned = split_rows(rows, inputs.TRAIN).column(inputs.EVENT_TIMESTAMP)
        assert pc.max(learned).as_py() < midnight - timedelta(days=SPEC.holdout_days)


def test_a_case_without_a_known_label_is_left_out(compared: World) -> None:
    cases = cases_of(LIFE, compared.lakehouse, FIRST, END)
    unknown = cases.column(SPEC.spine.label).null_count
    assert unknown > 0
    found = measures_of(compared.lakehouse, SPEC.name)
    assert figure(found, "frozen", AUC).rows == cases.num_rows - unknown


def test_the_default_period_is_all_there_is_and_again_is_nothing_new(compared: World) -> None:
    before = compared.lakehouse.current_snapshot(TABLE)
    assert compared.backtest(every=[EVERY]).success
    assert compared.lakehouse.current_snapshot(TABLE) == before


def test_the_figures_of_other_models_stay(compared: World) -> None:
    assert figure(measures_of(compared.lakehouse, "other"), "frozen", AUC).value == 0.5


def test_the_ui_shows_a_figure_a_table_and_the_gain(compared: World) -> None:
    event = compared.instance.get_latest_materialization_event(KEY)
    assert event is not None
    assert event.asset_materialization is not None
    shown = event.asset_materialization.metadata
    assert "data:image/png" in str(shown[f"{SPEC.name}/figure"].value)
    assert "| 2013-01 |" in str(shown[f"{SPEC.name}/by month"].value)
    gain = figure(measures_of(compared.lakehouse, SPEC.name), POLICY, "auc_gain")
    assert shown[f"{SPEC.name}/{POLICY}/auc_gain"].value == gain.value


def test_a_policy_without_all_its_versions_is_left_out_with_the_command(compared: World) -> None:
    result = compared.backtest(end=END.isoformat(), every=[EVERY, "4 days"])
    assert result.success
    logged = [
        e.user_message
        for e in compared.instance.all_logs(result.run_id)
        if "left out" in e.user_message
    ]
    assert len(logged) == 1
    assert (
        "every 4 days is left out, for there is no version as of 2013-01-12, 2013-01-16"
        in (logged[0])
    )
    assert "dg launch --assets flights/flight_delay_training_set" in logged[0]
    policies = {m.policy for m in measures_of(compared.lakehouse, SPEC.name)}
    assert policies == {"frozen", POLICY}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"start": "2013-01-09"}, "no version as of 2013-01-09"),
        ({"end": "2013-01-08"}, "end must be later"),
        ({"models": ["flight"]}, r"no model is called \['flight'\]"),
        ({"every": ["fortnight"]}, "'fortnight' is no cadence"),
    ],
)
def test_what_cannot_be_compared_is_said(
    compared: World, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(BacktestError, match=message):
        compared.backtest(**config)


def test_versions_that_were_not_trained_alike_are_pointed_out(compared: World) -> None:
    again = replace(SPEC, trainer=LogisticRegression(regularisation=0.5))
    other = model(Lifecycle("flights", again))
    result = dg.materialize(
        [*compared.assets[:-2], other],
        selection=dg.AssetSelection.assets(LIFE.key("model")),
        resources=compared.resources,
        instance=compared.instance,
        partition_key=SECOND.isoformat(),
    )
    assert result.success
    logs = compared.instance.all_logs(compared.backtest(every=[EVERY]).run_id)
    assert any("versions 1; versions 3" in e.user_message for e in logs)
