"""A sweep finds better parameters, is refused where it makes no sense, and survives kill -9."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from flywheel.model import SpecError
from flywheel.settings import ROOT
from flywheel.study import Study, run_study
from flywheel.study_place import JOURNAL, StudyPlace, save_study
from flywheel.sweep import Choice, Float, Int, Sweep, Trial, best, from_json, to_json
from flywheel.trainers.linear import LogisticRegression
from flywheel.trainers.tabular import TabularNetwork
from flywheel.trainers.trees import GradientBoosting
from flywheel.training import Report, TrainedModel, Trainer, TrainingData, TrainingError
from tests.flywheel.training_cases import TRAIN, VALIDATION

TREES = GradientBoosting(trees=30)
SPACE = {"trees": Int(10, 60), "learning_rate": Float(0.01, 0.5, log=True)}
SWEEP = Sweep(SPACE, trials=14)
NETWORK = TabularNetwork(hidden=(8,), epochs=2, batch_size=100, learning_rate=1e-2)


def run(
    folder: Path, sweep: Sweep = SWEEP, trainer: Trainer = TREES, told: Any = lambda _trial: None
) -> Study:
    return run_study(sweep, trainer, TRAIN, VALIDATION, 7, StudyPlace("study", folder), told)


def timeless(study: Study) -> tuple[Trial, ...]:
    """The trials, but for how long they took."""
    return tuple(replace(trial, seconds=0.0) for trial in study.trials)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run(tmp_path_factory.mktemp("undisturbed"))


def test_the_first_trial_is_the_trainer_as_declared_and_the_best_is_better(
    undisturbed: Study,
) -> None:
    trials, found = undisturbed.trials, best(undisturbed.trials)
    assert [trial.number for trial in trials] == list(range(14))
    assert trials[0].parameters == {"learning_rate": 0.07, "trees": 30}
    assert trials[0].value == pytest.approx(
        TREES.fit(TRAIN, VALIDATION, 7).metrics["best_validation_loss"], abs=1e-7
    )
    assert found is not None
    assert found.value is not None
    assert trials[0].value is not None
    assert found.value < trials[0].value
    again = replace(TREES, **found.parameters).fit(TRAIN, VALIDATION, 7)
    assert again.metrics["best_validation_loss"] == pytest.approx(found.value, abs=1e-7)
    assert all(trial.epochs == trial.parameters["trees"] for trial in trials if _complete(trial))
    assert set(undisturbed.importances) == set(SPACE)
    assert sum(undisturbed.importances.values()) == pytest.approx(1)


def test_a_trial_that_does_worse_than_the_median_is_ended_early(undisturbed: Study) -> None:
    pruned = [trial for trial in undisturbed.trials if trial.state == "pruned"]
    assert pruned
    for trial in pruned:
        assert trial.epochs is not None
        # A third of the declared trees are everybody's.
        assert 10 <= trial.epochs < trial.parameters["trees"]
        assert trial.sentence is None


def test_the_same_seed_gives_the_same_trials(tmp_path: Path, undisturbed: Study) -> None:
    told: list[Trial] = []
    again = run(tmp_path / "a", told=told.append)
    assert timeless(again) == timeless(undisturbed)
    assert again.importances == undisturbed.importances
    assert tuple(told) == again.trials
    other = run(tmp_path / "b", replace(SWEEP, seed=1, trials=3))
    assert timeless(other)[0] == timeless(undisturbed)[0]
    assert not set(map(parameters, other.trials[1:])) & set(map(parameters, undisturbed.trials))


class Untouched(GradientBoosting):
    """Trees that nobody may grow."""

    def fit(self, *_: Any, **__: Any) -> TrainedModel:
        raise AssertionError("fitted again")


def test_a_finished_study_is_read_and_a_longer_one_goes_on_from_it(
    tmp_path: Path, undisturbed: Study
) -> None:
    short = run(tmp_path, replace(SWEEP, trials=9))
    assert timeless(short) == timeless(undisturbed)[:9]
    told: list[Trial] = []
    assert run(tmp_path, replace(SWEEP, trials=9), Untouched(trees=30), told.append) == short
    assert tuple(told) == short.trials
    assert timeless(run(tmp_path)) == timeless(undisturbed)
    assert run(tmp_path, replace(SWEEP, trials=9), Untouched(trees=30)).trials == short.trials


KILLED = """
import sys
from pathlib import Path
from tests.flywheel.test_sweep import HARD, run
run(Path(sys.argv[2]), HARD[sys.argv[1]])
"""

HARD = {
    "tpe, hyperband": replace(SWEEP, trials=16, pruner="hyperband"),
    "tpe, median": replace(SWEEP, trials=14),
    "gp": replace(SWEEP, trials=14, sampler="gp", pruner="none"),
}


def size(folder: Path) -> int:
    journal = folder / JOURNAL
    return journal.stat().st_size if journal.exists() else 0


def running(folder: Path) -> dict[int, tuple[Any, ...]]:
    """What a killed process had under way, by trial number, as its journal tells."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    trials = optuna.load_study(study_name="study", storage=storage).trials
    left = [t for t in trials if t.state == optuna.trial.TrialState.RUNNING]
    return {t.number: tuple(sorted(t.params.items())) for t in left if len(t.params) == len(SPACE)}


@pytest.mark.slow
@pytest.mark.parametrize("which", HARD)
def test_killed_at_random_moments_it_ends_as_if_nothing_had_happened(
    tmp_path: Path, which: str
) -> None:
    chance, interrupted = random.Random(3), {}
    folder = tmp_path / "killed"
    for _ in range(4):
        reached = size(folder) + chance.randint(1000, 6000)
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", KILLED, which, str(folder)],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as study:  # fmt: skip
            while size(folder) < reached and study.poll() is None:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.05))
            study.send_signal(signal.SIGKILL)
        interrupted |= running(folder)
    assert interrupted
    resumed = run(folder, HARD[which])
    assert timeless(resumed) == timeless(run(tmp_path / "undisturbed", HARD[which]))
    of_number = {t.number: parameters(t) for t in resumed.trials}
    assert interrupted == {number: of_number[number] for number in interrupted}
    assert len({trial.state for trial in resumed.trials}) == (1 if which == "gp" else 2)


def test_a_torn_last_line_and_a_lock_left_behind_cost_nothing(
    tmp_path: Path, undisturbed: Study
) -> None:
    run(tmp_path, replace(SWEEP, trials=2))
    journal = tmp_path / JOURNAL
    with journal.open("a") as torn:
        torn.write('{"op_code":4,"wor')
    (tmp_path / f"{JOURNAL}.lock").symlink_to(journal)
    started = time.monotonic()
    assert timeless(run(tmp_path, replace(SWEEP, trials=3))) == timeless(undisturbed)[:3]
    assert time.monotonic() - started < 25  # Optuna alone would wait 30 seconds for the lock


class Interrupted(GradientBoosting):
    """Trees whose owner presses Ctrl-C, or finds a bug, after some of them."""

    reason: BaseException

    def fit(
        self,
        train: TrainingData,
        validation: TrainingData,
        seed: int,
        checkpoints: Any = None,
        report: Report | None = None,
    ) -> TrainedModel:
        def until(step: int, loss: float) -> None:
            assert report is not None
            report(step, loss)
            if self.trees != 30 and step == 7:
                raise self.reason

        return super().fit(train, validation, seed, checkpoints, until)


@pytest.mark.parametrize("reason", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_what_did_not_end_by_itself_is_repeated(
    tmp_path: Path, undisturbed: Study, reason: type[BaseException]
) -> None:
    Interrupted.reason = reason()
    for _ in range(2):
        with pytest.raises(reason):
            run(tmp_path, trainer=Interrupted(trees=30))
    resumed = run(tmp_path, replace(SWEEP, trials=4))
    assert timeless(resumed) == timeless(undisturbed)[:4]


def test_two_processes_may_not_write_one_journal(tmp_path: Path) -> None:
    place = StudyPlace("study", tmp_path)
    with place.opened(), pytest.raises(TrainingError, match="another process is running the sweep"):
        run(tmp_path)
    assert len(run(tmp_path, replace(SWEEP, trials=1)).trials) == 1


def test_a_trial_that_diverges_is_failed_with_its_sentence_and_the_study_goes_on(
    tmp_path: Path,
) -> None:
    sweep = Sweep(
        {"learning_rate": Float(1e-3, 1e3, log=True), "hidden": Choice((8,), (4, 4))}, trials=5
    )
    study = run(tmp_path, sweep, NETWORK)
    failed = [trial for trial in study.trials if trial.state == "failed"]
    assert 0 < len(failed) < 5
    for trial in failed:
        assert trial.value is None
        assert str(trial.sentence).startswith("the loss became ")
        assert f"(now {trial.parameters['learning_rate']})" in str(trial.sentence)
    # A network's widths come back as the tuple that they were.
    assert {trial.parameters["hidden"] for trial in study.trials} <= {(8,), (4, 4)}
    assert run(tmp_path, sweep, NETWORK) == study


@dataclass(frozen=True)
class Moody:
    """A straight line whose answers, or reports, are not numbers for some moods."""

    mood: float = 0.5

    version = "moody-1"

    def fit(
        self,
        train: TrainingData,
        validation: TrainingData,
        seed: int,
        checkpoints: Any = None,
        report: Report | None = None,
    ) -> TrainedModel:
        if report is not None:
            report(1, math.nan if self.mood < 0.4 else self.mood)
        return LogisticRegression().fit(train, validation, seed)


def test_a_loss_that_is_not_a_number_fails_the_trial(tmp_path: Path) -> None:
    study = run(tmp_path, Sweep({"mood": Float(0, 1)}, trials=8), Moody())
    for trial in study.trials:
        failed = trial.parameters["mood"] < 0.4
        assert trial.state == "failed" if failed else trial.state in ("complete", "pruned")
        assert (trial.sentence == "the validation log-loss became nan") == failed
    assert {trial.state for trial in study.trials} >= {"failed", "complete"}


def test_if_all_fail_the_reason_is_told_and_nothing_is_remembered(tmp_path: Path) -> None:
    sweep = Sweep({"mood": Float(0, 0.4)}, trials=3)
    with pytest.raises(TrainingError, match="none of the 3 trials .* log-loss became nan"):
        run(tmp_path, sweep, Moody(0.1))
    assert run(tmp_path, replace(sweep, pruner="none"), Moody(0.1)).trials[0].state == "complete"


@pytest.mark.slow
def test_several_workers_can_be_searched_only_without_pruning(tmp_path: Path) -> None:
    pair = replace(NETWORK, workers=2, epochs=1)
    sweep = Sweep({"learning_rate": Float(1e-3, 1e-1)}, trials=1)
    with pytest.raises(TrainingError, match="2 workers cannot be watched: set workers to 1"):
        run(tmp_path / "a", sweep, pair)
    study = run(tmp_path / "b", replace(sweep, pruner="none"), pair)
    assert study.trials[0].state == "complete"
    assert study.importances == {}


def test_a_saved_study_is_one_that_optuna_opens(tmp_path: Path) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    study = run(tmp_path, replace(SWEEP, trials=3))
    save_study(StudyPlace("study", tmp_path), tmp_path / "saved")
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "saved")))
    loaded = optuna.load_study(study_name="study", storage=storage)
    assert [trial.value for trial in loaded.trials] == [trial.value for trial in study.trials]


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ({"depth": Int(1, 9)}, r"\['depth'\], which GradientBoosting lacks; it has \['learning_"),
        ({"trees": Float(1, 9)}, "trees, which in this .* is a int, so search it with Int"),
        ({"learning_rate": Int(1, 9)}, "learning_rate, .* is a float, so search it with Float"),
        ({"trees": Int(40, 90)}, "is 30, outside of 40 to 90: widen the range to hold it"),
        ({"trees": Choice(40, 90)}, r"is 30, which is not among \[40, 90\]: add it"),
        ({"trees": Choice(30, "many")}, r"is a int, unlike \['many'\]"),
    ],
)
def test_a_space_that_does_not_fit_the_trainer_is_refused(
    space: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SpecError, match=sentence):
        Sweep(space).check(TREES)


@pytest.mark.parametrize(
    ("declare", "sentence"),
    [
        (lambda: Sweep({}), "names at least one field"),
        (lambda: Sweep(SPACE, trials=0), "a sweep of 0 trials finds nothing"),
        (lambda: Sweep(SPACE, sampler="random"), "sampler is one of"),
        (lambda: Sweep(SPACE, pruner="asha"), "pruner is one of"),
        (lambda: replace(SWEEP, sampler="gp"), "does not learn from pruned trials"),
        (lambda: Float(2, 1), "low must be below high"),
        (lambda: Int(0, 9, log=True), "low must be above 0"),
        (lambda: Choice(1), "give two or more different values"),
        (lambda: Choice(1, 1), "give two or more different values"),
        (lambda: Choice(1.0, math.nan), "nan is no text, number"),
        (lambda: Choice((1,), [1]), r"\[1\] is no text, number"),
        (lambda: Choice("a", object()), "is no text, number"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(declare: Any, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        declare()


def test_parameters_come_back_from_json_as_they_were() -> None:
    values = {"hidden": (256, (1, 2)), "rate": 0.1 + 0.2, "name": "x", "none": None, "on": True}
    assert from_json(to_json(values)) == values
    assert json.loads(to_json(values))["hidden"] == [256, [1, 2]]


def _complete(trial: Trial) -> bool:
    return trial.state == "complete"


def parameters(trial: Trial) -> tuple[Any, ...]:
    return tuple(sorted(trial.parameters.items()))
