"""How far the fit of a network has come: all that its next epoch depends on, and nothing else."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flywheel.checkpoints import Checkpoint, CheckpointError, Checkpoints
from flywheel.engine import ProcessGroup

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """The changing state of a fit.

    Attributes:
        identity: Of recipe, seed and data; a checkpoint of another identity is not gone on from.
        network: Its weights as of now.
        optimizer: With its moments.
        schedule: Of the learning rate.
        order: Source of the batches' order.
        epoch: Epochs done.
        best: Least validation loss so far.
        best_state: Weights that reached it.
        since_best: Epochs since then.
        curves: Values per epoch by name.
        missed: Epochs after which no checkpoint could be written.
    """

    identity: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    order: np.random.Generator
    epoch: int = 0
    best: float = float("inf")
    best_state: dict[str, torch.Tensor] = field(default_factory=dict)
    since_best: int = 0
    curves: dict[str, list[float]] = field(
        default_factory=lambda: {"train_loss": [], "validation_loss": []}
    )
    missed: int = 0

    def finish_epoch(self, train_loss: float, validation_loss: float) -> None:
        """Take note of how an epoch went."""
        self.epoch += 1
        self.curves["train_loss"].append(train_loss)
        self.curves["validation_loss"].append(validation_loss)
        if validation_loss < self.best:
            self.best, self.since_best = validation_loss, 0
            self.best_state = {k: v.clone() for k, v in self.network.state_dict().items()}
        else:
            self.since_best += 1

    def save(self, checkpoints: Checkpoints, group: ProcessGroup) -> None:
        """Write a checkpoint (rank 0 does, with what it needs to know of the others).

        One that cannot be written is an error in the log and counts as missed, but the fit goes on:
        it may well end before the next kill, while stopping it loses what it has for certain.
        Sharded or not, it holds whole tensors; on the other ranks each goes as the next one comes.
        """
        import torch

        random = group.gather(torch.get_rng_state())
        moments = self.optimizer.state_dict()
        states = {
            **{f"network/{k}": v for k, v in self.network.state_dict().items()},
            **{f"best/{k}": v for k, v in self.best_state.items()},
            **{f"moments/{i}/{k}": v for i, of in moments["state"].items() for k, v in of.items()},
        }
        tensors = {"random": torch.stack(random)}
        for name, tensor in states.items():
            whole = group.whole(tensor)
            if not group.rank:
                tensors[name] = whole
        if group.rank:
            return
        facts = {
            "identity": self.identity,
            "groups": moments["param_groups"],
            "schedule": self.schedule.state_dict(),
            "order": self.order.bit_generator.state,
            "best": self.best,
            "since_best": self.since_best,
            "curves": self.curves,
            "missed": self.missed,
        }
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        try:
            checkpoints.save(Checkpoint(self.epoch, arrays, facts))
        except CheckpointError as error:
            self.missed += 1
            log.error("%s. The training goes on and tries again after its next epoch", error)  # noqa: TRY400 - the sentence says it all

    def resume(self, checkpoints: Checkpoints, group: ProcessGroup) -> None:
        """Go on from the newest checkpoint, if there is one of this fit."""
        import torch

        found = checkpoints.latest()
        if found is None:
            return
        facts = found.facts
        if facts["identity"] != self.identity:
            log.warning(
                "the checkpoints in %s belong to another recipe or other data: starting anew",
                checkpoints.folder,
            )
            checkpoints.clear()
            return
        tensors = {name: torch.from_numpy(array) for name, array in found.arrays.items()}
        weights = self.network.state_dict()
        self.best_state, now = (
            {k: group.part(v, weights[k]) for k, v in _under(prefix, tensors).items()}
            for prefix in ("best/", "network/")
        )
        self.network.load_state_dict(now)
        parameters = list(self.network.parameters())
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _under("moments/", tensors).items():
            parameter, moment = name.split("/")
            like = parameters[int(parameter)]
            of = moments.setdefault(int(parameter), {})
            # The count of steps is one number, whole on every rank.
            of[moment] = group.part(tensor, like) if tensor.ndim else tensor
        self.optimizer.load_state_dict({"state": moments, "param_groups": facts["groups"]})
        self.schedule.load_state_dict(facts["schedule"])
        self.order.bit_generator.state = facts["order"]
        # Handed a row of a larger tensor it crashes (torch 2.13): give it a tensor of its own.
        torch.set_rng_state(tensors["random"][group.rank].clone())
        self.epoch, self.curves, self.missed = found.step, facts["curves"], facts["missed"]
        self.best, self.since_best = facts["best"], facts["since_best"]
        log.info("going on after epoch %d, from %s", self.epoch, checkpoints.folder)


def _under(prefix: str, named: dict[str, Any]) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}
