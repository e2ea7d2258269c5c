"""The command ``flywheel-serving trial``: its arguments, its exit codes, and its words."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from flywheel_serving.command import UsageError, add_triton_venv

if TYPE_CHECKING:
    from flywheel_serving.trial import TrialResult

_EXAMPLES = """examples:
  flywheel-serving trial .flywheel/bundles/flight_delay-3 --triton-venv .venv-triton
  flywheel-serving trial BUNDLE --concurrency 1 --concurrency 8 --requests 2000
  flywheel-serving trial BUNDLE --requests 0 --json      does it load and agree, nothing measured

The server is private and thrown away: a temporary folder and free ports of this machine.

exit codes: 0 it loads and its probe agrees, 1 refused (the reason is printed), 2 it cannot be
tried: wrong arguments, a damaged bundle, or a Triton that is absent or does not run"""

EXIT_REFUSED = 1
EXIT_INTERRUPTED, EXIT_STOPPED = 128 + signal.SIGINT, 128 + signal.SIGTERM


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``trial``."""
    trial = commands.add_parser(
        "trial",
        help="try a bundle in a Triton of its own",
        description="Load a bundle into a throw-away Triton, send its probe, measure its latency.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    trial.set_defaults(run=_run, log_level="warning")
    trial.add_argument("bundle", type=Path, metavar="BUNDLE", help="directory of a sealed bundle")
    trial.add_argument(
        "--concurrency",
        type=_positive,
        action="append",
        metavar="N",
        help="requests at once; may be given several times (default: 8)",
    )
    trial.add_argument(
        "--requests",
        type=_count,
        default=2000,
        metavar="N",
        help="single-row requests to measure; 0 measures nothing (default: %(default)s)",
    )
    trial.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    add_triton_venv(trial)


def _run(options: argparse.Namespace) -> int:
    import msgspec
    import uvloop

    from flywheel_serving.bundle import BundleError, open_bundle
    from flywheel_serving.trial import try_bundle
    from flywheel_serving.triton import TritonNotFoundError, TritonStartError, find_triton

    try:
        bundle = open_bundle(options.bundle)
        install = find_triton(options.triton_venv)
    except (BundleError, TritonNotFoundError) as error:
        raise UsageError(str(error)) from error

    async def run() -> TrialResult:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # it runs this
        # A stopped trial, too, must stop its Triton and remove its folder.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        concurrency = tuple(dict.fromkeys(options.concurrency or (8,)))
        return await try_bundle(bundle, install, concurrency, options.requests)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(run())
    except TritonStartError as error:
        raise UsageError(str(error)) from error
    except asyncio.CancelledError:
        return EXIT_STOPPED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    print(msgspec.json.encode(result).decode() if options.json else _told(result), flush=True)
    return 0 if result.agrees else EXIT_REFUSED


def _told(result: TrialResult) -> str:
    """The result of a trial for a person."""
    name = f"{result.model} version {result.version}"
    lines = []
    if not result.loaded or result.probe_max_abs_diff is None:
        lines.append(f"{name} is refused: {result.reason}")
    else:
        verdict = "loads and agrees" if result.agrees else "is refused: its probe disagrees"
        lines.append(
            f"{name} {verdict}: loaded in {result.load_seconds:.2f} s, largest difference of "
            f"{result.probe_rows} probe rows {result.probe_max_abs_diff:.1e} (allowed "
            f"{result.tolerance:.0e})"
        )
    for at, one in result.latencies.items():
        percentiles = ", ".join(
            f"p{share} {value:.2f} ms"
            for share, value in ((50, one.p50_ms), (95, one.p95_ms), (99, one.p99_ms))
            if value is not None
        )
        lines.append(
            f"{at} at once: {one.requests} requests, {one.errors} errors, {percentiles}"
            f"{', ' if percentiles else ''}{one.per_second:.0f} a second"
        )
    lines.append(
        f"model file {result.model_bytes / 1e6:.2f} MB, bundle {result.bundle_bytes / 1e6:.2f} MB"
    )
    return "\n".join(lines)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number
