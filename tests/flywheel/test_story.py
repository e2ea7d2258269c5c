"""What a version was made with is read off this process, and can be compared later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.settings import ROOT
from flywheel.story import (
    Hardware,
    Meter,
    Usage,
    environment,
    environment_changes,
    environment_hash,
    hardware,
)

# Burns CPU time, not wall time: a busy machine makes it slower, but no less work.
BURN = "import time\nwhile time.process_time() < 0.4: pass"


def test_the_environment_is_python_and_every_distribution_by_name() -> None:
    listed = environment()
    assert listed[0] == "python=={}.{}.{}".format(*sys.version_info[:3])
    assert f"numpy=={version('numpy')}" in listed
    # Names are spelled in one way, whatever their metadata says.
    assert f"jinja2=={version('Jinja2')}" in listed
    names = [line.split("==")[0] for line in listed[1:]]
    assert names == sorted(set(names))


def test_another_process_in_the_same_environment_has_the_same_hash() -> None:
    script = "from flywheel.story import environment_hash; print(environment_hash())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == environment_hash()
    assert len(environment_hash()) == 64


def test_another_version_makes_another_environment_and_is_named() -> None:
    before = ("python==3.11.7", "numpy==2.4.5", "old==1.0", "same==1.0")
    after = ("python==3.11.7", "new==0.1", "numpy==2.4.6", "same==1.0")
    assert environment_hash(before) != environment_hash(after)
    assert environment_changes(before, after) == {
        "new": (None, "0.1"),
        "numpy": ("2.4.5", "2.4.6"),
        "old": ("1.0", None),
    }


NAMES = st.text("abcxyz-", min_size=1, max_size=4)
ENVIRONMENTS = st.dictionaries(NAMES, st.text("0123.", min_size=1, max_size=4)).map(
    lambda found: tuple(f"{name}=={number}" for name, number in sorted(found.items()))
)


@given(ENVIRONMENTS, ENVIRONMENTS)
@settings(deadline=None)
def test_environments_hash_alike_exactly_if_nothing_differs(
    one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    assert (environment_hash(one) == environment_hash(other)) is (
        environment_changes(one, other) == {}
    )


def test_the_hardware_is_this_machine() -> None:
    found = hardware()
    assert found.architecture == os.uname().machine
    assert 0 < found.cores <= len(os.sched_getaffinity(0))
    assert 0 < found.memory_bytes <= psutil.virtual_memory().total
    assert found.cpu
    assert os.uname().release in found.system
    assert Hardware(**json.loads(json.dumps(asdict(found)))) == found


def test_looking_at_the_hardware_loads_no_torch() -> None:
    script = "import sys, flywheel.story as s; s.hardware(); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def machine(root: Path, files: dict[str, str]) -> Hardware:
    """What is found on a machine whose kernel shows these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return hardware(root)


def test_a_container_has_what_its_limits_leave(tmp_path: Path) -> None:
    limits = {"sys/fs/cgroup/cpu.max": "50000 100000\n", "sys/fs/cgroup/memory.max": "1073741824\n"}
    found = machine(tmp_path, limits)
    assert (found.cores, found.memory_bytes) == (0.5, 2**30)


def test_a_container_without_limits_has_the_whole_machine(tmp_path: Path) -> None:
    bare = hardware(tmp_path)
    limits = {"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n"}
    found = machine(tmp_path, limits)
    assert (found.cores, found.memory_bytes) == (bare.cores, bare.memory_bytes)
    assert found.cores == len(os.sched_getaffinity(0))


def test_processor_and_gpus_are_named_as_the_kernel_names_them(tmp_path: Path) -> None:
    gpu = "Model: \t\t NVIDIA H200\nIRQ:   \t\t 42\n"
    found = machine(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nflags\t\t: fpu\n",
            "proc/driver/nvidia/gpus/0000:01:00.0/information": gpu,
            "proc/driver/nvidia/gpus/0000:02:00.0/information": gpu,
        },
    )
    assert (found.cpu, found.accelerator) == ("Some CPU @ 2.00GHz", "2 x NVIDIA H200")


def test_a_machine_without_gpus_has_no_accelerator(tmp_path: Path) -> None:
    assert hardware(tmp_path).accelerator == ""


def test_the_work_of_children_counts() -> None:
    with Meter(0.05) as meter:
        subprocess.run([sys.executable, "-c", BURN], check=True)
        so_far = meter.usage
    assert so_far.cpu_seconds >= 0.4
    assert meter.usage.cpu_seconds >= so_far.cpu_seconds
    assert meter.usage.wall_seconds >= so_far.wall_seconds > 0


def test_work_after_the_block_does_not_count() -> None:
    with Meter(0.05) as meter:
        pass
    before = meter.usage
    subprocess.run([sys.executable, "-c", BURN], check=True)
    assert meter.usage == before
    assert before.cpu_seconds < 0.4


def test_work_that_failed_was_work_too() -> None:
    meter = Meter(0.05)
    with pytest.raises(ChildProcessError), meter:
        subprocess.run([sys.executable, "-c", BURN], check=True)
        raise ChildProcessError
    assert meter.usage.cpu_seconds >= 0.4


def test_the_cost_is_cpu_hours_times_their_price() -> None:
    assert Usage(wall_seconds=60.0, cpu_seconds=7200.0, cpu_hour_price=0.05).cost == 0.1


def test_nothing_was_used_before_the_block() -> None:
    with pytest.raises(RuntimeError, match="enter the meter"):
        _ = Meter(0.05).usage
