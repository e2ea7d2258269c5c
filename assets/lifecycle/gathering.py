"""What the gates of a model ask for, gathered: nothing is measured that none of them needs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from assets.lifecycle import inputs
from assets.lifecycle.names import Lifecycle
from assets.lifecycle.parity import replay_parity
from assets.lifecycle.quality import data_quality
from assets.lifecycle.scored import CANDIDATE, CHAMPION, Scored
from flywheel.contest import Contest, ParityCount, Quantization
from flywheel.gates import Parity, Quantized, ValidData, trial_plan
from flywheel.parity import ParityReport
from resources.feature_store import FeatureStore
from resources.lakehouse import Lakehouse
from resources.trials import Trials

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Gathered:
    """The evidence, and the whole report of what a gate gets as a count."""

    contest: Contest
    parity: ParityReport | None


def gather(
    life: Lifecycle,
    as_of: date,
    bundle: Path,
    recent: Scored,
    held_out: pa.Table,
    lakehouse: Lakehouse,
    feature_store: FeatureStore,
    trials: Trials,
) -> Gathered:
    """The evidence that the gates of a model ask for.

    Args:
        life: The model.
        as_of: The candidate's morning.
        bundle: The candidate's bundle.
        recent: The newest held-out cases, scored.
        held_out: The same as rows with the inputs as columns.
        lakehouse: Has the data that was read.
        feature_store: Replays requests.
        trials: Has a Triton to try the bundle in.

    Raises:
        TrialError: There is no Triton, or it does not start.
        LookupError: A table is gone.
    """
    gates = life.spec.gates
    plan = trial_plan(gates)
    parity = _parity(life, as_of, lakehouse, feature_store)
    contest = Contest(
        recent.scores[CANDIDATE],
        recent.scores.get(CHAMPION),
        ParityCount(parity.requests, len(parity.differences)) if parity else None,
        recent.cases,
        trial=trials.run(bundle, plan) if plan else None,
        data=data_quality(life, as_of, lakehouse) if _asked(life, ValidData) else None,
        quantization=_quantization(bundle, held_out) if _asked(life, Quantized) else None,
    )
    return Gathered(contest, parity)


def _asked(life: Lifecycle, kind: type) -> bool:
    return any(isinstance(gate, kind) for gate in life.spec.gates)


def _parity(
    life: Lifecycle, as_of: date, lakehouse: Lakehouse, feature_store: FeatureStore
) -> ParityReport | None:
    """Replay requests of the last held-out day, if a gate asks for it."""
    asking = [gate for gate in life.spec.gates if isinstance(gate, Parity)]
    if not asking:
        return None
    limit = max(gate.requests for gate in asking)
    last = as_of - timedelta(days=1)
    return replay_parity(life, last, lakehouse, feature_store, limit=limit)


def _quantization(bundle: Path, held_out: pa.Table) -> Quantization:
    """The candidate beside the float original that travels with it."""
    from flywheel.quantization import FLOAT_FILE, compare_with_original
    from flywheel_serving.bundle import open_bundle

    opened = open_bundle(bundle)
    return compare_with_original(
        (bundle / FLOAT_FILE).read_bytes(),
        opened.model_path.read_bytes(),
        inputs.encode(opened.manifest, held_out),
    )
