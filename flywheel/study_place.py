"""Where a study is kept: a journal file of one worker, or a database that several share.

What a killed process had under way is left out when its journal is opened again. A database has
heartbeats: the trial of a dead worker is failed and its parameters are tried again.
"""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flywheel.training import TrainingError

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

JOURNAL, LOCK = "journal.log", "running"

# The user attribute that says why a trial failed.
SENTENCE = "sentence"

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


def finished_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that ended by themselves: one that failed without a sentence was interrupted."""
    return [t for t in study.get_trials(deepcopy=False) if _ended(t)]


def _ended(trial: optuna.trial.FrozenTrial) -> bool:
    import optuna

    state = optuna.trial.TrialState
    return trial.state in (state.COMPLETE, state.PRUNED) or (
        trial.state == state.FAIL and SENTENCE in trial.user_attrs
    )


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
            kept.add_trials(finished_trials(optuna.load_study(study_name=name, storage=before)))
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
