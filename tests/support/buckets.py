"""An object store that speaks like S3, a real server on loopback, with one bucket; and what tests put there."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

from dbshield.backup.wal import Piece
from dbshield.config import BackupConfig

BUCKET = "backups"
CREDENTIALS = "AWS_ACCESS_KEY_ID=testing\nAWS_SECRET_ACCESS_KEY=hunter2hunter2\n"
PIECE = Piece(
    environment="test",
    plan="nightly",
    system="7710951481578435799",
    timeline=1,
    kind="segment",
    name="000000010000000000000002",
    segment_size=1 << 20,
    start=2 << 20,
    end=3 << 20,
    size=0,
    stored=0,
    sha256="",
    plain="",
    recipients=(),
    mark=0,
    marked_at="",
    shipped_at="2026-05-01T12:00:01.000000Z",
)


@contextmanager
def object_store() -> Iterator[str]:
    """The address of the store."""
    # It takes a second to load, and few tests need it.
    from moto.server import ThreadedMotoServer  # noqa: PLC0415

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    request = urllib.request.Request(f"{address}/{BUCKET}", method="PUT")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
    yield address
    server.stop()


def plan_in(address: str, folder: Path) -> BackupConfig:
    """A plan whose destination is a folder in the bucket; its credentials lie in `folder`."""
    file = folder / "credentials"
    file.write_text(CREDENTIALS)
    file.chmod(0o600)
    return BackupConfig(
        destination=f"s3://{BUCKET}/{folder.name}",
        encryption="none",
        credentials_file=file,
        endpoint=address,
        region="us-east-1",
    )


def client_of(address: str) -> Any:
    """Amazon's own client for it."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="hunter2hunter2",
    )
