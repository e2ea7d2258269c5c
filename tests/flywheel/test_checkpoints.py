"""A checkpoint is there whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import logging
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from flywheel.checkpoints import ARRAYS, FACTS, MANIFEST, Checkpoint, CheckpointError, Checkpoints
from flywheel.settings import ROOT


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


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """A disk that refuses to grow: the kernel answers EFBIG where a full one answers ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_is_said_so_and_costs_nothing_that_was_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    with (
        no_file_larger_than(50_000),
        pytest.raises(CheckpointError, match="cannot write checkpoint 2 .* make room"),
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
