"""No record is lost or read twice, whatever is killed when."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flywheel_serving.prediction_log import (
    PredictionRecord,
    Spool,
    SpoolError,
    read_segments,
    read_spool,
    remove_consumed,
)


def record(request_id: str, value: float | None = 0.5) -> PredictionRecord:
    """A record of the test model."""
    return PredictionRecord(
        request_id=request_id,
        model="delay",
        model_version="1",
        role="champion",
        received_at="2013-05-04T14:03:00+00:00",
        event_timestamp="2013-05-04T18:03:00+00:00",
        entity_id="f1",
        request={"carrier": "AA", "note": "line\nbreak"},
        features={"x": value, "c": "AA"},
        defaulted_features=["y"],
        probability=0.25,
        latency_ms=1.5,
    )


def ids(directory: Path) -> list[str]:
    """Request ids in the spool."""
    return [item.request_id for item in read_spool(directory, "delay")]


def test_what_is_written_is_read_back_at_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("delay", [record("a", float("nan")), record("b")])
    first, second = read_spool(tmp_path, "delay")
    assert first == record("a", None)
    assert second == record("b")
    spool.close()
    assert ids(tmp_path) == ["a", "b"]
    assert ids(tmp_path / "nothing") == []


def test_segments_rotate_by_size_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=500)
    names = [str(number) for number in range(20)]
    for name in names:
        spool.append("delay", [record(name)])
    spool.close()
    assert ids(tmp_path) == names
    assert len(list((tmp_path / "delay").iterdir())) == 10


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(0, 10_000))
def test_a_torn_last_line_is_ignored_wherever_it_is_torn(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    spool = Spool(directory)
    spool.append("delay", [record("a"), record("b"), record("c")])
    spool.close()
    (path,) = (directory / "delay").iterdir()
    data = path.read_bytes()
    kept = data[: cut % (len(data) + 1)]
    path.write_bytes(kept)
    assert ids(directory) == ["a", "b", "c"][: kept.count(b"\n")]


def test_damage_before_the_last_line_is_an_error(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("delay", [record("a"), record("b")])
    spool.close()
    (path,) = (tmp_path / "delay").iterdir()
    path.write_bytes(b"{" + path.read_bytes())
    with pytest.raises(SpoolError, match="damaged at byte 0"):
        ids(tmp_path)


def test_offsets_give_each_record_exactly_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=700)
    offsets: dict[str, int] = {}
    seen: list[str] = []
    for number in range(9):
        spool.append("delay", [record(f"{number}"), record(f"{number}b")])
        if number % 2:
            for entry in read_segments(tmp_path, "delay", offsets):
                offsets[entry.segment] = entry.end
                seen.append(entry.record.request_id)
    assert seen == [f"{number}{suffix}" for number in range(8) for suffix in ("", "b")]
    for entry in read_segments(tmp_path, "delay", offsets):
        offsets[entry.segment] = entry.end
    open_segment = max(path.name for path in (tmp_path / "delay").iterdir())
    remove_consumed(tmp_path, "delay", offsets)
    assert open_segment in os.listdir(tmp_path / "delay")
    spool.close()
    remove_consumed(tmp_path, "delay", offsets)
    assert os.listdir(tmp_path / "delay") == []


def test_unread_segments_are_never_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("delay", [record("a"), record("b")])
    spool.close()
    entry = next(read_segments(tmp_path, "delay"))
    assert remove_consumed(tmp_path, "delay", {entry.segment: entry.end}) == []
    assert ids(tmp_path) == ["a", "b"]


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_prediction_log import record
from flywheel_serving.prediction_log import Spool
spool = Spool(Path(sys.argv[1]))
for number in range(10**9):
    spool.append("delay", [record(str(number))])
    print(number, flush=True)
"""


def test_every_acknowledged_record_survives_kill_9(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(200)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().split()
    found = ids(tmp_path)
    # The last number may have been printed in half; every other one must be there.
    assert found[: len(acknowledged) - 1] == acknowledged[:-1]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_prediction_log import record
from flywheel_serving.prediction_log import Spool, SpoolError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool(Path(sys.argv[1]))
spool.append("delay", [record("a")])
resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
try:
    spool.append("delay", [record("lost")])
except SpoolError as error:
    assert "make room" in str(error)
else:
    sys.exit("the failed write was not noticed")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.append("delay", [record("b")])
spool.close()
"""


def test_a_refused_write_is_an_error_and_leaves_the_log_readable(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), str(Path(__file__).parent)]
    subprocess.run(command, check=True, timeout=60)
    assert ids(tmp_path) == ["a", "b"]
