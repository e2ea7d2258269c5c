"""Where trainings that are under way keep their state."""

from pathlib import Path

import dagster as dg

from flywheel.checkpoints import Checkpoints, prune


class CheckpointFolder(dg.ConfigurableResource):
    """A folder that outlives a killed run; in a cluster a volume that all runs mount.

    Attributes:
        folder: Holds a folder for each training under way.
    """

    folder: str

    def of(self, fingerprint: str) -> Checkpoints:
        """The checkpoints of the training with this fingerprint."""
        return Checkpoints(Path(self.folder) / fingerprint)

    def prune(self, fingerprint: str) -> None:
        """Remove the checkpoints of abandoned trainings, but not of the one that begins now."""
        prune(Path(self.folder), fingerprint)
