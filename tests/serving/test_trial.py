"""A bundle in a Triton of its own: what loads and agrees, what is refused, what cannot be tried."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from flywheel.onnx_runtime import predict
from flywheel.quantization import quantized
from flywheel.trainers.linear import LogisticRegression
from flywheel.trainers.tabular import TabularNetwork
from flywheel.trainers.trees import GradientBoosting
from flywheel.training import TrainedModel, Trainer
from flywheel_serving.bundle import Manifest, ModelInput, Probe, RequestField, seal, write_probe
from tests.flywheel.training_cases import TRAIN, VALIDATION
from tests.serving.conftest import MakeBundle, make_manifest

TRITON_VENV = Path(
    os.environ.get("FLYWHEEL_TRITON_VENV", Path(__file__).parents[2] / ".venv-triton")
)
pytestmark = pytest.mark.skipif(
    not (TRITON_VENV / "bin" / "python3").exists(),
    reason=f"there is no Triton environment at {TRITON_VENV}",
)

TRIAL = (sys.executable, "-m", "flywheel_serving", "trial")
VENV = ("--triton-venv", str(TRITON_VENV))

Trial = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The folder of temporary files, which a trial must leave as empty as it was."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def trial(scratch: Path) -> Iterator[Trial]:
    """Runs the command to its end."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*TRIAL, *map(str, arguments)],
            env={**os.environ, "TMPDIR": str(scratch)},
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip

    yield run
    assert list(scratch.iterdir()) == []


def test_a_good_bundle_loads_agrees_and_is_measured(trial: Trial, make_bundle: MakeBundle) -> None:
    bundle = make_bundle("3", bias=0.4)
    done = trial(
        bundle, *VENV, "--json", "--requests", "200", "--concurrency", "1", "--concurrency", "4"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["model"], result["version"]) == ("delay", "3")
    assert result["loaded"]
    assert result["reason"] == ""
    assert result["load_seconds"] > 0
    assert result["probe_rows"] == 4
    assert result["probe_max_abs_diff"] <= 1e-6
    assert result["model_bytes"] == (bundle / "model.onnx").stat().st_size
    assert result["bundle_bytes"] == sum(p.stat().st_size for p in bundle.iterdir())
    assert set(result["latencies"]) == {"1", "4"}
    for one in result["latencies"].values():
        assert (one["requests"], one["errors"]) == (200, 0)
        assert 0 < one["p50_ms"] <= one["p95_ms"] <= one["p99_ms"]
        assert one["per_second"] > 0


def test_a_probe_that_disagrees_is_refused_and_says_by_how_much(
    trial: Trial, make_bundle: MakeBundle
) -> None:
    done = trial(make_bundle(probe_error=0.01), *VENV, "--requests", "0")
    assert done.returncode == 1
    assert "delay version 1 is refused: its probe disagrees" in done.stdout
    assert "largest difference of 4 probe rows 1.0e-02 (allowed 1e-05)" in done.stdout
    assert "at once" not in done.stdout


def _garbage(_: bytes) -> bytes:
    return b"not a model"


def _of_the_future(onnx: bytes) -> bytes:
    import onnx as library

    model = library.load_from_string(onnx)
    model.opset_import[0].version = 99
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("spoil", "because"),
    [(_garbage, "InvalidProtobuf"), (_of_the_future, "Opset 99")],
    ids=["garbage", "unknown opset"],
)
def test_a_model_that_triton_cannot_load_is_a_verdict_with_tritons_reason(
    trial: Trial, make_bundle: MakeBundle, spoil: Callable[[bytes], bytes], because: str
) -> None:
    bundle = make_bundle()
    model = bundle / "model.onnx"
    model.write_bytes(spoil(model.read_bytes()))
    seal(bundle, make_manifest())
    done = trial(bundle, *VENV, "--json")
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert not result["loaded"]
    assert because in result["reason"]
    assert "scratch" not in result["reason"]
    assert result["load_seconds"] is None
    assert result["probe_max_abs_diff"] is None
    assert result["latencies"] == {}
    assert result["model_bytes"] == model.stat().st_size


RECIPES: dict[str, tuple[Trainer, bool]] = {
    "trees": (GradientBoosting(trees=20), False),
    "logistic regression": (LogisticRegression(), False),
    "network": (TabularNetwork(hidden=(32,), epochs=2), False),
    "int8 network": (TabularNetwork(hidden=(32,), epochs=2), True),
}


def trained_bundle(directory: Path, trained: TrainedModel, **changes: Any) -> Path:
    """Seal what a trainer made, with its own answers to some cases as the probe."""
    numbers = [ModelInput(name=n, source=f"request:{n}", kind="number") for n in TRAIN.numbers]
    categories = [
        ModelInput(
            name=name,
            source=f"request:{name}",
            kind="category",
            vocabulary=[str(code) for code in range(1, size)],
        )
        for name, size in zip(TRAIN.categories, TRAIN.cardinalities, strict=True)
    ]
    asked = make_manifest().request
    fields = [field for field in asked.fields if field.name in ("flight_id", "scheduled_departure")]
    fields += [RequestField(name=one.name, dtype="float") for one in numbers]
    fields += [RequestField(name=one.name, dtype="string") for one in categories]
    manifest = Manifest(
        model="delay",
        version="1",
        created_at="2013-02-01T00:00:00+00:00",
        project="flywheel",
        request=type(asked)(
            entity_id="flight_id", event_timestamp="scheduled_departure", fields=fields
        ),
        inputs=[*numbers, *categories],
    )
    directory.mkdir()
    (directory / "model.onnx").write_bytes(trained.onnx)
    rows = VALIDATION.rows(slice(0, 16))
    answers = predict(trained.onnx, rows)
    probe = {
        "numeric": [[None if np.isnan(v) else float(v) for v in row] for row in rows.numeric],
        "categorical": rows.categorical.tolist(),
        "probability": [[float(p)] for p in answers],
    }
    write_probe(directory, Probe(**(probe | changes)))
    seal(directory, manifest)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_what_every_trainer_makes_runs_in_triton_as_it_did_in_training(
    trial: Trial, tmp_path: Path, recipe: str
) -> None:
    trainer, int8 = RECIPES[recipe]
    trained = trainer.fit(TRAIN, VALIDATION, seed=5)
    assert len(set(predict(trained.onnx, VALIDATION.rows(slice(0, 16))).tolist())) > 8
    bundle = trained_bundle(tmp_path / "bundle", quantized(trained) if int8 else trained)
    done = trial(bundle, *VENV, "--json", "--requests", "50")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["probe_max_abs_diff"] <= 1e-6
    assert result["latencies"]["8"]["errors"] == 0


def test_a_model_that_loads_but_fails_on_a_probe_row_is_refused(
    trial: Trial, tmp_path: Path
) -> None:
    trained = LogisticRegression().fit(TRAIN, VALIDATION, seed=5)
    codes = VALIDATION.rows(slice(0, 16)).categorical.tolist()
    codes[7][0] = 99  # Triton warms up with the first row only
    done = trial(trained_bundle(tmp_path / "bundle", trained, categorical=codes), *VENV)
    assert done.returncode == 1
    assert "is refused: Triton did not answer the probe" in done.stdout
    assert "out of data bounds" in done.stdout


def test_a_bundle_that_was_tampered_with_cannot_be_tried(
    trial: Trial, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle()
    (bundle / "MLmodel").write_text("flavors: {onnx: {}}\n")
    done = trial(bundle, *VENV)
    assert done.returncode == 2
    assert "differs from its hash" in done.stderr
    assert done.stdout == ""


def test_without_triton_nothing_is_said_about_the_bundle(
    trial: Trial, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    done = trial(make_bundle(), "--triton-venv", tmp_path / "none")
    assert done.returncode == 2
    assert "pip install nvidia-pytriton" in done.stderr
    assert done.stdout == ""


def test_a_triton_that_does_not_start_is_an_error_with_the_end_of_its_log(
    trial: Trial, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    venv = tmp_path / "venv"
    packages = next(TRITON_VENV.resolve().glob("lib/python3*/site-packages"))
    broken = venv / packages.relative_to(TRITON_VENV.resolve())
    server = broken / "pytriton" / "tritonserver"
    (server / "bin").mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin" / "python3").symlink_to((TRITON_VENV / "bin" / "python3").resolve())
    (venv / "pyvenv.cfg").write_bytes((TRITON_VENV / "pyvenv.cfg").read_bytes())
    for path in packages.iterdir():
        if path.name != "pytriton":
            (broken / path.name).symlink_to(path)
    for name in ("backends", "caches", "python_backend_stubs"):
        (server / name).symlink_to(packages / "pytriton" / "tritonserver" / name)
    (server / "bin" / "tritonserver").write_text("#!/bin/sh\necho no memory left\nexit 7\n")
    (server / "bin" / "tritonserver").chmod(0o755)
    done = trial(make_bundle(), "--triton-venv", venv)
    assert done.returncode == 2
    assert "Triton ended with code 7: no memory left" in done.stderr


@contextmanager
def under_way(bundle: Path, scratch: Path) -> Iterator[tuple[subprocess.Popen[str], list[Any]]]:
    """A trial that measures for long, with the processes of its Triton."""
    with subprocess.Popen(
        [*TRIAL, str(bundle), *VENV, "--requests", "100000000"],
        env={**os.environ, "TMPDIR": str(scratch)},
        text=True, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            below: list[psutil.Process] = []
            # Triton, and the process that runs the model: the bundle is loaded then.
            while len(below) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
                below = psutil.Process(process.pid).children(recursive=True)
            yield process, below
        finally:
            process.kill()


def test_a_trial_that_is_stopped_stops_its_triton_and_leaves_nothing(
    make_bundle: MakeBundle, scratch: Path
) -> None:
    with under_way(make_bundle(), scratch) as (process, below):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
        assert psutil.wait_procs(below, timeout=10)[1] == []
    assert list(scratch.iterdir()) == []


def test_a_trial_that_is_killed_takes_its_triton_with_it(
    make_bundle: MakeBundle, scratch: Path
) -> None:
    with under_way(make_bundle(), scratch) as (process, below):
        process.kill()
        assert psutil.wait_procs(below, timeout=30)[1] == []


def test_help_shows_examples_and_exit_codes() -> None:
    done = subprocess.run([*TRIAL, "--help"], capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert "exit codes: 0 it loads and its probe agrees, 1 refused" in done.stdout


@pytest.mark.parametrize("arguments", [["--concurrency", "0"], ["--requests", "-1"]])
def test_senseless_numbers_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [*TRIAL, str(tmp_path), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "or more" in done.stderr
