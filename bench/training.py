"""What the trainers cost: the network against the same one in plain PyTorch, and against trees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.measure import DifferentWorkError, child, temporary_home
from bench.report import Row, Step, at_most

GREATEST_RATIO = 1.1

PLAIN, NETWORK, KEPT, TREES = "plain", "network", "checkpoints", "trees"
SUBJECTS = {
    PLAIN: "the same network, plain PyTorch",
    NETWORK: "TabularNetwork.fit",
    KEPT: "TabularNetwork.fit, a checkpoint each epoch",
    TREES: "GradientBoosting.fit (LightGBM)",
}


def measure(repeat: int, step: Step) -> list[Row]:
    """Each subject as a process, taking turns, on January and February; imports are not counted.

    Raises:
        DifferentWorkError: The networks learned different things.
    """
    runs: dict[str, list[Any]] = {subject: [] for subject in SUBJECTS}
    with temporary_home() as settings:
        file = str(Path(settings.home) / "training.npz")
        step("compute the cases")
        rows = child("-m", "bench.training_data", file).result
        for turn in range(repeat):
            for subject, name in SUBJECTS.items():
                step(f"{name}, {turn + 1} of {repeat}")
                runs[subject].append(child("-m", "bench.training_subject", subject, file).result)
    losses = {s: {run["loss"] for run in runs[s]} for s in (PLAIN, NETWORK, KEPT)}
    if len(set().union(*losses.values())) > 1:
        raise DifferentWorkError(
            f"the validation losses differ: {losses}; bring bench/training_plain.py in line with "
            "flywheel/trainers"
        )
    cpu = {subject: min(run["cpu"] for run in of) for subject, of in runs.items()}
    return [
        Row("training", "cases to learn from and to validate by", rows),
        Row("training", SUBJECTS[PLAIN], _measured(runs[PLAIN][0], cpu[PLAIN])),
        *(
            at_most(
                "training", SUBJECTS[subject], _measured(runs[subject][0], cpu[subject]),
                cpu[subject] / cpu[PLAIN], GREATEST_RATIO,
            )
            for subject in (NETWORK, KEPT)
        ),
        Row(
            "training", SUBJECTS[TREES], _measured(runs[TREES][0], cpu[TREES]),
            cpu[TREES] / cpu[PLAIN],
        ),
    ]  # fmt: skip


def _measured(run: Any, cpu: float) -> str:
    return f"{cpu:.2f} CPU s, validation log-loss {run['loss']:.4f}"
