"""The network as one script in plain PyTorch would have it: no checks, no checkpoints, no ranks."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from flywheel.trainers.tabular import TabularNetwork
from flywheel.training import TrainingData


class Network(nn.Module):
    """Embeddings, standardised numbers with a flag where they are missing, two hidden layers."""

    def __init__(self, train: TrainingData, recipe: TabularNetwork) -> None:
        super().__init__()
        numeric = train.numeric.astype(np.float64)
        spread = np.nanstd(numeric, axis=0)
        self.register_buffer("mean", torch.tensor(np.nanmean(numeric, axis=0)).float())
        self.register_buffer("deviation", torch.tensor(np.where(spread > 0, spread, 1)).float())
        sizes = [min(16, 2 + size // 4) for size in train.cardinalities]
        self.embeddings = nn.ModuleList(map(nn.Embedding, train.cardinalities, sizes))
        width = 2 * numeric.shape[1] + sum(sizes)
        layers: list[nn.Module] = []
        for hidden in recipe.hidden:
            layers += [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.SiLU()]
            layers += [nn.Dropout(recipe.dropout)]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        """Logits, float32 [n, 1]."""
        missing = torch.isnan(numeric)
        filled = torch.where(missing, self.mean, numeric)
        standard = ((filled - self.mean) / self.deviation).clamp(-5, 5)
        embedded = [of(categorical[:, i]) for i, of in enumerate(self.embeddings)]
        return self.layers(torch.cat([standard, missing.float(), *embedded], dim=1))


def fit(train: TrainingData, validation: TrainingData, seed: int, recipe: TabularNetwork) -> float:
    """Train, export to ONNX; the least validation loss."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    order = np.random.default_rng(seed)
    network = Network(train, recipe)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = -(-len(train) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.epochs * steps, pct_start=0.2
    )
    numeric, categorical, label = _tensors(train)
    held_out = _tensors(validation)
    loss_of = nn.functional.binary_cross_entropy_with_logits
    best, best_state, since_best = np.inf, network.state_dict(), 0
    for _ in range(recipe.epochs):
        network.train()
        for chosen in np.array_split(order.permutation(len(train)), steps):
            at = torch.from_numpy(chosen)
            loss = loss_of(network(numeric[at], categorical[at])[:, 0], label[at])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            score = loss_of(network(*held_out[:2])[:, 0], held_out[2]).item()
        since_best += 1
        if score < best:
            best, best_state, since_best = score, copy.deepcopy(network.state_dict()), 0
        if since_best >= recipe.patience:
            break
    network.load_state_dict(best_state)
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        network.eval(),
        tuple(tensor[:2] for tensor in held_out[:2]),
        dynamo=True,
        dynamic_shapes=({0: batch}, {0: batch}),
        verbose=False,
    )
    return best


def _tensors(data: TrainingData) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in (data.numeric, data.categorical, data.label)]
