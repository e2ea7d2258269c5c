"""A small neural network for tables: embeddings for the categories, a numeric head, an MLP."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flywheel.engine import Engine, LocalProcesses, ProcessGroup
from flywheel.trainers.export import hold_to
from flywheel.trainers.network import export, logits, tabular_network, with_sigmoid
from flywheel.trainers.progress import Progress
from flywheel.training import Report, TrainedModel, TrainingData, TrainingError, check

if TYPE_CHECKING:
    import torch
    from torch import nn

    from flywheel.checkpoints import Checkpoints

# Guessing costs ln 2 = 0.69 nats a case; a batch this bad is no bad luck.
EXPLODED = 20.0


@dataclass(frozen=True)
class TabularNetwork:
    """Parameters of the network and its fit.

    Attributes:
        hidden: Widths of the hidden layers.
        dropout: Share of hidden units dropped in training.
        learning_rate: Peak of the one-cycle schedule (Smith 2018).
        weight_decay: Of AdamW.
        batch_size: Rows per step, over all workers.
        epochs: At most this many passes.
        patience: Passes without a better validation loss before stopping.
        clip_norm: Greatest norm of the gradient.
        clip_value: Standardised numbers are clipped to this many standard deviations.
        workers: Processes that share each batch. The gradients are those of one process, up to
            rounding; what dropout drops is not.
        shard: Whether each worker keeps only its part of weights, gradients and moments (FSDP2),
            for networks that would not fit into memory twice. Rank 0 still puts the network
            together for the export, and its state for each checkpoint. Costs more CPU than copies.
        engine: Where the workers run; the model does not depend on it.
    """

    hidden: tuple[int, ...] = (256, 128)
    dropout: float = 0.4
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch_size: int = 512
    epochs: int = 6
    patience: int = 3
    clip_norm: float = 1.0
    clip_value: float = 5.0
    workers: int = 1
    shard: bool = False
    engine: Engine = field(default=LocalProcesses(), repr=False, compare=False)

    @property
    def version(self) -> str:
        """Recipe version."""
        return "tabular-1"

    @property
    def kind(self) -> str:
        """What fits it."""
        return "torch"

    def fit(
        self,
        train: TrainingData,
        validation: TrainingData,
        seed: int,
        checkpoints: Checkpoints | None = None,
        report: Report | None = None,
    ) -> TrainedModel:
        """Fit; keeps the weights of the epoch with the least validation log-loss.

        Raises:
            TrainingError: The loss is not finite or explodes, a worker died, the data cannot be
                learned from, checkpoints cannot be written from the start, or `report` was given to
                more than one worker.
            Pruned: `report` raised it; a step is an epoch.
        """
        figures = check(train, validation)
        smallest = min(len(train) // _steps(self, train), len(validation))
        if not 1 <= self.workers <= smallest:
            raise TrainingError(
                f"{self.workers} workers cannot share batches of {smallest} cases: set workers "
                f"between 1 and {smallest}"
            )
        if report is not None and self.workers > 1:
            # It is a function of this process: the workers could neither call it nor agree to stop.
            raise TrainingError(
                f"a fit by {self.workers} workers cannot be watched: set workers to 1, or prune no "
                "trials of the sweep (pruner='none')"
            )
        if self.shard and self.workers == 1:
            raise TrainingError(
                "shard=True spreads the network over its workers, and there is one: set workers "
                "to 2 or more, or leave shard out"
            )
        if checkpoints is not None:
            checkpoints.begin()
        trained = self.engine.run(
            _fit, self.workers, self, train, validation, seed, checkpoints, report, figures
        )
        assert trained is not None  # rank 0 always has it
        return trained


def _fit(
    group: ProcessGroup,
    recipe: TabularNetwork,
    train: TrainingData,
    validation: TrainingData,
    seed: int,
    checkpoints: Checkpoints | None,
    report: Report | None,
    figures: dict[str, float],
) -> TrainedModel | None:
    """What each worker does; rank 0 gives the model back."""
    import torch

    torch.set_num_threads(1)
    progress, replica = _begin(group, recipe, train, validation, seed)
    if checkpoints is not None:
        progress.resume(checkpoints, group)
    while progress.epoch < recipe.epochs and progress.since_best < max(1, recipe.patience):
        train_loss = _epoch(group, recipe, replica, progress, train)
        validation_loss = _loss(group, progress.network, validation)
        _check_loss(validation_loss, recipe, progress.epoch)
        progress.finish_epoch(train_loss, validation_loss)
        if checkpoints is not None:
            progress.save(checkpoints, group)
        if report is not None:
            report(progress.epoch, validation_loss)
    best = {name: group.whole(tensor) for name, tensor in progress.best_state.items()}
    if group.rank:
        return None
    network = tabular_network(recipe, train)
    network.load_state_dict(best)
    network = with_sigmoid(network.eval())
    onnx = export(network, validation)
    with torch.no_grad():
        answers = network(
            torch.from_numpy(validation.numeric), torch.from_numpy(validation.categorical)
        )
    hold_to(answers.numpy()[:, 0], onnx, validation)
    figures = {
        "best_validation_loss": progress.best,
        "epochs": progress.epoch,
        "missed_checkpoints": progress.missed,
        **figures,
    }
    return TrainedModel(onnx, progress.curves, figures)


def _begin(
    group: ProcessGroup,
    recipe: TabularNetwork,
    train: TrainingData,
    validation: TrainingData,
    seed: int,
) -> tuple[Progress, nn.Module]:
    """The state before the first epoch, the same on every rank but for what dropout drops.

    Returns:
        The state, and its network as it is trained on this rank.
    """
    import numpy as np
    import torch

    torch.manual_seed(seed)
    network = tabular_network(recipe, train)
    replica = group.shard(network) if recipe.shard else group.replicate(network)
    if group.rank:
        torch.manual_seed(seed + group.rank)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=recipe.epochs * _steps(recipe, train),
        pct_start=0.2,
    )
    identity = _identity(recipe, train, validation, seed)
    order = np.random.default_rng(seed)
    return Progress(identity, network, optimizer, schedule, order), replica


def _epoch(
    group: ProcessGroup,
    recipe: TabularNetwork,
    replica: nn.Module,
    progress: Progress,
    train: TrainingData,
) -> float:
    """Go through the cases once; the mean loss of the batches."""
    import numpy as np
    import torch

    tensors = [torch.from_numpy(a) for a in (train.numeric, train.categorical, train.label)]
    replica.train()
    losses = []
    for batch in np.array_split(progress.order.permutation(len(train)), _steps(recipe, train)):
        mine = torch.from_numpy(batch[group.rank :: group.size])
        loss = _mean_loss(replica, *(t[mine] for t in tensors))
        # The average over the ranks is then the mean over the batch, however it is split.
        loss = loss * (len(mine) * group.size / len(batch))
        losses.append(group.mean(loss.item()))
        _check_loss(losses[-1], recipe, progress.epoch)
        progress.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(progress.network.parameters(), recipe.clip_norm)
        progress.optimizer.step()
        progress.schedule.step()
    return float(np.mean(losses))


def _loss(group: ProcessGroup, network: nn.Module, data: TrainingData) -> float:
    """Mean log-loss over all cases; each rank looks at its share."""
    import torch

    network.eval()
    share = data.rows(slice(group.rank, None, group.size))
    with torch.no_grad():
        mean = _mean_loss(
            network,
            torch.from_numpy(share.numeric),
            torch.from_numpy(share.categorical),
            torch.from_numpy(share.label),
        ).item()
    return group.mean(mean * (len(share) * group.size / len(data)))


def _mean_loss(
    network: nn.Module, numeric: torch.Tensor, categorical: torch.Tensor, label: torch.Tensor
) -> torch.Tensor:
    import torch

    return torch.nn.functional.binary_cross_entropy_with_logits(
        logits(network, numeric, categorical), label
    )


def _check_loss(loss: float, recipe: TabularNetwork, epoch: int) -> None:
    """Stop a fit that has diverged; every rank sees the same loss, so all of them stop.

    Raises:
        TrainingError: The loss is not finite, or absurd.
    """
    if not math.isfinite(loss) or loss > EXPLODED:
        raise TrainingError(
            f"the loss became {loss:.4g} in epoch {epoch + 1}: lower the learning rate (now "
            f"{recipe.learning_rate}) or look for extreme values in the inputs"
        )


def _steps(recipe: TabularNetwork, train: TrainingData) -> int:
    """Batches an epoch."""
    return max(1, -(-len(train) // recipe.batch_size))


def _identity(
    recipe: TabularNetwork, train: TrainingData, validation: TrainingData, seed: int
) -> str:
    """What a fit's every bit follows from: recipe, seed, library and data."""
    import torch

    digest = hashlib.sha256(repr((recipe, recipe.version, seed, torch.__version__)).encode())
    for data in (train, validation):
        digest.update(repr((data.numbers, data.categories, data.cardinalities)).encode())
        for array in (data.numeric, data.categorical, data.label):
            digest.update(array.tobytes())
    return digest.hexdigest()
