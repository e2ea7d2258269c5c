"""The command line helps, and the client side stays light."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flywheel_serving.client import ServingClient, ServingUnavailableError

HEAVY = ("numpy", "dagster", "torch", "pandas", "feast", "mlflow", "grpc", "starlette", "uvicorn")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    command = [sys.executable, "-m", "flywheel_serving", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_help_shows_examples_and_exit_codes() -> None:
    answer = run("serve", "--help")
    assert answer.returncode == 0
    assert "examples:" in answer.stdout
    assert "exit codes:" in answer.stdout


def test_a_missing_triton_environment_says_how_to_make_one(tmp_path: Path) -> None:
    answer = run("serve", "--work", str(tmp_path / "w"), "--triton-venv", str(tmp_path / "none"))
    assert answer.returncode == 2
    assert "pip install nvidia-pytriton==0.7.0" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--triton-http", "a:1"], "together"),
        (["--triton-http", "a", "--triton-grpc", "a:2"], "HOST:PORT"),
    ],
    ids=["one address", "no port"],
)
def test_wrong_addresses_are_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    answer = run("serve", "--work", str(tmp_path), *arguments)
    assert answer.returncode == 2
    assert message in answer.stderr


def test_a_busy_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        external = ["--triton-http", "127.0.0.1:1", "--triton-grpc", "127.0.0.1:1"]
        answer = run("serve", "--work", str(tmp_path), "--port", port, *external)
    assert answer.returncode == 2
    assert "choose another --port" in answer.stderr


@pytest.mark.parametrize("module", ["client", "bundle", "prediction_log", "features"])
def test_the_client_side_imports_nothing_heavy(module: str) -> None:
    names = "{m.partition('.')[0] for m in sys.modules}"
    code = f"import sys, flywheel_serving.{module}; print(*{names})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not set(HEAVY) & set(loaded.stdout.split())


def test_a_client_without_a_gateway_says_so() -> None:
    client = ServingClient("http://127.0.0.1:1")
    assert not client.ready()
    with pytest.raises(ServingUnavailableError, match="is it running"):
        client.models()
    with pytest.raises(ValueError, match="no http address"):
        ServingClient("localhost:8900")
