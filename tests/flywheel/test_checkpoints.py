"""A checkpoint is there whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flywheel.checkpoints import (
    ABANDONED_SECONDS,
    ARRAYS,
    FACTS,
    MANIFEST,
    Checkpoint,
    CheckpointError,
    Checkpoints,
    prune,
)  # fmt: skip
from flywheel.settings import ROOT
from tests.flywheel.full_disk import no_file_larger_than


def state(step: int, size: int = 100) -> Checkpoint:
    arrays = {
        "weights": np.full((2, size), step, np.float32),
        "file": np.arange(3, dtype=np.uint8),
        "scalar": np.float32(0.1).reshape(()),
    }
    return Checkpoint(step, arrays, {"best": 0.1 + 0.2, "phase": {"none": None}, "big": 2**127 + 1})


def steps(checkpoints: Checkpoints) -> list[str]:
    return sorted(entry.name for entry in checkpoints.folder.iterdir())


def newest(checkpoints: Checkpoints) -> int:
    found = checkpoints.latest()
    assert found is not None
    return found.step


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "of" / "one fit")
    assert checkpoints.latest() is None
    written = state(3)
    checkpoints.save(written)
    read = checkpoints.latest()
    assert read is not None
    assert (read.step, read.facts) == (3, written.facts)
    assert list(read.arrays) == list(written.arrays)
    for name, array in written.arrays.items():
        np.testing.assert_array_equal(read.arrays[name], array)
        assert read.arrays[name].dtype == array.dtype
        assert read.arrays[name].shape == array.shape


def test_the_newest_is_found_and_old_ones_are_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (8, 9, 10, 11):
        checkpoints.save(state(step))
    assert steps(checkpoints) == ["step-00000010", "step-00000011"]
    assert newest(checkpoints) == 11
    checkpoints.clear()
    assert checkpoints.latest() is None
    checkpoints.clear()


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("spoil", [flip_a_bit, cut_in_half, Path.unlink])
@pytest.mark.parametrize("file", [ARRAYS, FACTS, MANIFEST])
def test_a_corrupt_one_is_named_and_the_one_before_is_used(
    tmp_path: Path, spoil: object, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(state(step))
    assert callable(spoil)
    spoil(tmp_path / "step-00000002" / file)
    with caplog.at_level(logging.WARNING):
        assert newest(checkpoints) == 1
    assert "step-00000002 is corrupt" in caplog.text
    checkpoints.save(state(2))
    caplog.clear()
    assert newest(checkpoints) == 2
    assert caplog.text == ""


def test_an_array_of_objects_is_refused_rather_than_pickled(tmp_path: Path) -> None:
    objects = Checkpoint(1, {"a": np.array([object()])}, {})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Checkpoints(tmp_path).save(objects)
    assert Checkpoints(tmp_path).latest() is None


def test_a_disk_that_is_full_is_said_so_and_costs_nothing_that_was_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    with (
        no_file_larger_than(50_000),
        pytest.raises(CheckpointError, match="cannot write checkpoint 2 .0.8 MB. to .*Make room"),
    ):
        checkpoints.save(state(2, size=100_000))
    assert steps(checkpoints) == ["step-00000001"]
    assert newest(checkpoints) == 1
    checkpoints.save(state(2))
    assert newest(checkpoints) == 2


WRITER = """
import sys
from pathlib import Path
from flywheel.checkpoints import Checkpoints
from tests.flywheel.test_checkpoints import state
checkpoints = Checkpoints(Path(sys.argv[1]))
found = checkpoints.latest()
step = found.step if found else 0
while True:
    step += 1
    checkpoints.save(state(step, 20_000))
    print(step, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_its_last_one_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints, chance = Checkpoints(tmp_path), random.Random(5)
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        ) as writer:  # fmt: skip
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(chance.uniform(0, 0.05))
            writer.send_signal(signal.SIGKILL)
            said = [int(line) for line in writer.stdout.read().split()]
        found = checkpoints.latest()
        assert found is not None
        assert found.step >= max(said, default=1)
        assert (found.arrays["weights"] == found.step).all()
    assert "corrupt" not in caplog.text


def aged(folder: Path, seconds: float) -> None:
    """Make it look as if nobody had touched a folder for so long."""
    then = time.time() - seconds
    os.utime(folder, (then, then))


def test_abandoned_checkpoints_go_and_nothing_else_does(tmp_path: Path) -> None:
    for name in ("abandoned", "killed while it wrote", "spared", "recent", "begun", "saved to"):
        Checkpoints(tmp_path / name).save(state(1))
    (tmp_path / "killed while it wrote" / ".step-00000002.77").mkdir()
    (tmp_path / "somebody's").mkdir()
    (tmp_path / "somebody's" / "thesis.txt").write_text("years of work")
    (tmp_path / "notes.txt").write_text("also theirs")
    for entry in tmp_path.iterdir():
        aged(entry, ABANDONED_SECONDS + 60)
    aged(tmp_path / "recent", ABANDONED_SECONDS - 60)
    Checkpoints(tmp_path / "begun").begin()
    Checkpoints(tmp_path / "saved to").save(state(2))
    prune(tmp_path, "spared")
    left = {"spared", "recent", "begun", "saved to", "somebody's", "notes.txt"}
    assert {entry.name for entry in tmp_path.iterdir()} == left
    prune(tmp_path / "nowhere", "spared")


def test_a_fit_in_another_process_keeps_its_checkpoints(tmp_path: Path) -> None:
    fit = tmp_path / "fit"
    Checkpoints(fit).save(state(1))
    aged(fit, ABANDONED_SECONDS + 60)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(fit)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as writer:  # fmt: skip
        assert writer.stdout is not None
        for _ in range(20):
            writer.stdout.readline()
            prune(tmp_path, "another")
        writer.send_signal(signal.SIGKILL)
        said = [int(line) for line in writer.stdout.read().split()]
    assert newest(Checkpoints(fit)) >= max(said, default=20)


def test_what_a_killed_prune_left_goes_with_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".pruned-77"
    Checkpoints(left).save(state(1))
    aged(left, ABANDONED_SECONDS + 60)
    prune(tmp_path, "fit")
    assert list(tmp_path.iterdir()) == []
