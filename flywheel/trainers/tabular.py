"""A small neural network for tables: embeddings for the categories, a numeric head, an MLP.

Missing numbers are a signal of their own: they enter as zero with a flag beside it. Standardisation
is part of the network, so the exported file takes raw values.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flywheel.training import TrainedModel, TrainingData, TrainingError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class TabularNetwork:
    """Parameters of the network and its fit.

    Attributes:
        hidden: Widths of the hidden layers.
        dropout: Share of hidden units dropped in training.
        learning_rate: Peak of the one-cycle schedule (Smith 2018).
        weight_decay: Of AdamW.
        batch_size: Rows per step.
        epochs: At most this many passes.
        patience: Passes without a better validation loss before stopping.
        clip_norm: Greatest norm of the gradient.
        clip_value: Standardised numbers are clipped to this many standard deviations.
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

    @property
    def version(self) -> str:
        """Recipe version."""
        return "tabular-1"

    def fit(self, train: TrainingData, validation: TrainingData, seed: int) -> TrainedModel:
        """Fit; keeps the weights of the epoch with the least validation log-loss.

        Raises:
            TrainingError: The loss is not finite, or the data cannot be learned from.
        """
        import numpy as np
        import torch

        train.check()
        validation.check()
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        order = np.random.default_rng(seed)
        network = self._network(train)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        steps = max(1, -(-len(train) // self.batch_size))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self.epochs * steps, pct_start=0.2
        )
        tensors = [torch.from_numpy(a) for a in (train.numeric, train.categorical, train.label)]
        curves: dict[str, list[float]] = {"train_loss": [], "validation_loss": []}
        best, best_state, since_best = np.inf, network.state_dict(), 0
        for epoch in range(self.epochs):
            network.train()
            losses = []
            for chosen in np.array_split(order.permutation(len(train)), steps):
                numeric, categorical, label = (t[torch.from_numpy(chosen)] for t in tensors)
                loss = torch.nn.functional.binary_cross_entropy_with_logits(
                    _logits(network, numeric, categorical), label
                )
                if not torch.isfinite(loss):
                    raise TrainingError(
                        f"the loss became {loss.item()} in epoch {epoch + 1}: lower the learning "
                        f"rate (now {self.learning_rate}) or look for extreme values in the inputs"
                    )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), self.clip_norm)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            score = self._loss(network, validation)
            curves["train_loss"].append(float(np.mean(losses)))
            curves["validation_loss"].append(score)
            if score < best:
                best, since_best = score, 0
                best_state = {k: v.clone() for k, v in network.state_dict().items()}
            else:
                since_best += 1
                if since_best >= self.patience:
                    break
        network.load_state_dict(best_state)
        network.eval()
        network = _with_sigmoid(network)
        onnx = _export(network, validation)
        _hold_to_torch(onnx, network, validation)
        return TrainedModel(
            onnx, curves, {"best_validation_loss": best, "epochs": len(curves["train_loss"])}
        )

    def _loss(self, network: nn.Module, data: TrainingData) -> float:
        import torch

        network.eval()
        with torch.no_grad():
            logits = _logits(
                network, torch.from_numpy(data.numeric), torch.from_numpy(data.categorical)
            )
            return torch.nn.functional.binary_cross_entropy_with_logits(
                logits, torch.from_numpy(data.label)
            ).item()

    def _network(self, train: TrainingData) -> nn.Module:
        import numpy as np
        import torch
        from torch import nn

        observed = np.where(np.isnan(train.numeric), 0.0, 1.0).sum(axis=0)
        filled = np.nan_to_num(train.numeric.astype(np.float64))
        mean = filled.sum(axis=0) / np.maximum(observed, 1)
        spread = np.where(np.isnan(train.numeric), 0.0, filled - mean)
        deviation = np.sqrt((spread**2).sum(axis=0) / np.maximum(observed, 1))
        deviation = np.where(deviation > 0, deviation, 1.0)
        parameters = self

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
                for hidden in parameters.hidden:
                    layers += [
                        nn.Linear(width, hidden),
                        nn.LayerNorm(hidden),
                        nn.SiLU(),
                        nn.Dropout(parameters.dropout),
                    ]
                    width = hidden
                self.mix = nn.Sequential(*layers, nn.Linear(width, 1))

            def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
                missing = torch.isnan(numeric)
                standard = (torch.where(missing, self.mean, numeric) - self.mean) / self.deviation
                standard = standard.clamp(-parameters.clip_value, parameters.clip_value)
                embedded = [e(categorical[:, i]) for i, e in enumerate(self.embeddings)]
                return self.mix(torch.cat([standard, missing.float(), *embedded], dim=1))

        return Network()


def _logits(network: nn.Module, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
    return network(numeric, categorical)[:, 0]


def _with_sigmoid(network: nn.Module) -> nn.Module:
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


def _export(network: nn.Module, example: TrainingData) -> bytes:
    """One ONNX file with a free batch dimension."""
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
    return program.model_proto.SerializeToString(deterministic=True)


def _hold_to_torch(onnx: bytes, network: nn.Module, data: TrainingData) -> None:
    """Refuse an export that computes something else than the network.

    Raises:
        TrainingError: The two differ by more than 1e-5.
    """
    import numpy as np
    import torch

    from flywheel.onnx_runtime import predict

    with torch.no_grad():
        expected = network(torch.from_numpy(data.numeric), torch.from_numpy(data.categorical))
    difference = float(np.abs(predict(onnx, data) - expected.numpy()[:, 0]).max())
    if not difference <= 1e-5:
        raise TrainingError(f"the ONNX export differs from torch by {difference:.2e} (limit 1e-5)")
