"""What a killed training goes on from: arrays and JSON, written aside, hashed, synced and renamed.

A checkpoint is a folder `step-00000012` with `arrays.npz`, `facts.json` and a manifest of their
hashes. It is there whole or not at all. Nothing in it is pickled, so reading one runs no code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel.training import TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ARRAYS, FACTS, MANIFEST = "arrays.npz", "facts.json", "manifest.json"

ABANDONED_SECONDS = 14 * 24 * 3600

log = logging.getLogger(__name__)


class CheckpointError(TrainingError):
    """A checkpoint cannot be written; the one before it is untouched."""


class CorruptCheckpointError(TrainingError):
    """A checkpoint is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a fit between two of its steps.

    Attributes:
        step: Counts up; an epoch for a network.
        arrays: Arrays of any shape and any dtype but object, by name.
        facts: What JSON can hold; floats come back to the last bit.
    """

    step: int
    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints of one fit. One process at a time may write to it.

    Attributes:
        folder: Made when it is first written to.
        keep: How many of the newest stay. With 2 there is one to fall back to.
    """

    folder: Path
    keep: int = 2

    def begin(self) -> None:
        """Make the folder, while nothing is lost if that cannot be done.

        Raises:
            CheckpointError: It cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            # Tells `prune` that somebody is at work here, too.
            os.utime(self.folder)
        except OSError as error:
            raise CheckpointError(
                f"checkpoints cannot be written to {self.folder}: {error.strerror}. Make it a "
                "folder that may be written to, on a disk with room, or point FLYWHEEL_HOME at one"
            ) from error

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, durably, and remove the oldest.

        Raises:
            CheckpointError: The disk is full or refuses; what was there is untouched.
        """
        final = self.folder / f"step-{checkpoint.step:08d}"
        aside = self.folder / f".{final.name}.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            aside.mkdir()
            _write(aside, checkpoint)
            if final.exists():
                # Only a corrupt one can be written again.
                shutil.rmtree(final)
            aside.rename(final)
            _sync(self.folder)
            for old in self._steps()[: -self.keep]:
                shutil.rmtree(old)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            size = sum(array.nbytes for array in checkpoint.arrays.values()) / 1e6
            raise CheckpointError(
                f"cannot write checkpoint {checkpoint.step} ({size:.1f} MB) to {self.folder}: "
                f"{error.strerror}. Earlier checkpoints are untouched. Make room on that disk "
                "(`flywheel data maintain` removes what has expired) or point FLYWHEEL_HOME at "
                "another"
            ) from error

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None; others are named in a warning."""
        for folder in reversed(self._steps()):
            try:
                return _read(folder)
            except CorruptCheckpointError as error:
                log.warning("checkpoint %s is corrupt (%s): using the one before", folder, error)
        return None

    def clear(self) -> None:
        """Remove all of them, once what they were for is safe elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def _sweep(self) -> None:
        """Remove what a killed process was about to write."""
        for unfinished in self.folder.glob(".step-*"):
            shutil.rmtree(unfinished)


def prune(root: Path, spare: str) -> None:
    """Remove the checkpoints of fits with which nobody has gone on for 14 days.

    A fit touches its folder when it begins and with every checkpoint, so one that is under way is
    never taken for abandoned, unless a single step of it lasts that long.

    Args:
        root: Holds a folder for each fit; what is not one is left alone.
        spare: Name of a folder to keep, however old: that of the fit that is about to go on.
    """
    oldest = time.time() - ABANDONED_SECONDS
    for folder in [entry for entry in root.glob("*") if entry.name != spare]:
        aside = folder.with_name(f".pruned-{os.getpid()}")
        try:
            if _holds_checkpoints(folder) and folder.stat().st_mtime < oldest:
                # Renamed first: a fit that goes on at this very moment finds all of it or nothing.
                folder.rename(aside)
                shutil.rmtree(aside)
                log.info("removed the checkpoints of an abandoned training, %s", folder)
        except OSError as error:
            log.warning("cannot remove the old checkpoints %s: %s", folder, error.strerror)


def _holds_checkpoints(folder: Path) -> bool:
    return folder.is_dir() and all(
        entry.name.removeprefix(".").startswith("step-") for entry in folder.iterdir()
    )


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    import numpy as np

    # An array may be called anything, `file` too, so names are facts and not arguments.
    names = list(checkpoint.arrays)
    arrays = {f"a{i}": checkpoint.arrays[name] for i, name in enumerate(names)}
    np.savez(folder / ARRAYS, allow_pickle=False, **arrays)
    facts = {"step": checkpoint.step, "arrays": names, "facts": dict(checkpoint.facts)}
    (folder / FACTS).write_text(json.dumps(facts))
    manifest = {name: _sha256(folder / name) for name in (ARRAYS, FACTS)}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    for name in (ARRAYS, FACTS, MANIFEST):
        _sync(folder / name)
    _sync(folder)


def _read(folder: Path) -> Checkpoint:
    import numpy as np

    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        wrong = [name for name in (ARRAYS, FACTS) if manifest[name] != _sha256(folder / name)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpointError(f"{type(error).__name__}: {error}") from error
    if wrong:
        raise CorruptCheckpointError(f"{', '.join(wrong)} differs from the manifest's hash")
    facts = json.loads((folder / FACTS).read_text())
    with np.load(folder / ARRAYS, allow_pickle=False) as stored:
        arrays = {name: stored[f"a{i}"] for i, name in enumerate(facts["arrays"])}
    return Checkpoint(facts["step"], arrays, facts["facts"])


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
