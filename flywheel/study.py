"""How a sweep runs: an Optuna study that can be killed anywhere and goes on.

A study of one worker lives in a journal file. What a killed process had under way is left out when
the journal is opened again, and since each trial's random numbers follow from its own number, it is
then repeated: the finished study is the one that nobody disturbed. Several workers share a database
with heartbeats instead: the trial of a dead worker is failed and its parameters are tried again.
"""

from __future__ import annotations

import fcntl
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel.sweep import State, Sweep, Trial, best, with_parameters
from flywheel.training import Pruned, Report, Trainer, TrainingData, TrainingError

if TYPE_CHECKING:
    import optuna
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

JOURNAL, LOCK = "journal.log", "running"

# Changes whenever the same sweep would try something else.
RECIPE = "study-1"

# A Gaussian process learns from complete trials alone, so it can wait long for Optuna's ten: twelve
# of 20 trials on flights were pruned, and none was its own.
COMPLETE_FOR_GP = 5

# In a trial's user attributes.
SENTENCE, EPOCHS = "sentence", "epochs"

# Fewer complete trials say nothing about which parameter matters.
ENOUGH_TO_RANK = 5

# How often the parameters of workers that died are tried again: they may be what killed them.
RETRIES = 2


@dataclass(frozen=True)
class StudyPlace:
    """Where a study is kept.

    Attributes:
        name: Unique name of the study.
        folder: Of its journal, which one process at a time may write.
        url: SQLAlchemy address of a database that several workers share; then there is no journal.
        heartbeat_seconds: How often a worker tells that database that it is alive. One that has
            been silent for twice as long is dead.
    """

    name: str
    folder: Path
    url: str = ""
    heartbeat_seconds: int = 30

    @contextmanager
    def opened(self) -> Iterator[BaseStorage]:
        """The study's storage, without what a dead process had under way.

        Raises:
            TrainingError: Another process is running the study, or the database cannot hold any.
        """
        with warnings.catch_warnings():
            # Journals and heartbeats are called experimental; their behaviour is tested here.
            warnings.simplefilter("ignore", _experimental())
            if self.url:
                yield _database(self)
            else:
                with _only_process(self.folder):
                    yield _journal(self)


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
        while True:
            finished = _finished(study)
            for trial in finished[: sweep.trials]:
                if trial.number not in known:
                    known.add(trial.number)
                    told(_trial(sweep, trial))
            if len(finished) >= sweep.trials:
                break
            if len(finished) + _under_way(study) >= sweep.trials:
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
        trials = tuple(_trial(sweep, trial) for trial in finished[: sweep.trials])
        if best(trials) is None:
            # Not kept: the cause may lie outside of what the study's name says, such as in memory.
            optuna.delete_study(study_name=place.name, storage=storage)
            raise TrainingError(
                f"none of the {len(trials)} trials of the sweep gave a model; the declared trainer "
                f"failed so: {trials[0].sentence}"
            )
        return Study(trials, _importances(study))


def save_study(place: StudyPlace, file: Path) -> None:
    """Write a study as a journal file, which `optuna.load_study` opens."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    with place.opened() as storage:
        optuna.copy_study(
            from_study_name=place.name,
            from_storage=storage,
            to_storage=JournalStorage(JournalFileBackend(str(file))),
        )


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
                else GPSampler(
                    seed=seed, n_startup_trials=COMPLETE_FOR_GP, warn_independent_sampling=False
                )
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


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that ended by themselves: one that failed without a sentence was interrupted."""
    return [t for t in study.get_trials(deepcopy=False) if _ended(t)]


def _ended(trial: optuna.trial.FrozenTrial) -> bool:
    import optuna

    state = optuna.trial.TrialState
    return trial.state in (state.COMPLETE, state.PRUNED) or (
        trial.state == state.FAIL and SENTENCE in trial.user_attrs
    )


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


def _journal(place: StudyPlace) -> BaseStorage:
    """The journal with the finished trials of the one that was there, in their order."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    journal = place.folder / JOURNAL
    aside = journal.with_suffix(".aside")
    # Optuna's own locks, which a killed process leaves behind: this process is the only one.
    for left in (aside, *place.folder.glob("*.lock*")):
        left.unlink(missing_ok=True)
    if journal.exists():
        before = JournalStorage(JournalFileBackend(str(journal)))
        after = JournalStorage(JournalFileBackend(str(aside)))
        for name in optuna.get_all_study_names(before):
            kept = optuna.create_study(storage=after, study_name=name, direction="minimize")
            kept.add_trials(_finished(optuna.load_study(study_name=name, storage=before)))
        aside.replace(journal)
    return JournalStorage(JournalFileBackend(str(journal)))


def _database(place: StudyPlace) -> BaseStorage:
    from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback

    try:
        return RDBStorage(
            place.url,
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=place.heartbeat_seconds,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
        )
    except RuntimeError as error:
        # So Optuna says that the tables of MLflow, or of a later Optuna, are there.
        raise TrainingError(
            "the database of FLYWHEEL_SWEEP_STORAGE holds the tables of another program or of "
            f"another version of Optuna: give the sweeps a database of their own ({error})"
        ) from error


@contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Hold the folder; the kernel lets go of it when the process ends, however it does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                f"another process is running the sweep in {folder}: wait for it, or let several "
                "share a database (FLYWHEEL_SWEEP_STORAGE)"
            ) from error
        yield


def _experimental() -> type[Warning]:
    from optuna.exceptions import ExperimentalWarning

    return ExperimentalWarning
