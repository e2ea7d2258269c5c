"""What the subcommands of ``flywheel-serving`` share."""

from __future__ import annotations

import argparse
from pathlib import Path

EXIT_FAILURE, EXIT_USAGE = 1, 2


class UsageError(Exception):
    """Something the operator must change; the message says what."""


def add_triton_venv(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where Triton is."""
    parser.add_argument(
        "--triton-venv",
        type=Path,
        metavar="DIR",
        help="environment with nvidia-pytriton and onnxruntime (default: $FLYWHEEL_TRITON_VENV)",
    )
