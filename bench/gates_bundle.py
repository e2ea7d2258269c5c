"""A candidate of the flights model with all that its gates want to see, from early 2013.

A process without Dagster; it writes everything into the folder that it is given.
"""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

from bench import without_dagster
from bench.gateway_bundle import BUNDLE, write_bundle
from bench.measure import report

FIRST_DAY, AS_OF = date(2013, 1, 1), date(2013, 2, 9)
CHAMPION, HELD_OUT, DEPARTURES = "champion.onnx", "held-out.parquet", "departures.parquet"


def main(folder: Path) -> None:
    """Fit an int8 network and a champion; write bundle, held-out cases and tables."""
    without_dagster.pretend()
    import pyarrow.parquet as pq

    from assets.lifecycle import inputs
    from bench import plain
    from flywheel.quantization import quantized
    from flywheel.trainers.linear import LogisticRegression

    world = plain.read_world(FIRST_DAY, AS_OF)
    rows = world.rows(world.labelled(FIRST_DAY, AS_OF, AS_OF), AS_OF)
    train, held_out = (plain.split_rows(rows, split) for split in ("train", "holdout"))
    manifest = plain.manifest_of(train)
    data = inputs.encode(manifest, train)
    validation = plain.validated_by(train)
    champion = LogisticRegression().fit(data.rows(~validation), data.rows(validation), 1)
    (folder / CHAMPION).write_bytes(champion.onnx)
    write_bundle(folder / BUNDLE, manifest, quantized(plain.fit(data, train)), data)
    pq.write_table(held_out, folder / HELD_OUT)
    pq.write_table(world.departures, folder / DEPARTURES)
    for name, table in world.views.items():
        pq.write_table(table, folder / f"{name}.parquet")
    report({"train": train.num_rows, "held out": held_out.num_rows})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
