"""Where a training function runs: here, on several processes of this machine, or elsewhere.

An engine starts the ranks and hands back what rank 0 returned; the function itself is the same for
one rank and for many. Ray and Kubernetes would be engines too.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from flywheel.training import TrainingError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import torch
    from torch import nn

T = TypeVar("T")

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that train together; every method is a collective call.

    With one rank all of them hand back what they were given.

    Attributes:
        rank: From 0.
        size: Number of ranks.
    """

    rank: int = 0
    size: int = 1

    def replicate(self, network: nn.Module) -> nn.Module:
        """The network with rank 0's weights, whose gradients are averaged over the ranks."""
        if self.size == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        # Its buffers never change, so sending them with every batch would be for nothing.
        return DistributedDataParallel(network, broadcast_buffers=False)

    def shard(self, network: nn.Module) -> nn.Module:
        """The network with rank 0's weights, of which each rank keeps its part (FSDP2).

        A layer is whole only while it is at work. Gradients are averaged over the ranks, and each
        keeps its part of them; so does the optimizer, if it is made from what this returns.
        """
        if self.size == 1:
            return network
        from torch import distributed, nn
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        for tensor in (*network.parameters(), *network.buffers()):
            distributed.broadcast(tensor.data, src=0)
        mesh = init_device_mesh("cpu", (self.size,))
        for layer in network.modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                fully_shard(layer, mesh=mesh)
        # What is small, as norms are, travels together. The root would stay whole after a forward.
        fully_shard(network, mesh=mesh, reshard_after_forward=True)
        return network

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of which each rank has its part (see `shard`), put together on every rank."""
        if self.size == 1:
            return tensor
        from torch.distributed.tensor import DTensor

        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def part(self, tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """This rank's part of a tensor that every rank has whole, cut as another one is."""
        if self.size == 1:
            return tensor
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(like, DTensor):
            return tensor
        return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)

    def mean(self, value: float) -> float:
        """The average of a value over the ranks, the same on each."""
        if self.size == 1:
            return value
        import torch
        from torch import distributed

        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.item() / self.size

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all ranks, which have the same shape."""
        if self.size == 1:
            return [tensor]
        import torch
        from torch import distributed

        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(tensors, tensor)
        return tensors


class Engine(Protocol):
    """Runs a function on ranks that form one `ProcessGroup`.

    Function and arguments must be picklable, and paths among them must mean the same everywhere.
    """

    def run(self, function: Callable[..., T], ranks: int, *arguments: Any) -> T:
        """Call `function(group, *arguments)` on every rank; what rank 0 returned.

        Raises:
            TrainingError: What a rank raised, or that one died.
        """
        ...


@dataclass(frozen=True)
class LocalProcesses:
    """One rank runs in this process; more are processes of this machine that talk over loopback."""

    def run(self, function: Callable[..., T], ranks: int, *arguments: Any) -> T:
        """See `Engine.run`."""
        if ranks == 1:
            return function(ProcessGroup(), *arguments)
        from torch.multiprocessing.spawn import start_processes

        receive, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
        with tempfile.TemporaryDirectory(prefix="flywheel-ranks-") as folder:
            meeting = f"file://{folder}/rendezvous"
            started = start_processes(
                _rank, (function, arguments, ranks, meeting, send), ranks, join=False
            )
            assert started is not None  # join=False always returns the context
            try:
                outcome = _outcome(started, receive)
            finally:
                for process in started.processes:
                    assert process is not None  # the list has room for ranks to come
                    process.kill()
                    process.join()
        if isinstance(outcome, TrainingError):
            raise outcome
        return outcome


def _outcome(started: Any, receive: Any) -> Any:
    """What the first rank to speak has sent, once all have ended."""
    from torch.multiprocessing.spawn import ProcessException

    sent: list[Any] = []
    try:
        while not started.join(timeout=POLL_SECONDS):
            while receive.poll():
                sent.append(receive.recv())
    except ProcessException as error:
        # A rank that gives up takes the others down with it: its own reason is the one to tell.
        while receive.poll():
            sent.append(receive.recv())
        if not sent:
            raise TrainingError(
                f"rank {error.error_index} of the training died: {str(error).strip()}\nStart the "
                "training again: it goes on from its last checkpoint. If the rank was killed, look "
                "whether memory ran out; fewer workers need less"
            ) from error
    while receive.poll():
        sent.append(receive.recv())
    return sent[0]


def _rank(
    rank: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    ranks: int,
    meeting: str,
    send: Connection,
) -> None:
    """One process of the group."""
    from torch import distributed

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    try:
        result = function(ProcessGroup(rank, ranks), *arguments)
        if rank == 0:
            send.send(result)
    except TrainingError as error:
        send.send(error)
    finally:
        distributed.destroy_process_group()
