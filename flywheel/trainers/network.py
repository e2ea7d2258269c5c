"""The module behind `TabularNetwork`, and its way to ONNX.

Missing numbers are a signal of their own: they enter as zero with a flag beside it. Standardisation
is part of the network, so the exported file takes raw values.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flywheel.training import TrainingData

if TYPE_CHECKING:
    import torch
    from torch import nn

    from flywheel.trainers.tabular import TabularNetwork


def tabular_network(recipe: TabularNetwork, train: TrainingData) -> nn.Module:
    """The untrained network: float32 [n, numbers] and int64 [n, categories] to logits [n, 1].

    Args:
        recipe: Widths, dropout and clipping.
        train: What mean, deviation and sizes of the embeddings are taken from.
    """
    import numpy as np
    import torch
    from torch import nn

    observed = np.where(np.isnan(train.numeric), 0.0, 1.0).sum(axis=0)
    filled = np.nan_to_num(train.numeric.astype(np.float64))
    mean = filled.sum(axis=0) / np.maximum(observed, 1)
    spread = np.where(np.isnan(train.numeric), 0.0, filled - mean)
    deviation = np.sqrt((spread**2).sum(axis=0) / np.maximum(observed, 1))
    deviation = np.where(deviation > 0, deviation, 1.0)

    class Network(nn.Module):
        """Standardise, flag what is missing, embed, and mix."""

        mean: torch.Tensor
        deviation: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
            self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32))
            self.embeddings = nn.ModuleList(
                nn.Embedding(size, min(16, 2 + size // 4)) for size in train.cardinalities
            )
            width = 2 * train.numeric.shape[1]
            width += sum(min(16, 2 + size // 4) for size in train.cardinalities)
            layers: list[nn.Module] = []
            for hidden in recipe.hidden:
                layers += [
                    nn.Linear(width, hidden),
                    nn.LayerNorm(hidden),
                    nn.SiLU(),
                    nn.Dropout(recipe.dropout),
                ]
                width = hidden
            self.mix = nn.Sequential(*layers, nn.Linear(width, 1))

        def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
            missing = torch.isnan(numeric)
            standard = (torch.where(missing, self.mean, numeric) - self.mean) / self.deviation
            standard = standard.clamp(-recipe.clip_value, recipe.clip_value)
            embedded = [e(categorical[:, i]) for i, e in enumerate(self.embeddings)]
            return self.mix(torch.cat([standard, missing.float(), *embedded], dim=1))

    return Network()


def logits(network: nn.Module, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
    """Logits [n] of a batch."""
    return network(numeric, categorical)[:, 0]


def with_sigmoid(network: nn.Module) -> nn.Module:
    """Logits are what the loss wants; what is served is a probability."""
    import torch
    from torch import nn

    class Probability(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.network(numeric, categorical))

    return Probability().eval()


def export(network: nn.Module, example: TrainingData) -> bytes:
    """One ONNX file with a free batch dimension; its bytes follow from the weights alone."""
    import torch

    # It warns that torchvision is not there; nothing here wants it.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    rows = example.rows(slice(0, 2))
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        network,
        (torch.from_numpy(rows.numeric), torch.from_numpy(rows.categorical)),
        dynamo=True,
        dynamic_shapes=({0: batch}, {0: batch}),
        input_names=["numeric", "categorical"],
        output_names=["probability"],
        external_data=False,
        verbose=False,
    )
    assert program is not None  # dynamo=True always returns the program
    model = program.model_proto
    # The exporter notes where each node's source line lies on this machine.
    graph = model.graph
    described = (graph, *graph.node, *graph.value_info, *graph.input, *graph.output)
    for part in (*described, *graph.initializer):
        del part.metadata_props[:]
    return model.SerializeToString(deterministic=True)
