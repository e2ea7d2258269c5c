"""A real bundle of the flights model, feature rows and requests, from ten days of January.

A process without Dagster; it writes everything into the folder that it is given.
"""

from __future__ import annotations

import sys
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from bench import without_dagster

FIRST_DAY, DAY = date(2013, 1, 1), date(2013, 1, 11)
NOON, REQUESTS = timedelta(hours=12), 200

PROBE_ROWS = 16

BUNDLE, CASES = "bundle", "cases.parquet"


def main(folder: Path) -> None:
    """Train on the days before `DAY`; write bundle, rows known by noon, and cases after noon."""
    without_dagster.pretend()
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from bench import plain

    spec = plain.SPEC
    world = plain.read_world(FIRST_DAY, DAY + timedelta(days=1))
    rows = world.rows(world.labelled(FIRST_DAY, DAY, DAY), DAY)
    write_bundle(folder / BUNDLE, rows)
    noon: datetime = spec.calendar.midnight(DAY) + NOON
    for name, table in world.views.items():
        known = table.filter(pc.less_equal(table.column("event_timestamp"), noon))
        pq.write_table(known, folder / f"{name}.parquet")
    moment = spec.spine.event_timestamp
    after = world.departures.filter(pc.greater(world.departures.column(moment), noon))
    asked = after.sort_by([(moment, "ascending")]).slice(0, REQUESTS)
    pq.write_table(asked.select([f.name for f in spec.spine.request]), folder / CASES)


def write_bundle(directory: Path, rows: pa.Table) -> None:
    """Fit the network and seal it, as the model's asset does (less MLflow's files)."""
    import numpy as np

    from assets.lifecycle import inputs
    from bench import plain
    from flywheel.onnx_runtime import predict
    from flywheel_serving.bundle import Probe, seal, write_probe

    directory.mkdir()
    manifest = plain.manifest_of(rows)
    data = inputs.encode(manifest, rows)
    onnx = plain.fit(data, rows).onnx
    (directory / "model.onnx").write_bytes(onnx)
    source = inputs.transform_source(plain.SPEC)
    assert source is not None
    (directory / inputs.TRANSFORM_FILE).write_bytes(source)
    probe = data.rows(np.linspace(0, len(data) - 1, PROBE_ROWS).astype(np.int64))
    write_probe(
        directory,
        Probe(
            [[None if np.isnan(v) else float(v) for v in row] for row in probe.numeric],
            probe.categorical.tolist(),
            [[float(p)] for p in predict(onnx, probe)],
        ),
    )
    seal(directory, manifest)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
