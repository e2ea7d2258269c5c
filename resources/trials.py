"""Bundles tried in a Triton of their own, by `flywheel-serving trial` in a process of its own.

So no server code is loaded here, and whatever a model does to a server, it does it there.
"""

# No `from __future__ import annotations` here: Dagster reads the fields' annotations.
import subprocess
import sys
from pathlib import Path

import dagster as dg

from flywheel.contest import Trial, TrialPlan

# Exit codes of the command that come with a result: taken, and refused.
TRIED = (0, 1)

# Loading may take two minutes, each measurement one, and a busy machine starts Triton slowly.
LONGEST_SECONDS = 300
LONGEST_MEASUREMENT_SECONDS = 90


class TrialError(RuntimeError):
    """A bundle cannot be tried; the message is the command's own. It is no verdict on the model."""


class Trials(dg.ConfigurableResource):
    """Where Triton's wheel is."""

    triton_venv: str

    def run(self, bundle: str | Path, plan: TrialPlan) -> Trial:
        """Load a bundle into a throw-away Triton on this machine and measure what is asked for.

        Args:
            bundle: Directory of a sealed bundle.
            plan: What to measure; see `flywheel.gates.trial_plan`.

        Raises:
            TrialError: The bundle is damaged, or there is no Triton or it does not run.
        """
        import msgspec

        command = [
            *(sys.executable, "-m", "flywheel_serving", "trial", str(bundle), "--json"),
            *("--triton-venv", self.triton_venv, "--requests", str(plan.requests)),
            *(word for at in plan.concurrency for word in ("--concurrency", str(at))),
        ]
        limit = LONGEST_SECONDS + LONGEST_MEASUREMENT_SECONDS * len(plan.concurrency)
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        ) as process:  # fmt: skip
            try:
                said, complaint = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired as error:
                raise TrialError(f"the trial of {bundle} took more than {limit} s") from error
            finally:
                # It stops its Triton and removes its folder before it ends; `with` waits for that.
                if process.poll() is None:
                    process.terminate()
        if process.returncode not in TRIED or not said:
            raise TrialError(
                f"{bundle} cannot be tried (exit code {process.returncode}): {complaint.strip()}"
            )
        return msgspec.json.decode(said, type=Trial)
