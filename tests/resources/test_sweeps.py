"""Workers share a sweep through a Postgres of its own; one that is killed leaves nothing undone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flywheel.settings import ROOT
from flywheel.study import run_study
from flywheel.study_place import StudyPlace
from flywheel.sweep import Float, Int, Sweep
from flywheel.trainers.trees import GradientBoosting
from flywheel.training import TrainingError
from resources.sweeps import Sweeps
from tests.flywheel.training_cases import TRAIN, VALIDATION

TREES = GradientBoosting(trees=30)
SWEEP = Sweep({"trees": Int(10, 60), "learning_rate": Float(0.01, 0.5, log=True)}, trials=12)


@pytest.fixture(scope="module")
def database(postgres: str) -> str:
    """A database of the sweeps' own in the Postgres of the tests."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("CREATE DATABASE sweeps"))
    engine.dispose()
    url = sqlalchemy.make_url(postgres).set(database="sweeps")
    return url.render_as_string(hide_password=False)


WORKER = """
import signal, sys
from pathlib import Path
from flywheel.study import run_study
from flywheel.study_place import StudyPlace
from tests.flywheel.training_cases import TRAIN, VALIDATION
from tests.resources.test_sweeps import SWEEP, TREES
from flywheel.trainers.trees import GradientBoosting

class Announced(GradientBoosting):
    def fit(self, train, validation, seed, checkpoints=None, report=None):
        def until(step, loss):
            report(step, loss)
            if step == 5 and sys.argv[2] == "hangs" and self.trees != 30:
                print("hangs", flush=True)
                signal.pause()
        return super().fit(train, validation, seed, checkpoints, until)

study = run_study(
    SWEEP, Announced(trees=30), TRAIN, VALIDATION, 7,
    StudyPlace("shared", Path("unused"), sys.argv[1], heartbeat_seconds=1),
)
print(*sorted(t.number for t in study.trials))
"""


def worker(url: str, manner: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WORKER, url, manner],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_two_workers_share_a_study_and_what_a_killed_one_was_at_is_repeated(database: str) -> None:
    import optuna

    doomed = worker(database, "hangs")
    assert doomed.stdout is not None
    assert doomed.stdout.readline() == "hangs\n"
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    pair = [worker(database, "works") for _ in range(2)]
    told = [one.communicate(timeout=300)[0] for one in pair]
    assert [one.returncode for one in pair] == [0, 0]
    # Both hand back the same twelve trials.
    assert len(told[0].split()) == SWEEP.trials
    assert told[0] == told[1]

    trials = optuna.load_study(study_name="shared", storage=database).trials
    failed = [t for t in trials if t.state == optuna.trial.TrialState.FAIL]
    assert len(failed) == 1
    repeated = [t for t in trials if t.params == failed[0].params and t.state.is_finished()]
    assert [t.number in map(int, told[0].split()) for t in repeated] == [False, True]
    # Each seeds by the trial's number: no two of them tried the same.
    assert len({tuple(t.params.items()) for t in trials}) == len(trials) - 1


def test_alone_on_a_database_the_trials_are_those_of_a_journal(
    database: str, tmp_path: Path
) -> None:
    brief = replace(SWEEP, trials=4)
    of_journal, of_database = (
        run_study(brief, TREES, TRAIN, VALIDATION, 7, StudyPlace("alone", tmp_path, url))
        for url in ("", database)
    )
    assert [replace(t, seconds=0) for t in of_database.trials] == [
        replace(t, seconds=0) for t in of_journal.trials
    ]


@pytest.mark.parametrize(
    ("sweeps", "mlflow"),
    [
        ("sqlite:////a/mlflow.db", "sqlite:////a/mlflow.db"),
        ("postgresql+psycopg2://me:x@db/ml", "postgresql+psycopg://you@DB:5432/ml?sslmode=require"),
    ],
)
def test_the_database_of_mlflow_is_refused(sweeps: str, mlflow: str) -> None:
    with pytest.raises(ValueError, match="names the database of MLflow"):
        Sweeps(folder="/a", url=sweeps, tracking_uri=mlflow).of("study")


def test_another_database_of_the_same_server_is_well(tmp_path: Path) -> None:
    server = "postgresql+psycopg2://me@db:5432"
    resource = Sweeps(folder=str(tmp_path), url=f"{server}/sweeps", tracking_uri=f"{server}/mlflow")
    assert resource.of("s") == StudyPlace("s", tmp_path / "s", f"{server}/sweeps")
    assert Sweeps(folder=str(tmp_path)).of("s") == StudyPlace("s", tmp_path / "s")


def test_a_database_with_the_tables_of_mlflow_is_refused_in_a_sentence(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    url = f"sqlite:///{tmp_path}/mlflow.db"
    MlflowClient(url).search_experiments()
    place = Sweeps(folder=str(tmp_path), url=url, tracking_uri="http://mlflow:5000").of("study")
    with pytest.raises(TrainingError, match="give the sweeps a database of their own"):
        run_study(SWEEP, TREES, TRAIN, VALIDATION, 7, place)
