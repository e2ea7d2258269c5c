"""Where studies are kept: journal files here, or a database that several workers share."""

from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg

from flywheel.study_place import StudyPlace

PORTS = {"postgresql": 5432, "mysql": 3306}


class Sweeps(dg.ConfigurableResource):
    """Studies by name.

    Attributes:
        folder: Holds a folder with a journal for each study; it outlives a killed run.
        url: SQLAlchemy address of a database instead.
        tracking_uri: MLflow's, which the database may not be.
    """

    folder: str
    url: str = ""
    tracking_uri: str = ""

    def of(self, name: str) -> StudyPlace:
        """The place of the study with this name.

        Raises:
            ValueError: The database is MLflow's.
        """
        if self.url and _database(self.url) == _database(self.tracking_uri):
            raise ValueError(
                "FLYWHEEL_SWEEP_STORAGE names the database of MLflow: both keep the version of "
                "their tables in the same place, and one would make the other unusable. Give the "
                "sweeps a database of their own"
            )
        return StudyPlace(name, Path(self.folder) / name, self.url)


def _database(url: str) -> tuple[str, str, int | None, str]:
    """What an address points at, whatever driver, user and options it names."""
    parts = urlsplit(url)
    kind = parts.scheme.partition("+")[0]
    return kind, (parts.hostname or "").lower(), parts.port or PORTS.get(kind), parts.path
