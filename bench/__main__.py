"""The command line of the benchmark suite: `python -m bench`."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from bench import (
    evaluation,
    gates,
    gateway,
    lake,
    load,
    online,
    pit,
    quality,
    training,
    validation,
    walkforward,
    wheel,
    windows,
)
from bench.report import Benchmark, Row, as_markdown, as_table

BENCHMARKS = {
    one.name: one
    for one in (
        Benchmark("load", "what loading the code location costs", 5, load.measure),
        Benchmark("wheel", "what the wheel costs beside one script", 2, wheel.measure),
        Benchmark("lake", "what Iceberg costs beside Parquet", 2, lake.measure),
        Benchmark("pit", "what a point-in-time join of a year costs", 3, pit.measure),
        Benchmark("windows", "what trailing windows over years cost", 3, windows.measure),
        Benchmark("validation", "what checking contracts costs", 2, validation.measure),
        Benchmark("evaluation", "what knowing a difference from luck costs", 3, evaluation.measure),
        Benchmark("gates", "what asking every gate costs", 3, gates.measure),
        Benchmark("gateway", "what the gateway costs beside Triton", 3, gateway.measure),
        Benchmark("online", "what reading features online costs", 3, online.measure),
        Benchmark("training", "what the trainers cost", 5, training.measure),
        Benchmark("quality", "how good the models are", 1, quality.measure),
        Benchmark("walkforward", "what a walk-forward backtest costs", 1, walkforward.measure),
    )
}

EXAMPLES = """examples:
  python -m bench                        all of them, about an hour
  python -m bench load gateway           only these
  python -m bench wheel --repeat 1       quick and less certain
  python -m bench --markdown table.md    the table as a file, too

benchmarks:
"""


def main() -> int:
    """Run what was asked for and print the table."""
    parser = _parser()
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark is called {unknown[0]}: there are {', '.join(BENCHMARKS)}")
    warnings.simplefilter("ignore")  # libraries' warnings about one another tear the progress bar
    console = Console()
    rows: list[Row] = []
    names = options.names or list(BENCHMARKS)
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        console=console, transient=True,
    ) as progress:  # fmt: skip
        task = progress.add_task("", total=len(names))
        for name in names:
            benchmark = BENCHMARKS[name]

            def step(what: str, name: str = name) -> None:
                progress.update(task, description=f"{name}: {what}")

            rows += benchmark.measure(options.repeat or benchmark.repeat, step)
            progress.advance(task)
    console.print(as_table(rows))
    if options.markdown:
        options.markdown.write_text(as_markdown(rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, BENCHMARKS))
    listed = "\n".join(f"  {b.name:<{width}}  {b.question}" for b in BENCHMARKS.values())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Flywheel side by side, in CPU seconds, on temporary state.",
        epilog=EXAMPLES + listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help="benchmarks to run; all if none is named",
    )  # fmt: skip
    parser.add_argument(
        "--repeat", type=_positive, metavar="N",
        help="measurements of each subject (default: "
        + ", ".join(f"{b.name} {b.repeat}" for b in BENCHMARKS.values()) + ")",
    )  # fmt: skip
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
