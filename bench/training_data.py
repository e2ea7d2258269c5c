"""The cases of January and February as arrays in a file; a process without Dagster."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import date
from pathlib import Path

import numpy as np

from bench import without_dagster
from bench.measure import report
from flywheel.training import TrainingData

JANUARY, MARCH = date(2013, 1, 1), date(2013, 3, 1)
PARTS = ("train", "validation")


def main() -> None:
    """Compute, encode, split and save; report how many there are."""
    without_dagster.pretend()
    from bench import plain

    world = plain.read_world(JANUARY, MARCH)
    rows = world.rows(world.labelled(JANUARY, MARCH, MARCH), MARCH)
    data = plain.inputs.encode(plain.manifest_of(rows), rows)
    validation = plain.validated_by(rows)
    split = dict(zip(PARTS, (data.rows(~validation), data.rows(validation)), strict=True))
    arrays = {f"{part}/{k}": v for part, of in split.items() for k, v in asdict(of).items()}
    with Path(sys.argv[1]).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    report(" and ".join(f"{len(of):,}" for of in split.values()))


def read(file: str) -> tuple[TrainingData, TrainingData]:
    """The cases to learn from and those to validate by."""
    with np.load(file) as stored:
        train, validation = (
            TrainingData(
                *(stored[f"{part}/{name}"] for name in ("numeric", "categorical", "label")),
                *(
                    tuple(stored[f"{part}/{name}"].tolist())
                    for name in ("numbers", "categories", "cardinalities")
                ),
            )
            for part in PARTS
        )
    return train, validation


if __name__ == "__main__":
    main()
