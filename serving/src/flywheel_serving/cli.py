"""The command line: ``flywheel-serving serve`` and ``flywheel-serving trial``.

Only arguments, the checks an operator can act on, and the process's life cycle; see gateway.py and
trial.py for what runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from flywheel_serving import trial_command
from flywheel_serving.command import EXIT_FAILURE, EXIT_USAGE, UsageError, add_triton_venv

_EXAMPLES = """examples:
  flywheel-serving serve --work .flywheel/serving --online-store .flywheel/online.db \\
      --triton-venv .venv-triton
  flywheel-serving serve --work /srv/serving --online-store redis://:secret@redis:6379/0 \\
      --triton-http triton:8000 --triton-grpc triton:8001 \\
      --triton-backend onnxruntime --host 0.0.0.0

With an external Triton, --work/repository must be its model repository (explicit model control).
Set FLYWHEEL_ADMIN_TOKEN to allow deployments from other hosts.

exit codes: 0 stopped on request, 1 could not start, 2 wrong arguments or surroundings"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flywheel-serving",
        description="Serve the champion of each model behind a real NVIDIA Triton server.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    trial_command.add(commands)
    serve = commands.add_parser(
        "serve",
        help="run the gateway and its Triton",
        description="Run the gateway and, unless an external one is named, its own Triton.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.set_defaults(run=_serve)
    add = serve.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8900, help="port; 0 takes a free one (default: %(default)s)")
    add("--work", type=Path, required=True, metavar="DIR", help="work directory, one per gateway")
    add(
        "--online-store",
        default=os.environ.get("FLYWHEEL_ONLINE_STORE"),
        metavar="PATH|URL",
        help="Feast's online store: a SQLite file, or redis://[[user]:password@]host[:port][/db] "
        "(rediss:// for TLS; default: $FLYWHEEL_ONLINE_STORE); without it every feature takes its "
        "default",
    )
    add(
        "--online-timeout-ms",
        type=float,
        default=50.0,
        metavar="MS",
        help="longest wait for an answer of Redis (default: %(default)g)",
    )
    add(
        "--pseudonym-key",
        default=os.environ.get("FLYWHEEL_PSEUDONYM_KEY"),
        metavar="SECRET",
        help="secret of the pseudonyms that stand for classified fields in the prediction log "
        "(default: $FLYWHEEL_PSEUDONYM_KEY, which other users cannot see); without it those fields "
        "are left out",
    )
    add_triton_venv(serve)
    add("--triton-http", metavar="HOST:PORT", help="use this external Triton for inference ...")
    add("--triton-grpc", metavar="HOST:PORT", help="... and this address of it for control")
    add(
        "--triton-backend",
        choices=("python", "onnxruntime"),
        default="python",
        help="backend of the models: python for the wheel, onnxruntime for the container",
    )
    add("--log-level", default="warning", choices=("debug", "info", "warning", "error"))
    return parser


@contextlib.contextmanager
def _sole_owner(work: Path) -> Iterator[None]:
    """Hold the work directory; a second gateway on it would corrupt routes and repository."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"Another gateway uses {work}; stop it or choose another --work."
            raise UsageError(message) from error
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        message = f"Cannot listen on {host}:{port} ({error.strerror}); choose another --port."
        raise UsageError(message) from error
    return listener


def _address(text: str, flag: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"{flag} is '{text}'; write it as HOST:PORT, e.g. triton:8000.")
    return host, int(port)


def _serve(options: argparse.Namespace) -> int:
    # Late, so that --help and wrong arguments answer at once.
    import uvicorn
    import uvloop

    from flywheel_serving.admin import Admin
    from flywheel_serving.gateway import Gateway
    from flywheel_serving.online_store import EmptyOnlineStore, open_online_store
    from flywheel_serving.routing import RoutingError
    from flywheel_serving.supervisor import ExternalTriton
    from flywheel_serving.triton import TritonNotFoundError, find_triton

    if bool(options.triton_http) != bool(options.triton_grpc):
        raise UsageError("Give --triton-http and --triton-grpc together.")
    if options.triton_http:
        host, port = _address(options.triton_http, "--triton-http")
        _address(options.triton_grpc, "--triton-grpc")
        triton = ExternalTriton(host, port, options.triton_grpc)
    else:
        try:
            triton = find_triton(options.triton_venv)
        except TritonNotFoundError as error:
            raise UsageError(str(error)) from error
    work: Path = options.work.absolute()
    failures: list[str] = []
    with _sole_owner(work), _listen(options.host, options.port) as listener:
        url = f"http://{options.host}:{listener.getsockname()[1]}"
        store = EmptyOnlineStore()
        if options.online_store:
            try:
                seconds = options.online_timeout_ms / 1e3
                store = open_online_store(options.online_store, seconds)
            except ValueError as error:
                raise UsageError(f"--online-store: {error}") from error

        def ready() -> None:
            count = len(gateway.deployer.champions)
            print(f"flywheel-serving is ready at {url} ({count} models)", flush=True)

        def failed(reason: str) -> None:
            failures.append(reason)
            server.should_exit = True

        async def run() -> None:
            await server.serve(sockets=[listener])

        try:
            gateway = Gateway(
                work, store, triton, options.triton_backend, ready, failed, options.pseudonym_key
            )
        except RoutingError as error:
            raise UsageError(str(error)) from error
        gateway.mount(Admin(gateway, os.environ.get("FLYWHEEL_ADMIN_TOKEN")).application())
        server = uvicorn.Server(
            uvicorn.Config(
                gateway,
                loop="uvloop",
                http="httptools",
                lifespan="on",
                log_level="warning",
                access_log=False,
                # A forwarded address could pass for a loopback peer and open the admin calls.
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=30,
            )
        )

        def stop(*_: object) -> None:
            server.should_exit = True

        # uvicorn raises a signal again once it has stopped in order; the exit code is then 0.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    for reason in failures:
        print(f"flywheel-serving: {reason}", file=sys.stderr)
    return EXIT_FAILURE if failures else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        return options.run(options)
    except UsageError as error:
        print(f"flywheel-serving: {error}", file=sys.stderr)
        return EXIT_USAGE
