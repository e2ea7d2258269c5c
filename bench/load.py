"""What it costs to load the code location, against Dagster alone."""

from __future__ import annotations

from bench.measure import child, temporary_home
from bench.report import Row, Step, at_most

GREATEST_RATIO = 1.3

SUBJECTS = {
    "import dagster": "import dagster",
    "load the code location": "import definitions; definitions.defs.get_repository_def()",
}


def measure(repeat: int, step: Step) -> list[Row]:
    """Fresh processes, taking turns; the least CPU time of each."""
    seconds: dict[str, list[float]] = {subject: [] for subject in SUBJECTS}
    with temporary_home():
        for code in SUBJECTS.values():  # writes bytecode, fills the page cache
            child("-c", code)
        for turn in range(repeat):
            for subject, code in SUBJECTS.items():
                step(f"{subject}, {turn + 1} of {repeat}")
                seconds[subject].append(child("-c", code).cpu)
    alone, location = (min(seconds[subject]) for subject in SUBJECTS)
    return [
        Row("load", "import dagster", f"{alone:.2f} CPU s"),
        at_most(
            "load", "load the code location", f"{location:.2f} CPU s", location / alone,
            GREATEST_RATIO,
        ),
    ]  # fmt: skip
