"""A failed drift check launches one training, with the reason; the schedule looks at age alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from assets.flights.flight_delay import FLIGHT_DELAY
from assets.lifecycle.names import Lifecycle
from jobs.build import training_job
from jobs.continuous_training import training_request, training_schedule
from sensors.continuous_training import drift_sensor, drift_sensors

LIFE = Lifecycle("flights", FLIGHT_DELAY)
SENSOR = drift_sensor(LIFE)
SCHEDULE = training_schedule(LIFE, training_job(LIFE))

DRIFTED = "drifted: route_delays__arr_delay_7d (PSI 0.61, limit 0.30)"
CALM = "no signal drifted over 6000 predictions"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def measured(instance: dg.DagsterInstance, day: str, verdict: str) -> None:
    """The drift asset ran for a day."""
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=LIFE.key("drift"),
            check_name="drift",
            passed=not verdict.startswith("drifted"),
            metadata={"day": day, "verdict": verdict},
            severity=dg.AssetCheckSeverity.WARN,
        )
    )


def crowned(instance: dg.DagsterInstance, as_of: str) -> None:
    """The champion asset crowned the version of a day."""
    instance.report_runless_asset_event(
        dg.AssetMaterialization(LIFE.key("champion"), metadata={"as_of": as_of})
    )


def launched(instance: dg.DagsterInstance, request: dg.RunRequest, *, succeeds: bool) -> None:
    """A run with the request's tags, of an asset that stands in for the training."""

    @dg.asset(name="training")
    def training() -> None:
        if not succeeds:
            raise dg.Failure("it could not be trained")

    result = dg.materialize(
        [training], instance=instance, tags=dict(request.tags), raise_on_error=False
    )
    assert result.success is succeeds


def look(instance: dg.DagsterInstance) -> dg.RunRequest | dg.SkipReason:
    """What the sensor does now."""
    answer = SENSOR(dg.build_sensor_context(instance=instance))
    assert isinstance(answer, dg.RunRequest | dg.SkipReason)
    return answer


def monday(instance: dg.DagsterInstance) -> dg.RunRequest | dg.SkipReason:
    """What the schedule does now (it cannot be called itself on an ephemeral instance)."""
    return training_request(LIFE, instance, look_at_drift=False)


def reason(answer: dg.RunRequest | dg.SkipReason) -> str:
    assert isinstance(answer, dg.SkipReason)
    return answer.skip_message or ""


def test_before_anything_was_measured_nothing_happens(instance: dg.DagsterInstance) -> None:
    crowned(instance, "2013-03-01")
    assert reason(look(instance)) == "nothing has been served and measured yet"
    assert reason(monday(instance)) == "nothing has been served and measured yet"


def test_a_failed_drift_check_trains_as_of_the_next_morning_and_says_why(
    instance: dg.DagsterInstance,
) -> None:
    crowned(instance, "2013-03-01")
    measured(instance, "2013-03-14", DRIFTED)
    request = look(instance)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2013-03-15"
    assert request.run_key == "flight_delay:2013-03-15"
    assert request.tags == {
        "flywheel/model": "flight_delay",
        "flywheel/as_of": "2013-03-15",
        "flywheel/trigger": "drift",
        "flywheel/reason": DRIFTED,
        "flywheel/actor": "drift trigger",
    }


@pytest.mark.parametrize("succeeds", [True, False])
def test_once_a_run_for_that_day_exists_nothing_more_is_launched_whatever_became_of_it(
    instance: dg.DagsterInstance, succeeds: bool
) -> None:
    crowned(instance, "2013-03-01")
    measured(instance, "2013-03-14", DRIFTED)
    request = look(instance)
    assert isinstance(request, dg.RunRequest)
    launched(instance, request, succeeds=succeeds)
    assert reason(look(instance)) == "2013-03-15 has been trained already"
    measured(instance, "2013-03-14", DRIFTED)
    assert reason(look(instance)) == "2013-03-15 has been trained already"

    measured(instance, "2013-03-15", DRIFTED)
    request = look(instance)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2013-03-16"


def test_without_a_champion_drift_trains_nothing(instance: dg.DagsterInstance) -> None:
    measured(instance, "2013-03-14", DRIFTED)
    assert "there is no champion yet" in reason(look(instance))


def test_a_passed_check_trains_nothing(instance: dg.DagsterInstance) -> None:
    crowned(instance, "2013-03-01")
    measured(instance, "2013-03-14", CALM)
    assert reason(look(instance)) == "nothing drifted and the champion is 14 days old"


def test_the_newest_measurement_counts(instance: dg.DagsterInstance) -> None:
    crowned(instance, "2013-03-01")
    measured(instance, "2013-03-14", DRIFTED)
    measured(instance, "2013-03-15", CALM)
    assert isinstance(look(instance), dg.SkipReason)


def test_a_day_on_which_nothing_was_served_hides_no_drift(instance: dg.DagsterInstance) -> None:
    crowned(instance, "2013-03-01")
    measured(instance, "2013-03-14", DRIFTED)
    measured(instance, "None", "nothing was served")
    request = look(instance)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2013-03-15"


def test_another_models_run_does_not_stand_in_the_way(instance: dg.DagsterInstance) -> None:
    crowned(instance, "2013-03-01")
    measured(instance, "2013-03-14", DRIFTED)
    request = look(instance)
    assert isinstance(request, dg.RunRequest)
    other = request.with_replaced_attrs(tags={**request.tags, "flywheel/model": "other"})
    launched(instance, other, succeeds=True)
    assert isinstance(look(instance), dg.RunRequest)


@pytest.mark.parametrize(
    ("champion", "trains"), [("2013-03-14", False), ("2013-02-16", False), ("2013-02-15", True)]
)
def test_the_schedule_trains_when_the_champion_has_reached_its_age_limit(
    instance: dg.DagsterInstance, champion: str, trains: bool
) -> None:
    crowned(instance, champion)
    measured(instance, "2013-03-14", CALM)
    answer = monday(instance)
    age = (date(2013, 3, 15) - date.fromisoformat(champion)).days
    if trains:
        assert isinstance(answer, dg.RunRequest)
        assert answer.partition_key == "2013-03-15"
        assert answer.tags["flywheel/trigger"] == "schedule"
        assert answer.tags["flywheel/reason"] == f"the champion is {age} days old (limit 28)"
    else:
        assert reason(answer) == f"nothing drifted and the champion is {age} days old"


def test_the_schedule_leaves_drift_to_the_sensor_and_the_sensor_age_to_the_schedule(
    instance: dg.DagsterInstance,
) -> None:
    crowned(instance, "2013-03-14")
    measured(instance, "2013-03-14", DRIFTED)
    assert isinstance(monday(instance), dg.SkipReason)
    crowned(instance, "2013-01-05")
    measured(instance, "2013-03-14", CALM)
    assert isinstance(look(instance), dg.SkipReason)


def test_a_new_champion_starts_the_clock_again(instance: dg.DagsterInstance) -> None:
    measured(instance, "2013-03-14", CALM)
    crowned(instance, "2013-01-05")
    assert isinstance(monday(instance), dg.RunRequest)
    crowned(instance, "2013-03-15")
    assert isinstance(monday(instance), dg.SkipReason)


def test_the_schedule_comes_on_mondays_by_the_clock_of_the_domain(tmp_path: Path) -> None:
    assert SCHEDULE.cron_schedule == "0 3 * * 1"
    assert SCHEDULE.execution_timezone == "America/New_York"
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        crowned(instance, "2013-01-05")
        measured(instance, "2013-03-14", DRIFTED)
        answer = SCHEDULE(dg.build_schedule_context(instance=instance))
        assert isinstance(answer, dg.RunRequest)
        assert answer.tags["flywheel/trigger"] == "schedule"


def test_every_model_has_its_sensor() -> None:
    from assets.discovery import domains

    models = [spec.name for domain in domains() for spec in domain.models]
    assert [sensor.name for sensor in drift_sensors(domains())] == [f"{m}_drift" for m in models]
