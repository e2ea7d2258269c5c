"""How good the models are, and how much of that is a flight's own early departure.

Not about speed. Half of all flights leave ahead of schedule, and have departed when the question is
asked: as built that is evidence, and withheld it is not.
"""

from __future__ import annotations

from bench.measure import child, temporary_home
from bench.quality_scores import WITHHELD
from bench.report import Row, Step

NAMES = {"candidate": "torch network"}


def measure(repeat: int, step: Step) -> list[Row]:
    """Scores on March; the seed is fixed, so repeats would say the same and are not made."""
    del repeat
    rows = []
    for evidence, arguments in (("as built", []), ("own departure withheld", [WITHHELD])):
        step(f"train and score, {evidence}")
        with temporary_home():
            result = child("-m", "bench.quality_scores", *arguments).result
        rows += [
            Row(
                "quality",
                f"{NAMES.get(name, name)}, {evidence}",
                f"AUC {one['auc']:.4f}, log-loss {one['log_loss']:.4f}",
            )
            for name, one in result["scores"].items()
        ]
    return rows
