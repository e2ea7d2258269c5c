"""Two workers that share each batch do what one does alone; what goes wrong in one is told."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flywheel.checkpoints import Checkpoint, Checkpoints
from flywheel.engine import LocalProcesses, ProcessGroup
from flywheel.onnx_runtime import predict
from flywheel.trainers.tabular import TabularNetwork
from flywheel.training import TrainedModel, TrainingError
from tests.flywheel.training_cases import TRAIN, VALIDATION

ALONE = TabularNetwork(hidden=(16, 8), epochs=8, batch_size=64, dropout=0.0, learning_rate=1e-2)
PAIR = replace(ALONE, workers=2)
CLIP = 0.01


def gradients(group: ProcessGroup, rows: int, wrap: str) -> dict[str, np.ndarray[Any, Any]]:
    """Gradients of a batch, each rank with its share, before any step is taken."""
    import torch

    from flywheel.trainers.network import logits, tabular_network

    torch.manual_seed(7 + group.rank)  # the weights are rank 0's all the same
    network = tabular_network(ALONE, TRAIN)
    replica = getattr(group, wrap)(network)
    mine = np.arange(rows)[group.rank :: group.size]
    batch = TRAIN.rows(mine)
    numeric, categorical, label = map(
        torch.from_numpy, (batch.numeric, batch.categorical, batch.label)
    )
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        logits(replica, numeric, categorical), label
    )
    (loss * (len(mine) * group.size / rows)).backward()
    found = {f"raw {k}": group.whole(v.grad).numpy().copy() for k, v in network.named_parameters()}
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
    found |= {k: group.whole(v.grad).numpy().copy() for k, v in network.named_parameters()}
    return {**found, "norm": group.whole(norm).numpy()}


WAYS = [(rows, wrap) for rows in (64, 63) for wrap in ("replicate", "shard")]


def all_gradients(group: ProcessGroup) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Of an even and an uneven batch, by whole copies and by parts."""
    return [gradients(group, rows, wrap) for rows, wrap in WAYS]


def test_the_gradients_of_two_are_those_of_one_and_so_is_their_norm() -> None:
    engine = LocalProcesses()
    for way, alone, pair in zip(
        WAYS, engine.run(all_gradients, 1), engine.run(all_gradients, 2), strict=True
    ):
        assert alone["norm"] > 2 * CLIP
        assert alone.keys() == pair.keys()
        assert len(alone) == 2 * 12 + 1
        for name, gradient in alone.items():
            np.testing.assert_allclose(
                pair[name], gradient, rtol=0, atol=1e-7, err_msg=f"{name} {way}"
            )


class Doomed(Checkpoints):
    """Kills the process that writes a certain checkpoint, after it is written."""

    def save(self, checkpoint: Checkpoint) -> None:
        super().save(checkpoint)
        if checkpoint.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, Checkpoint]:
    """What one worker makes of the cases, and its last checkpoint."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("alone"))
    trained = ALONE.fit(TRAIN, VALIDATION, 7, checkpoints)
    return trained, whole(checkpoints)


def whole(checkpoints: Checkpoints) -> Checkpoint:
    found = checkpoints.latest()
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True], ids=["copies", "parts"])
def test_two_end_where_one_does_and_go_on_after_a_kill(
    shard: bool, tmp_path: Path, alone: tuple[TrainedModel, Checkpoint]
) -> None:
    trained, checkpoint = alone
    recipe = replace(PAIR, shard=shard)
    pair = recipe.fit(TRAIN, VALIDATION, 7)
    np.testing.assert_allclose(
        pair.curves["validation_loss"], trained.curves["validation_loss"], atol=1e-4
    )
    np.testing.assert_allclose(
        predict(pair.onnx, VALIDATION), predict(trained.onnx, VALIDATION), atol=1e-3
    )
    # What dropout drops on each rank is part of the state, so it is on where there is a kill.
    dropping = replace(recipe, dropout=0.4)
    undisturbed = dropping.fit(TRAIN, VALIDATION, 7)
    with pytest.raises(TrainingError, match=r"rank \d of the training died(.|\n)*last checkpoint"):
        dropping.fit(TRAIN, VALIDATION, 7, Doomed(tmp_path))
    found = whole(Checkpoints(tmp_path))
    assert found.step == 3
    assert shapes(found) == shapes(checkpoint)
    resumed = dropping.fit(TRAIN, VALIDATION, 7, Checkpoints(tmp_path))
    assert resumed == undisturbed


def shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays; of the state of the random numbers there is a row for each rank."""
    return {k: v.shape[1:] if k == "random" else v.shape for k, v in checkpoint.arrays.items()}


def test_what_a_worker_finds_wrong_is_what_is_told() -> None:
    diverging = replace(PAIR, learning_rate=1e38, weight_decay=1e3)
    with pytest.raises(TrainingError, match=r"the loss became .* in epoch \d: lower the learning"):
        diverging.fit(TRAIN, VALIDATION, 7)


def test_one_worker_has_nothing_to_spread() -> None:
    with pytest.raises(TrainingError, match="there is one: set workers to 2 or more"):
        replace(ALONE, shard=True).fit(TRAIN, VALIDATION, 7)


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
