"""The servers of the laptop: started in the background, found again, and stopped by their own pid.

A service is remembered by pid and start time in `services.json`, so a pid that was given to
somebody else is never touched.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from flywheel.settings import ROOT, Settings

GRACE_SECONDS = 25.0


class ServiceError(RuntimeError):
    """A service did not start; the message has the end of its log."""


@dataclass(frozen=True)
class Service:
    """A running server.

    Attributes:
        name: `serving`, `mlflow` or `dagster`.
        url: Its address.
        pid: Process id; the process leads its own session.
        started: Start time of the process, to tell it from a later one with its pid.
        health: Path that answers 200 once it is up.
    """

    name: str
    url: str
    pid: int
    started: float
    health: str

    @property
    def alive(self) -> bool:
        """Whether the process we started still runs."""
        try:
            process = psutil.Process(self.pid)
            return (
                abs(process.create_time() - self.started) < 1.0
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False

    @property
    def healthy(self) -> bool:
        """Whether it answers."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.url + self.health, timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


@dataclass(frozen=True)
class Plan:
    """How to start a service: its command, with `{port}` to fill in."""

    name: str
    command: tuple[str, ...]
    port: int
    health: str
    environment: Mapping[str, str]


def plans(settings: Settings) -> dict[str, Plan]:
    """All services, in the order they should start."""
    python = sys.executable
    return {
        plan.name: plan
        for plan in (
            Plan(
                "serving",
                (
                    python, "-m", "flywheel_serving", "serve", "--port", "{port}",
                    "--work", str(settings.serving),
                    "--triton-venv", str(settings.triton_venv.absolute()),
                ),
                8900,
                "/health/live",
                # Not as arguments: the address may hold a password, and so everyone would see it.
                {
                    "FLYWHEEL_ONLINE_STORE": settings.online_store_address,
                    "FLYWHEEL_PSEUDONYM_KEY": settings.pseudonym_key or "",
                },
            ),
            Plan(
                "mlflow",
                (
                    python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "{port}",
                    "--backend-store-uri", settings.tracking_uri,
                    "--default-artifact-root", settings.artifacts,
                    "--workers", "1",
                ),
                5050,
                "/health",
                # Without its job runner the server is 2 processes instead of 10.
                {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            ),
            Plan(
                "dagster",
                (
                    python, "-m", "dagster", "dev", "-h", "127.0.0.1", "-p", "{port}",
                    "-w", str(ROOT / "workspace.yaml"),
                ),
                3000,
                "/server_info",
                {},
            ),
        )
    }  # fmt: skip


class Services:
    """The services of one `FLYWHEEL_HOME`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._file = settings.home.absolute() / "services.json"
        self.logs = settings.folder("logs")

    def known(self) -> dict[str, Service]:
        """The services that were started and still run."""
        if not self._file.exists():
            return {}
        found = [Service(**one) for one in json.loads(self._file.read_text())]
        return {one.name: one for one in found if one.alive}

    def start(self, name: str) -> Service:
        """Start a service unless it runs; does not wait until it answers."""
        running = self.known()
        if name in running:
            return running[name]
        plan = plans(self._settings)[name]
        prepare_dagster_home(self._settings)
        port = free_port(plan.port)
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [part.format(port=port) for part in plan.command],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=ROOT,
                env={**environment(self._settings), **plan.environment},
            )
        service = Service(
            name,
            f"http://127.0.0.1:{port}",
            process.pid,
            psutil.Process(process.pid).create_time(),
            plan.health,
        )
        self._remember({**running, name: service})
        return service

    def wait(self, service: Service, seconds: float = 180.0) -> None:
        """Wait until a service answers.

        Raises:
            ServiceError: It ended, or did not answer in time.
        """
        deadline = time.monotonic() + seconds
        while not service.healthy:
            if not service.alive or time.monotonic() > deadline:
                tail = (self.logs / f"{service.name}.log").read_text(errors="replace")[-2000:]
                state = "did not answer in time" if service.alive else "ended"
                raise ServiceError(f"{service.name} {state}; the end of its log:\n{tail}")
            time.sleep(0.25)

    def stop(self, name: str) -> bool:
        """Stop a service and all it started; false if it did not run."""
        running = self.known()
        service = running.pop(name, None)
        if service is None:
            return False
        os.killpg(service.pid, signal.SIGTERM)
        processes = _session(service.pid)
        _, left = psutil.wait_procs(processes, timeout=GRACE_SECONDS)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5)
        self._remember(running)
        return True

    def _remember(self, services: Mapping[str, Service]) -> None:
        aside = self._file.with_suffix(".tmp")
        aside.write_text(json.dumps([asdict(one) for one in services.values()], indent=1))
        aside.replace(self._file)


def environment(settings: Settings) -> dict[str, str]:
    """Environment for every process of the project."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {
        **inherited,
        "FLYWHEEL_HOME": str(settings.home.absolute()),
        "DAGSTER_HOME": str(settings.dagster_home),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "PYTHONWARNINGS": "ignore",
        # Spinning thread pools collapse on a machine with few cores.
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "ORT_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "true",
        "FEAST_USAGE": "False",
    }


def prepare_dagster_home(settings: Settings) -> Path:
    """Put this checkout's dagster.yaml into the instance folder."""
    place = settings.dagster_home / "dagster.yaml"
    place.parent.mkdir(parents=True, exist_ok=True)
    wanted = (ROOT / "dagster.yaml").read_text()
    if not place.exists() or place.read_text() != wanted:
        aside = place.with_suffix(".tmp")
        aside.write_text(wanted)
        aside.replace(place)
    return place.parent


def free_port(preferred: int) -> int:
    """The preferred loopback port, or any other if somebody has it."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise ServiceError("no free loopback port is left")


def _session(leader: int) -> list[psutil.Process]:
    """All processes of a session."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader:
                members.append(process)
        except ProcessLookupError:
            continue
    return members
