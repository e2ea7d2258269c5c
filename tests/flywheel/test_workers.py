"""Two workers that share each batch do what one does alone; what goes wrong in one is told."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flywheel.checkpoints import Checkpoint, CheckpointError, Checkpoints
from flywheel.engine import LocalProcesses, ProcessGroup
from flywheel.onnx_runtime import predict
from flywheel.trainers.tabular import TabularNetwork
from flywheel.training import TrainingError
from tests.flywheel.training_cases import TRAIN, VALIDATION

ALONE = TabularNetwork(hidden=(16, 8), epochs=8, batch_size=64, dropout=0.0, learning_rate=1e-2)
PAIR = replace(ALONE, workers=2)


def gradients(group: ProcessGroup, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """Gradients of a batch, each rank with its share, before any step is taken."""
    import torch

    from flywheel.trainers.network import logits, tabular_network

    torch.manual_seed(7)
    network = tabular_network(ALONE, TRAIN)
    replica = group.replicate(network)
    mine = np.arange(rows)[group.rank :: group.size]
    batch = TRAIN.rows(mine)
    numeric, categorical, label = map(
        torch.from_numpy, (batch.numeric, batch.categorical, batch.label)
    )
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        logits(replica, numeric, categorical), label
    )
    (loss * (len(mine) * group.size / rows)).backward()
    return {k: v.grad.numpy().copy() for k, v in network.named_parameters() if v.grad is not None}


@pytest.mark.parametrize("rows", [64, 63], ids=["even", "uneven"])
def test_the_gradients_of_two_are_those_of_one(rows: int) -> None:
    alone = LocalProcesses().run(gradients, 1, rows)
    pair = LocalProcesses().run(gradients, 2, rows)
    assert alone.keys() == pair.keys()
    assert max(np.abs(g).max() for g in alone.values()) > 0.01
    for name, gradient in alone.items():
        np.testing.assert_allclose(pair[name], gradient, rtol=0, atol=1e-7, err_msg=name)


class Doomed(Checkpoints):
    """Kills the process that writes a certain checkpoint, after it is written."""

    def save(self, checkpoint: Checkpoint) -> None:
        super().save(checkpoint)
        if checkpoint.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def test_two_end_where_one_does_and_go_on_after_a_kill(tmp_path: Path) -> None:
    alone = ALONE.fit(TRAIN, VALIDATION, 7)
    pair = PAIR.fit(TRAIN, VALIDATION, 7)
    np.testing.assert_allclose(
        pair.curves["validation_loss"], alone.curves["validation_loss"], atol=1e-4
    )
    np.testing.assert_allclose(
        predict(pair.onnx, VALIDATION), predict(alone.onnx, VALIDATION), atol=1e-3
    )
    with pytest.raises(TrainingError, match=r"rank \d of the training died(.|\n)*last checkpoint"):
        PAIR.fit(TRAIN, VALIDATION, 7, Doomed(tmp_path))
    assert Checkpoints(tmp_path).latest() is not None
    resumed = PAIR.fit(TRAIN, VALIDATION, 7, Checkpoints(tmp_path))
    assert resumed.onnx == pair.onnx
    assert resumed.curves == pair.curves


def test_what_a_worker_finds_wrong_is_what_is_told(tmp_path: Path) -> None:
    diverging = replace(PAIR, learning_rate=1e38, weight_decay=1e3)
    with pytest.raises(TrainingError, match=r"the loss became .* in epoch \d: lower the learning"):
        diverging.fit(TRAIN, VALIDATION, 7)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write checkpoint 1"):
        PAIR.fit(TRAIN, VALIDATION, 7, Checkpoints(tmp_path / "file"))


def test_more_workers_than_cases_in_a_batch_are_refused() -> None:
    with pytest.raises(TrainingError, match="set workers between 1 and 3"):
        replace(PAIR, batch_size=4, workers=4).fit(TRAIN.rows(slice(0, 7)), VALIDATION, 7)
    with pytest.raises(TrainingError, match="set workers between 1 and"):
        replace(ALONE, workers=0).fit(TRAIN, VALIDATION, 7)


def test_where_it_runs_is_no_part_of_the_recipe() -> None:
    class Elsewhere(LocalProcesses):
        """Another engine."""

    moved = replace(ALONE, engine=Elsewhere())
    assert moved == ALONE
    assert repr(moved) == repr(ALONE)
