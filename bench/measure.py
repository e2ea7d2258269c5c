"""CPU seconds: of child processes, of process trees, and of the parts of one process.

Wall clocks are not read: on a shared machine they measure the neighbours. (`bench.gates_subject`
reads one, because its goal is the time that somebody waits.)
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import psutil

from flywheel.services import environment
from flywheel.settings import ROOT, Settings

# Marks the line with a child's result among whatever libraries print.
RESULT = "bench-result "


class ChildError(RuntimeError):
    """A measured process failed; the message has the end of what it said."""


class DifferentWorkError(RuntimeError):
    """The sides did not compute the same, so their times cannot be compared."""


@dataclass(frozen=True)
class Child:
    """A process that has ended.

    Attributes:
        cpu: CPU seconds of it and its children, user and system.
        result: What it handed to `report`; None if nothing.
    """

    cpu: float
    result: Any


@contextmanager
def temporary_home() -> Iterator[Settings]:
    """State of its own, in a folder that is removed; variables of another home do not leak in."""
    before = dict(os.environ)
    keep = {"FLYWHEEL_TRITON_VENV"}
    for name in [n for n in os.environ if n.startswith("FLYWHEEL_") and n not in keep]:
        del os.environ[name]
    os.environ.pop("DAGSTER_HOME", None)
    try:
        with tempfile.TemporaryDirectory(prefix="flywheel-bench-") as folder:
            settings = Settings(home=Path(folder))
            os.environ.update(environment(settings))
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
            yield settings
    finally:
        os.environ.clear()
        os.environ.update(before)


def child(*arguments: str) -> Child:
    """Run Python with these arguments to its end.

    Raises:
        ChildError: It failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode:
        said = (ended.stdout + ended.stderr)[-3000:]
        raise ChildError(f"python {' '.join(arguments)} ended with {ended.returncode}:\n{said}")
    results = [line for line in ended.stdout.splitlines() if line.startswith(RESULT)]
    return Child(
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        json.loads(results[-1][len(RESULT) :]) if results else None,
    )


def report(result: Any) -> None:
    """Hand a result (of JSON types) from a child to the process that measures it."""
    print(f"{RESULT}{json.dumps(result)}", flush=True)


@dataclass(frozen=True)
class Cost:
    """What one call cost its process.

    Attributes:
        cpu: CPU seconds, user and system, of all threads.
        before_mb: Greatest memory of the process before the call, MB.
        peak_mb: Greatest memory of the process by its end, MB.
    """

    cpu: float
    before_mb: float
    peak_mb: float


def cost_of(call: Callable[[], Any]) -> tuple[Any, Cost]:
    """Call it in this process; what it returned and what it cost."""
    before, started = _peak_mb(), time.process_time()
    result = call()
    return result, Cost(time.process_time() - started, before, _peak_mb())


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts KiB


def tree_cpu(process: psutil.Process, *, without: psutil.Process | None = None) -> float:
    """CPU seconds so far of a process and its running descendants, user and system.

    Args:
        process: Root of the tree.
        without: Root of a subtree to leave out.
    """
    members = {process, *process.children(recursive=True)}
    if without is not None:
        members -= {without, *without.children(recursive=True)}
    return sum(m.cpu_times().user + m.cpu_times().system for m in members)


@dataclass
class Stopwatch:
    """Splits this thread's CPU seconds into named parts that do not overlap.

    A part that is entered inside another one interrupts it. Other threads are not counted.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _stack: list[str] = field(default_factory=lambda: ["rest"])
    _since: float = field(default_factory=time.thread_time)
    _thread: int = field(default_factory=threading.get_ident)

    def _charge(self) -> None:
        now = time.thread_time()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge what happens inside to a part."""
        if threading.get_ident() != self._thread:
            yield
            return
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """A function that does the same, charged to a part."""

        @wraps(call)
        def charged(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return call(*args, **kwargs)

        return charged

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Charge every call of a method to a part, from now on."""
        setattr(owner, attribute, self.timed(name, getattr(owner, attribute)))

    def watch_imports(self) -> None:
        """Charge imports, wherever they happen, to the part `imports`.

        The import machinery comes here only for modules that are not loaded yet.
        """
        self.watch(sys.modules["_frozen_importlib"], "_find_and_load", "imports")

    def parts(self) -> dict[str, float]:
        """CPU seconds by part, and `rest`."""
        self._charge()
        return dict(self.seconds)
