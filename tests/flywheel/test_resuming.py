"""A fit that is killed goes on from its last checkpoint and ends as if nothing had happened."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from flywheel.checkpoints import Checkpoint, CheckpointError, Checkpoints
from flywheel.settings import ROOT
from flywheel.trainers.tabular import TabularNetwork
from flywheel.training import TrainedModel
from tests.flywheel.full_disk import no_file_larger_than
from tests.flywheel.training_cases import TRAIN, VALIDATION

LONG = TabularNetwork(hidden=(16, 8), epochs=24, patience=24, batch_size=50, learning_rate=1e-2)

KILLED = """
import sys
from pathlib import Path
from flywheel.checkpoints import Checkpoints
from tests.flywheel.test_resuming import LONG
from tests.flywheel.training_cases import TRAIN, VALIDATION
LONG.fit(TRAIN, VALIDATION, 7, Checkpoints(Path(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def undisturbed() -> TrainedModel:
    return LONG.fit(TRAIN, VALIDATION, 7)


def newest(folder: Path) -> int:
    return max((int(entry.name[5:]) for entry in folder.glob("step-*")), default=0)


def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    tmp_path: Path, undisturbed: TrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    chance, reached = random.Random(11), [0]
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path)],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as fit:  # fmt: skip
            while newest(tmp_path) <= reached[-1] and fit.poll() is None:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.05))
            fit.send_signal(signal.SIGKILL)
        reached.append(newest(tmp_path))
    assert reached == sorted(set(reached))
    assert 0 < reached[-1] < LONG.epochs
    with caplog.at_level(logging.INFO):
        resumed = LONG.fit(TRAIN, VALIDATION, 7, Checkpoints(tmp_path))
    assert f"going on after epoch {reached[-1]}" in caplog.text
    assert resumed.onnx == undisturbed.onnx
    assert resumed.curves == undisturbed.curves
    assert resumed.metrics == undisturbed.metrics


class Killed(BaseException):
    """Stands for the end of the process."""


class Doomed(Checkpoints):
    """Dies after a number of checkpoints."""

    def save(self, checkpoint: Checkpoint) -> None:
        super().save(checkpoint)
        if checkpoint.step == 5:
            raise Killed


def test_a_corrupt_checkpoint_costs_an_epoch_and_nothing_else(
    tmp_path: Path, undisturbed: TrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        LONG.fit(TRAIN, VALIDATION, 7, Doomed(tmp_path))
    arrays = tmp_path / "step-00000005" / "arrays.npz"
    arrays.write_bytes(arrays.read_bytes()[:-7])
    with caplog.at_level(logging.INFO):
        resumed = LONG.fit(TRAIN, VALIDATION, 7, Checkpoints(tmp_path))
    assert "step-00000005 is corrupt" in caplog.text
    assert "going on after epoch 4" in caplog.text
    assert resumed.onnx == undisturbed.onnx


def test_it_stops_early_at_the_same_epoch(tmp_path: Path) -> None:
    impatient = replace(LONG, patience=2, learning_rate=3e-2)
    whole = impatient.fit(TRAIN, VALIDATION, 7)
    assert 5 < whole.metrics["epochs"] < LONG.epochs
    with pytest.raises(Killed):
        impatient.fit(TRAIN, VALIDATION, 7, Doomed(tmp_path))
    again = impatient.fit(TRAIN, VALIDATION, 7, Checkpoints(tmp_path))
    assert again == whole
    # Killed between the last epoch and the registration: nothing is trained twice.
    assert impatient.fit(TRAIN, VALIDATION, 7, Checkpoints(tmp_path)) == whole


def test_another_fits_checkpoint_is_not_gone_on_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    brief, checkpoints = replace(LONG, epochs=1), Checkpoints(tmp_path)
    doubled = replace(TRAIN, numeric=TRAIN.numeric * 2)
    fits = [(brief, TRAIN, 7), (replace(brief, dropout=0.1), TRAIN, 7), (brief, TRAIN, 8)]
    for trainer, train, seed in [*fits, (brief, doubled, 8)]:
        fitted = trainer.fit(train, VALIDATION, seed, checkpoints)
    assert caplog.text.count("belong to another recipe or other data: starting anew") == 3
    assert fitted == brief.fit(doubled, VALIDATION, 8)


def test_a_folder_that_cannot_be_written_is_said_before_the_first_epoch(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot be written to .*file: File exists"):
        LONG.fit(TRAIN, VALIDATION, 7, Checkpoints(tmp_path / "file"))


class FullForAWhile(Checkpoints):
    """On a disk that has no room while some checkpoints are written, and then a kill."""

    full: tuple[int, ...] = (3, 4)
    killed_at: int = 6

    def save(self, checkpoint: Checkpoint) -> None:
        if checkpoint.step == self.killed_at:
            raise Killed
        with no_file_larger_than(500) if checkpoint.step in self.full else nullcontext():
            super().save(checkpoint)


def test_a_disk_that_is_full_costs_checkpoints_and_is_said_loudly(
    tmp_path: Path, undisturbed: TrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        LONG.fit(TRAIN, VALIDATION, 7, FullForAWhile(tmp_path))
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(said) == 2
    assert "cannot write checkpoint 3 (0.0 MB)" in said[0]
    assert "Make room on that disk" in said[0]
    assert "goes on and tries again after its next epoch" in said[0]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-00000002", "step-00000005"]
    resumed = LONG.fit(TRAIN, VALIDATION, 7, Checkpoints(tmp_path))
    assert resumed.onnx == undisturbed.onnx
    assert resumed.metrics == {**undisturbed.metrics, "missed_checkpoints": 2}


class FullForGood(FullForAWhile):
    """On a disk that fills up for good."""

    full = tuple(range(3, 100))
    killed_at = 100


def test_a_disk_that_stays_full_does_not_keep_a_training_from_its_end(
    tmp_path: Path, undisturbed: TrainedModel
) -> None:
    trained = LONG.fit(TRAIN, VALIDATION, 7, FullForGood(tmp_path))
    assert trained.onnx == undisturbed.onnx
    assert trained.metrics["missed_checkpoints"] == LONG.epochs - 2
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]
    found = Checkpoints(tmp_path).latest()
    assert found is not None
    assert found.step == 2
