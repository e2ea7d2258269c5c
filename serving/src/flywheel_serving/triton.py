"""One Triton server process from the ``nvidia-pytriton`` wheel: find it, start it, stop it.

Each flag below was measured; the traps it avoids stand beside it. Restarting and healing belong to
:mod:`flywheel_serving.supervisor`, loading models to :mod:`flywheel_serving.control`.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import secrets
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_ENVIRONMENT = "FLYWHEEL_TRITON_VENV"

# Else ONNX Runtime 1.32 reports what it runs to Microsoft, and leaves a file in TMPDIR.
_NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}

# Runs as `python -I -S -c`, then becomes Triton: Triton dies with the gateway even when the gateway
# is killed. A preexec_fn would run Python between fork and exec, which can deadlock with threads.
_LAUNCH = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != int(sys.argv[1]): sys.exit("the gateway ended before Triton started")
os.execv(sys.argv[2], sys.argv[2:])
"""


class TritonNotFoundError(RuntimeError):
    """The Triton virtual environment is absent or incomplete; the message says how to make it."""


class TritonStartError(RuntimeError):
    """Triton did not come up; the message holds the end of its log."""


@dataclass(frozen=True)
class TritonInstall:
    """Where the parts of a Triton wheel lie.

    Attributes:
        venv: The virtual environment with ``nvidia-pytriton`` and ``onnxruntime``.
        server: The package directory ``pytriton/tritonserver``.
        python_version: Version of its interpreter, e.g. ``3.11``.
        libdir: Directory of the libpython its stub must load.
    """

    venv: Path
    server: Path
    python_version: str
    libdir: str

    @property
    def binary(self) -> Path:
        """The tritonserver executable."""
        return self.server / "bin" / "tritonserver"


def find_triton(venv: Path | str | None = None) -> TritonInstall:
    """Find the Triton wheel in a virtual environment.

    Args:
        venv: The environment; None reads ``FLYWHEEL_TRITON_VENV``.

    Raises:
        TritonNotFoundError: If it is not there.
    """
    chosen = venv or os.environ.get(_ENVIRONMENT)
    how = (
        "make it with `python3.11 -m venv DIR && DIR/bin/pip install nvidia-pytriton==0.7.0 "
        f"onnxruntime` and pass --triton-venv DIR or set {_ENVIRONMENT}=DIR"
    )
    if not chosen:
        raise TritonNotFoundError(f"No Triton environment was given; {how}.")
    root = Path(chosen).absolute()
    python = root / "bin" / "python3"
    found = sorted(root.glob("lib/python3*/site-packages/pytriton/tritonserver"))
    if not python.exists() or not found or not (found[0] / "bin" / "tritonserver").exists():
        raise TritonNotFoundError(f"{root} holds no Triton server; {how}.")
    question = (
        "import sys, sysconfig; import numpy, onnxruntime; "
        "print('%d.%d' % sys.version_info[:2], sysconfig.get_config_var('LIBDIR'))"
    )
    answer = subprocess.run(
        [python, "-c", question],
        env=os.environ | _NO_TELEMETRY,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise TritonNotFoundError(
            f"{python} cannot import numpy and onnxruntime ({answer.stderr.strip()[-200:]}); {how}."
        )
    version, libdir = answer.stdout.strip().split(" ", 1)
    return TritonInstall(root, found[0], version, libdir)


def free_ports(count: int) -> list[int]:
    """Loopback ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()


def remove_shared_memory(prefix: str) -> None:
    """Delete the shared-memory files a killed Triton left behind."""
    for path in Path("/dev/shm").glob(f"{glob.escape(prefix)}*"):  # noqa: S108
        path.unlink(missing_ok=True)


class TritonProcess:
    """One run of the server.

    Args:
        install: The wheel.
        work: Work directory; holds ``backends/``, ``triton.log`` and ``triton.shm``.
        repository: The model repository directory.
    """

    def __init__(self, install: TritonInstall, work: Path, repository: Path) -> None:
        self._install = install
        self._work = work
        self._repository = repository
        self.log = work / "triton.log"
        self._prefix_file = work / "triton.shm"
        self._prefix = f"flywheel_{os.getpid()}_{secrets.token_hex(3)}_"
        self._process: subprocess.Popen[bytes] | None = None
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)

    @property
    def pid(self) -> int | None:
        """Process id, None before the start."""
        return None if self._process is None else self._process.pid

    def exit_code(self) -> int | None:
        """Exit code of an ended process, None while it runs."""
        return None if self._process is None else self._process.poll()

    def _flags(self) -> list[str]:
        return [
            f"--model-repository={self._repository}",
            f"--backend-directory={self._work / 'backends'}",
            f"--cache-directory={self._install.server / 'caches'}",
            "--model-control-mode=explicit",
            # A complete config.pbtxt makes a load 0.3 s instead of 2 s.
            "--disable-auto-complete-config",
            # Otherwise /v2/health/ready is 400 during each load and for ever after a failed one.
            "--strict-readiness=false",
            "--exit-on-error=false",
            # After a stub has died, SIGTERM takes all of this time; requests have ended before.
            "--exit-timeout-secs=3",
            # Parallel loads of Python models crashed the server once.
            "--model-load-thread-count=1",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            "--http-address=127.0.0.1",
            f"--http-port={self.http_port}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self.grpc_port}",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={self.metrics_port}",
            "--allow-gpu-metrics=false",
            "--metrics-config=summary_latencies=true",
            "--metrics-config=summary_quantiles=0.5:0.05,0.95:0.01,0.99:0.001",
            "--log-format=ISO8601",
        ]

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        # PATH decides which environment the stub uses, LD_LIBRARY_PATH which libpython it loads.
        environment["PATH"] = f"{self._install.venv / 'bin'}:{environment.get('PATH', os.defpath)}"
        environment["LD_LIBRARY_PATH"] = self._install.libdir
        environment["OMP_NUM_THREADS"] = "1"
        environment |= _NO_TELEMETRY
        environment.pop("PYTHONPATH", None)
        environment.pop("PYTHONHOME", None)
        return environment

    def _link_backend(self) -> None:
        """Gather the Python backend by symbolic links: the stub must fit the interpreter."""
        python = self._work / "backends" / "python"
        python.mkdir(parents=True, exist_ok=True)
        backend = self._install.server / "backends" / "python"
        stubs = self._install.server / "python_backend_stubs" / self._install.python_version
        for source in (
            backend / "libtriton_python.so",
            backend / "triton_python_backend_utils.py",
            stubs / "triton_python_backend_stub",
        ):
            link = python / source.name
            if not link.is_symlink() or link.readlink() != source:
                link.unlink(missing_ok=True)
                link.symlink_to(source)

    def start(self) -> None:
        """Start the server; must run in the main thread, whose end is the server's end."""
        self._link_backend()
        if self._prefix_file.exists():
            remove_shared_memory(self._prefix_file.read_text())
        self._prefix_file.write_text(self._prefix)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid())),
                    *(str(self._install.binary), *self._flags()),
                ],
                env=self._environment(),
                cwd=self._work,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def wait_live(self, timeout: float = 60.0) -> None:  # noqa: ASYNC109
        """Wait until the HTTP endpoint says it is live.

        Raises:
            TritonStartError: If the process ends or takes longer than ``timeout`` seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while loop.time() < deadline:
            code = self.exit_code()
            if code is not None:
                raise TritonStartError(f"Triton ended with code {code}: {self.log_tail()}")
            with contextlib.suppress(OSError):
                if await _is_live(self.http_port):
                    return
            await asyncio.sleep(0.05)
        raise TritonStartError(f"Triton was not live after {timeout:.0f} s: {self.log_tail()}")

    def log_tail(self, size: int = 1500) -> str:
        """The end of the server's log."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - size))
            return file.read().decode(errors="replace").strip()

    async def stop(self, patience: float = 20.0) -> None:
        """Stop the server: SIGTERM, after ``patience`` seconds SIGKILL; remove its leftovers."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            loop = asyncio.get_running_loop()
            deadline = loop.time() + patience
            while process.poll() is None and loop.time() < deadline:
                await asyncio.sleep(0.05)
            if process.poll() is None:
                process.kill()
                process.wait()
        remove_shared_memory(self._prefix)
        self._prefix_file.unlink(missing_ok=True)


async def _is_live(port: int) -> bool:
    reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 2.0)
    try:
        writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: triton\r\nConnection: close\r\n\r\n")
        line = await asyncio.wait_for(reader.readline(), 2.0)
        return b" 200 " in line
    finally:
        writer.close()
