"""What the wheel costs: January and February as assets, against one plain script."""

from __future__ import annotations

from collections.abc import Mapping

from bench.measure import Child, DifferentWorkError, child, temporary_home
from bench.report import Row, Step, at_most

GREATEST_RATIO = 1.5

PLAIN, ASSETS = "plain script", "Flywheel"
MODULES = {PLAIN: "bench.wheel_plain", ASSETS: "bench.wheel_assets"}


def measure(repeat: int, step: Step) -> list[Row]:
    """Both as processes, taking turns; each side's turn with the least CPU time.

    Raises:
        DifferentWorkError: Their scores differ.
    """
    runs: dict[str, list[Child]] = {subject: [] for subject in MODULES}
    for turn in range(repeat):
        for subject, module in MODULES.items():
            step(f"{subject}, {turn + 1} of {repeat}")
            with temporary_home():
                runs[subject].append(child("-m", module))
    plain, assets = (min(runs[subject], key=lambda run: run.cpu) for subject in MODULES)
    if _rounded(plain.result["scores"]) != _rounded(assets.result["scores"]):
        raise DifferentWorkError(
            f"the scores differ: {plain.result['scores']} and {assets.result['scores']}; bring "
            "bench/plain.py in line with the assets"
        )
    return [
        Row("wheel", PLAIN, _seconds(plain.cpu)),
        at_most("wheel", ASSETS, _seconds(assets.cpu), assets.cpu / plain.cpu, GREATEST_RATIO),
        Row("wheel", f"{PLAIN}, without imports", _seconds(_work(plain))),
        at_most(
            "wheel", f"{ASSETS}, without imports", _seconds(_work(assets)),
            _work(assets) / _work(plain), GREATEST_RATIO,
        ),
        *(
            Row("wheel", f"part: {part}", _both(plain, assets, part))
            for part in assets.result["parts"]
        ),
    ]  # fmt: skip


def _work(run: Child) -> float:
    return run.cpu - run.result["parts"]["imports"]


def _both(plain: Child, assets: Child, part: str) -> str:
    return f"script {_part(plain, part)}, Flywheel {_part(assets, part)}"


def _part(run: Child, part: str) -> str:
    seconds = run.result["parts"].get(part)
    return "-" if seconds is None else _seconds(seconds)


def _seconds(cpu: float) -> str:
    return f"{cpu:.1f} CPU s"


def _rounded(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Scores to 12 decimals: the evaluation sums its losses day by day, the script all at once."""
    return {name: {k: round(v, 12) for k, v in of.items()} for name, of in scores.items()}
