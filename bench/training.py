"""What the trainers cost: the network against the same one in plain PyTorch, and against trees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.measure import DifferentWorkError, child, temporary_home
from bench.report import Row, Step, at_most

GREATEST_RATIO = 1.1

# CPU seconds by subject and part.
Least = dict[tuple[str, str], float]

PLAIN, NETWORK, KEPT, TREES = "plain", "network", "checkpoints", "trees"
LEARNING, EXPORT = "learning", "export"
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
    least = {
        (subject, part): min(run[part] for run in of)
        for subject, of in runs.items()
        for part in (LEARNING, EXPORT)
    }
    return [
        Row("training", "cases to learn from and to validate by", rows),
        *(_learning(subject, least, runs[subject][0]["loss"]) for subject in SUBJECTS),
        *(_export(subject, least) for subject in (PLAIN, NETWORK, TREES)),
    ]


def _learning(subject: str, least: Least, loss: float) -> Row:
    name, cpu = f"learn: {SUBJECTS[subject]}", least[subject, LEARNING]
    ratio = cpu / least[PLAIN, LEARNING]
    measured = f"{cpu:.2f} CPU s, validation log-loss {loss:.4f}"
    if subject in (NETWORK, KEPT):
        return at_most("training", name, measured, ratio, GREATEST_RATIO)
    return Row("training", name, measured, None if subject == PLAIN else ratio)


def _export(subject: str, least: Least) -> Row:
    name, cpu = f"export: {SUBJECTS[subject]}", least[subject, EXPORT]
    ratio = None if subject == PLAIN else cpu / least[PLAIN, EXPORT]
    return Row("training", name, f"{cpu:.2f} CPU s", ratio)
