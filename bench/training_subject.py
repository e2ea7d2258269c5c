"""One fit of one subject: `python -m bench.training_subject SUBJECT FILE`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import lightgbm
import onnxruntime
import torch.distributed
import torch.onnx._internal.exporter._core  # what the first export would load

from bench import training_plain
from bench.measure import Stopwatch, cost_of, report
from bench.training import KEPT, PLAIN, TREES
from bench.training_data import read
from flywheel.checkpoints import Checkpoints
from flywheel.trainers import tabular, trees
from flywheel.trainers.tabular import TabularNetwork
from flywheel.trainers.trees import GradientBoosting

SEED = 20130101
LOADED = (lightgbm, onnxruntime, torch)
# The check that the export answers as the fitted model does belongs to it.
EXPORTS = (
    (torch.onnx, "export"), (tabular, "export"), (tabular, "hold_to"),
    (trees, "trees_to_onnx"), (trees, "hold_to"),
)  # fmt: skip


def main() -> None:
    """Fit; report CPU seconds of learning and of the export, and the validation loss."""
    subject, file = sys.argv[1:]
    train, validation = read(file)
    network = TabularNetwork()
    # The first export of a process compiles and registers for seconds; both sides would pay it.
    small = train.rows(slice(0, 600)), validation.rows(slice(0, 600))
    if subject != TREES:
        training_plain.fit(*small, SEED, network)
    watch = Stopwatch()
    for owner, attribute in EXPORTS:
        watch.watch(owner, attribute, "export")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder)) if subject == KEPT else None
        if subject == PLAIN:
            loss, cost = cost_of(lambda: training_plain.fit(train, validation, SEED, network))
        else:
            trainer = GradientBoosting() if subject == TREES else network
            fitted, cost = cost_of(lambda: trainer.fit(train, validation, SEED, checkpoints))
            loss = fitted.metrics["best_validation_loss"]
    export = watch.parts()["export"]
    report({"learning": cost.cpu - export, "export": export, "loss": loss})


if __name__ == "__main__":
    main()
