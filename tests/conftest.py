"""What every room's tests share: a home in a temporary folder, and a lakehouse of their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from resources.lakehouse import Lakehouse

_HOME = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep `import definitions` away from the state of a wheel that may be turning here."""
    config.stash[_HOME] = Path(tempfile.mkdtemp(prefix="flywheel-tests-"))
    os.environ["FLYWHEEL_HOME"] = str(config.stash[_HOME])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    shutil.rmtree(config.stash[_HOME], ignore_errors=True)


def lakehouse_in(folder: Path) -> Lakehouse:
    """A lakehouse whose catalog and warehouse lie in a folder."""
    return Lakehouse(
        catalog_uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}/warehouse"
    )


@pytest.fixture
def lakehouse(tmp_path: Path) -> Lakehouse:
    """An empty lakehouse."""
    return lakehouse_in(tmp_path)
