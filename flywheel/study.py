"""How a sweep runs: an Optuna study that can be killed anywhere and goes on.

Each trial's random numbers follow from its own number, so one that a killed process left out is
repeated as it was: with one worker the finished study is the one that nobody disturbed. Where it is
kept is `flywheel.study_place`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flywheel.study_place import SENTENCE, StudyPlace, finished_trials
from flywheel.sweep import State, Sweep, Trial, best, with_parameters
from flywheel.training import Pruned, Report, Trainer, TrainingData, TrainingError

if TYPE_CHECKING:
    import optuna
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

# Changes whenever the same sweep would try something else.
RECIPE = "study-1"

# The user attribute that says how many steps a trial took.
EPOCHS = "epochs"

# Fewer complete trials say nothing about which parameter matters.
ENOUGH_TO_RANK = 5


@dataclass(frozen=True)
class Study:
    """A finished study.

    Attributes:
        trials: By number.
        importances: Share of each parameter in the differences between the better trials
            (PED-ANOVA, Watanabe 2023); empty if too few are complete.
    """

    trials: tuple[Trial, ...]
    importances: dict[str, float]


def run_study(
    sweep: Sweep,
    trainer: Trainer,
    train: TrainingData,
    validation: TrainingData,
    seed: int,
    place: StudyPlace,
    told: Callable[[Trial], None] = lambda _trial: None,
) -> Study:
    """Run, or go on with, a study until its trials are finished.

    Args:
        sweep: What is searched.
        trainer: As declared; the first trial.
        train: Cases to learn from.
        validation: Cases whose log-loss is minimised.
        seed: Of every fit.
        place: Where the study is kept. Its name must say what the trials follow from.
        told: Is called with each trial that is finished, those of an earlier process first.

    Raises:
        TrainingError: No trial is complete; or see `StudyPlace.opened`.
    """
    import optuna

    sweep.check(trainer)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with place.opened() as storage:
        study = optuna.create_study(
            storage=storage,
            study_name=place.name,
            direction="minimize",
            sampler=_sampler(sweep),
            load_if_exists=True,
        )
        first = {n: sweep.space[n].encode(v) for n, v in sweep.declared(trainer).items()}
        study.enqueue_trial(first, skip_if_exists=True)
        known: set[int] = set()
        while not _enough(sweep, study, told, known):
            if len(finished_trials(study)) + _under_way(study) >= sweep.trials:
                # Others have the rest; should one of them die, its trial is ours.
                time.sleep(place.heartbeat_seconds / 10)
                optuna.storages.fail_stale_trials(study)
                continue
            study.pruner = _pruner(sweep, study)
            study.optimize(
                lambda trial: _fit(sweep, trainer, train, validation, seed, trial),
                n_trials=1,
                catch=(TrainingError,),
            )
        trials = tuple(_trial(sweep, t) for t in finished_trials(study)[: sweep.trials])
        if best(trials) is None:
            # Not kept: the cause may lie outside of what the study's name says, such as in memory.
            optuna.delete_study(study_name=place.name, storage=storage)
            raise TrainingError(
                f"none of the {len(trials)} trials of the sweep gave a model; the declared trainer "
                f"failed so: {trials[0].sentence}"
            )
        return Study(trials, _importances(study))


def _enough(
    sweep: Sweep, study: optuna.Study, told: Callable[[Trial], None], known: set[int]
) -> bool:
    """Whether the trials are finished; tells of those that are not known yet."""
    finished = finished_trials(study)
    for trial in finished[: sweep.trials]:
        if trial.number not in known:
            known.add(trial.number)
            told(_trial(sweep, trial))
    return len(finished) >= sweep.trials


def _fit(
    sweep: Sweep,
    trainer: Trainer,
    train: TrainingData,
    validation: TrainingData,
    seed: int,
    trial: optuna.Trial,
) -> float:
    """One trial: the validation log-loss of the model that would be served."""
    import optuna

    from flywheel.onnx_runtime import predict
    from flywheel.trainers.export import log_loss

    parameters = {name: sweep.space[name].suggest(trial, name) for name in sorted(sweep.space)}
    report = _report(trial) if sweep.pruner != "none" else None
    try:
        candidate = with_parameters(trainer, parameters)
        trained = candidate.fit(train, validation, seed, None, report)
        trial.set_user_attr(EPOCHS, len(trained.curves.get("validation_loss", [])))
        return _finite(log_loss(validation, predict(trained.onnx, validation)))
    except Pruned as pruned:
        raise optuna.TrialPruned from pruned
    except TrainingError as error:
        trial.set_user_attr(SENTENCE, str(error))
        raise


def _report(trial: optuna.Trial) -> Report:
    def report(step: int, loss: float) -> None:
        trial.report(_finite(loss), step)
        if trial.should_prune():
            raise Pruned

    return report


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise TrainingError(f"the validation log-loss became {loss}")
    return loss


def _sampler(sweep: Sweep) -> BaseSampler:
    """A sampler that begins anew with every trial, with random numbers of the trial's own.

    So a trial follows from its number and the finished ones alone, whichever process runs it.
    """
    import numpy as np
    from optuna.samplers import BaseSampler, GPSampler, TPESampler

    class Numbered(BaseSampler):
        def __init__(self) -> None:
            self._of_trial: BaseSampler = TPESampler()

        def before_trial(self, study: optuna.Study, trial: Any) -> None:  # noqa: ARG002
            entropy = np.random.SeedSequence((sweep.seed, trial.number))
            seed = int(entropy.generate_state(1)[0])
            self._of_trial = (
                TPESampler(seed=seed)
                if sweep.sampler == "tpe"
                else GPSampler(seed=seed, warn_independent_sampling=False)
            )

        def infer_relative_search_space(self, study: optuna.Study, trial: Any) -> dict[str, Any]:
            return self._of_trial.infer_relative_search_space(study, trial)

        def sample_relative(self, study: optuna.Study, trial: Any, search_space: Any) -> Any:
            return self._of_trial.sample_relative(study, trial, search_space)

        def sample_independent(
            self, study: optuna.Study, trial: Any, param_name: str, param_distribution: Any
        ) -> Any:
            return self._of_trial.sample_independent(study, trial, param_name, param_distribution)

    return Numbered()


def _pruner(sweep: Sweep, study: optuna.Study) -> BasePruner:
    """The pruner for the next trial; like the sampler it follows from the finished ones alone."""
    import optuna
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if sweep.pruner == "none" or not complete or not complete[0].last_step:
        return NopPruner()
    # The first steps say more about the learning rate than about where a fit ends.
    steps = complete[0].last_step
    if sweep.pruner == "median":
        return MedianPruner(n_warmup_steps=steps // 3)
    # Left to itself it takes the longest of those that it happens to see first.
    return HyperbandPruner(min_resource=max(1, steps // 9), max_resource=steps)


def _under_way(study: optuna.Study) -> int:
    """Trials that other workers are at.

    One without parameters does not count: its worker may have died before its first heartbeat, and
    then nobody would ever notice.
    """
    import optuna

    running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    return sum(bool(trial.params) for trial in running)


def _trial(sweep: Sweep, trial: optuna.trial.FrozenTrial) -> Trial:
    import optuna

    states: dict[optuna.trial.TrialState, State] = {
        optuna.trial.TrialState.COMPLETE: "complete",
        optuna.trial.TrialState.PRUNED: "pruned",
        optuna.trial.TrialState.FAIL: "failed",
    }
    return Trial(
        number=trial.number,
        state=states[trial.state],
        value=trial.value,
        parameters={n: sweep.space[n].decode(v) for n, v in sorted(trial.params.items())},
        epochs=trial.user_attrs.get(EPOCHS) or trial.last_step,
        seconds=trial.duration.total_seconds() if trial.duration else 0.0,
        sentence=trial.user_attrs.get(SENTENCE),
    )


def _importances(study: optuna.Study) -> dict[str, float]:
    import optuna

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < ENOUGH_TO_RANK or len({trial.value for trial in complete}) == 1:
        return {}
    return optuna.importance.get_param_importances(study)
