"""What a version was made with: the installed packages, the machine, and what it took.

All of it is read off the process that asks. The commit is read by `resources.registry.git_commit`;
data and parameters are known to whoever trains.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import re
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Self

SECONDS_PER_HOUR = 3600.0


@lru_cache(maxsize=1)
def environment() -> tuple[str, ...]:
    """Python and every installed distribution as `name==version`, Python first, then by name.

    Looked up once a process: what is installed afterwards is not what this one has loaded. Of two
    distributions with the same name the first on the path counts, as it does for imports.
    """
    versions: dict[str, str] = {}
    for one in distributions():
        # A removal that was interrupted leaves a folder without a name; nothing can import it.
        if name := one.metadata["Name"]:
            versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), one.version)
    listed = (f"{name}=={version}" for name, version in sorted(versions.items()))
    return (f"python=={platform.python_version()}", *listed)


def environment_hash(listed: Sequence[str] | None = None) -> str:
    """SHA-256 (hexadecimal) of an environment; of this process's own unless one is given."""
    lines = environment() if listed is None else listed
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def environment_changes(
    before: Sequence[str], after: Sequence[str]
) -> dict[str, tuple[str | None, str | None]]:
    """What differs between two environments: versions before and after, by sorted name.

    None stands for a distribution that one of them lacks.
    """
    old, new = (dict(line.split("==", 1) for line in lines) for lines in (before, after))
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


@dataclass(frozen=True)
class Hardware:
    """The machine, as far as this process may use it.

    Attributes:
        architecture: E.g. `x86_64`.
        cpu: Model of the processor, as the kernel names it.
        cores: Logical cores that may be used; a container's quota can be a fraction.
        memory_bytes: Memory that may be used.
        accelerator: GPUs that the NVIDIA driver shows, e.g. `2 x NVIDIA H200`; empty without any.
        system: Operating system and its release.
    """

    architecture: str
    cpu: str
    cores: float
    memory_bytes: int
    accelerator: str
    system: str


def hardware(root: Path = Path("/")) -> Hardware:
    """The machine that this process runs on; limits of its container are respected (cgroup v2).

    Args:
        root: Where `proc` and `sys` are mounted.
    """
    # The affinity leaves out cores that the process may not use; macOS does not know it.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Hardware(
        architecture=platform.machine(),
        cpu=_first(r"^model name\s*:\s*(.+)$", _read(root / "proc/cpuinfo"))
        or platform.processor()
        or platform.machine(),
        cores=min(float(cores), _limit(root / "sys/fs/cgroup/cpu.max")),
        memory_bytes=int(min(memory, _limit(root / "sys/fs/cgroup/memory.max"))),
        accelerator=_accelerator(root),
        system=f"{platform.system()} {platform.release()}",
    )


@dataclass(frozen=True)
class Usage:
    """What a piece of work took.

    Attributes:
        wall_seconds: Time that passed.
        cpu_seconds: CPU time of this process and of the children that ended meanwhile.
        cpu_hour_price: Price of an hour of one core, in the unit of the setting of that name.
    """

    wall_seconds: float
    cpu_seconds: float
    cpu_hour_price: float

    @property
    def cost(self) -> float:
        """Estimated cost: CPU hours times their price. Memory, storage and idling are left out."""
        return self.cpu_seconds / SECONDS_PER_HOUR * self.cpu_hour_price


class Meter:
    """Measures the work inside a `with` block; `usage` is complete once the block is left.

    Threads and children of the process count, whoever started them: nothing else should run
    beside. A child counts when it has ended and was waited for.

    Args:
        cpu_hour_price: See `Usage`.
    """

    def __init__(self, cpu_hour_price: float) -> None:
        self._price = cpu_hour_price
        self._started: tuple[float, float] | None = None
        self._usage: Usage | None = None

    def __enter__(self) -> Self:
        self._usage, self._started = None, (time.monotonic(), cpu_seconds())
        return self

    def __exit__(self, *failure: object) -> None:
        self._usage = self.usage

    @property
    def usage(self) -> Usage:
        """What it took; inside of the block, so far.

        Raises:
            RuntimeError: The block was not entered.
        """
        if self._usage is not None:
            return self._usage
        if self._started is None:
            raise RuntimeError("nothing was measured yet: enter the meter with `with` first")
        wall, cpu = self._started
        return Usage(time.monotonic() - wall, cpu_seconds() - cpu, self._price)


def cpu_seconds() -> float:
    """CPU seconds so far, user and system, of this process and its ended children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _accelerator(root: Path) -> str:
    # The driver's own listing: asking torch would load it, and would open the device.
    found = sorted(root.glob("proc/driver/nvidia/gpus/*/information"))
    models = Counter(_first(r"^Model:\s*(.+)$", _read(one)) or "NVIDIA GPU" for one in found)
    return ", ".join(
        f"{count} x {model}" if count > 1 else model for model, count in models.items()
    )


def _limit(path: Path) -> float:
    """A cgroup's limit, by its period if it has one; infinite where there is none."""
    amount, *period = _read(path).split() or ["max"]
    return math.inf if amount == "max" else float(amount) / float(*period or ["1"])


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else ""


def _read(path: Path) -> str:
    """A small file of the kernel's; empty where this kernel has none."""
    return path.read_text() if path.exists() else ""
