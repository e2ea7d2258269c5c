"""Train when what is served has drifted from what the champion was trained on."""

from collections.abc import Iterable

import dagster as dg

from assets.discovery import Domain
from assets.lifecycle.names import Lifecycle
from jobs.continuous_training import training_request


def drift_sensors(domains: Iterable[Domain]) -> list[dg.SensorDefinition]:
    """One sensor per model."""
    return [drift_sensor(Lifecycle(d.name, spec)) for d in domains for spec in d.models]


def drift_sensor(life: Lifecycle) -> dg.SensorDefinition:
    """Launch the training job when the drift check has failed, at most once per data day."""

    @dg.sensor(
        name=f"{life.spec.name}_drift",
        job_name=f"{life.spec.name}_training",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Trains {life.spec.name} when the drift check of the newest day failed.",
    )
    def evaluate(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        return training_request(life, context.instance, look_at_drift=True)

    return evaluate
