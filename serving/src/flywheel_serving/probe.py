"""The probe of a bundle as inference calls: whole for its verdict, row by row for measurements."""

from __future__ import annotations

import math

from flywheel_serving.bundle import Probe
from flywheel_serving.inference import InferencePool, InferenceRequest


def probe_request(call: InferenceRequest, probe: Probe, start: int, stop: int) -> bytes:
    """The HTTP request with some of the probe's rows; null becomes NaN."""
    numeric = [math.nan if v is None else v for row in probe.numeric[start:stop] for v in row]
    categorical = [code for row in probe.categorical[start:stop] for code in row]
    return call.build(numeric, categorical, stop - start)


async def probe_gap(
    pool: InferencePool,
    call: InferenceRequest,
    probe: Probe,
    rows: int | None = None,
    limit: float | None = None,
) -> float:
    """Run a probe through Triton.

    Args:
        pool: Connections to Triton.
        call: Calls of the probe's model.
        probe: Rows with the output that training computed for them.
        rows: How many of its rows; None means all.
        limit: Seconds it may take.

    Returns:
        Largest absolute difference from the expected probability; NaN if one is not a number.

    Raises:
        TritonUnavailableError: If Triton is away.
        TritonInferenceError: If Triton answers with an error.
    """
    count = min(len(probe.probability) if rows is None else rows, len(probe.probability))
    actual = await pool.infer(probe_request(call, probe, 0, count), count, limit)
    gaps = [
        abs(value - row[0]) for value, row in zip(actual, probe.probability[:count], strict=True)
    ]
    return math.nan if any(map(math.isnan, gaps)) else max(gaps)
