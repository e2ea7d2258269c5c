"""The cluster's Dagster instance: what k8s/dagster.yaml says works on a Postgres and a bucket."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import boto3
import dagster as dg
import pytest
import yaml

from flywheel.settings import ROOT

WRITTEN = yaml.safe_load((ROOT / "k8s" / "dagster.yaml").read_text())


@dg.asset
def talkative() -> None:
    """Says something."""
    print("a line for the log")
    sys.stdout.flush()


@dg.job
def nothing_to_do() -> None:
    """A job without work."""


def test_logs_of_runs_lie_in_the_bucket(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_LOG_BUCKET", bucket.removeprefix("s3://"))
    # A file of the size of the home folder's: only the logs are the cluster's here.
    (tmp_path / "dagster.yaml").write_text(
        yaml.safe_dump({"compute_logs": WRITTEN["compute_logs"], "telemetry": {"enabled": False}})
    )
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert dg.materialize([talkative], instance=instance).success
    s3 = boto3.client("s3")
    listed = s3.list_objects_v2(Bucket=bucket.removeprefix("s3://"), Prefix="dagster/")["Contents"]
    outs = [one["Key"] for one in listed if one["Key"].endswith(".out")]
    bodies = [
        s3.get_object(Bucket=bucket.removeprefix("s3://"), Key=key)["Body"].read() for key in outs
    ]
    assert any(b"a line for the log" in body for body in bodies)


def test_runs_and_events_lie_in_postgres(
    tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = urlsplit(postgres)
    monkeypatch.setenv("DAGSTER_PG_HOST", "")
    monkeypatch.setenv("DAGSTER_PG_USERNAME", address.username or "postgres")
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", address.password or "unused")
    monkeypatch.setenv("DAGSTER_PG_DB", address.path.lstrip("/"))
    storage = WRITTEN["storage"]
    # The test's server listens on a socket in a folder, and not on a port.
    storage["postgres"]["postgres_db"]["params"] = {"host": parse_qs(address.query)["host"][0]}
    (tmp_path / "dagster.yaml").write_text(
        yaml.safe_dump({"storage": storage, "telemetry": {"enabled": False}})
    )
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        run = nothing_to_do.execute_in_process(instance=instance)
        assert run.success
    with dg.DagsterInstance.from_config(str(tmp_path)) as another:
        found = another.get_run_by_id(run.run_id)
        assert found is not None
        assert found.is_success
