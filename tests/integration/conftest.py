"""What tests of several modules start from: a control database, a receiver of alerts, and a proxy that is shared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import servers
from support.buckets import object_store, plan_in
from support.control import registered, tables_database
from support.receivers import HttpReceiver, http_receiver
from support.servers import Server
from support.shield import Shield, running_shield

from dbshield.config import BackupConfig
from dbshield.store.database import Database


@pytest.fixture(scope="session")
def gate(server18: Server, worker_id: str) -> Iterator[Shield]:
    """With two workers and short patience, which is enough for a login on a machine that does other things as well. Its tests
    leave it as they found it."""
    folder = servers.here() / f"gate-{worker_id}"
    with running_shield(
        server18, f"gate_{worker_id}", folder, workers=2, login_timeout=8.0, drain_timeout=5.0, shares_nothing=True
    ) as shield:
        yield shield


@pytest.fixture
def control_dsn(server: Server) -> Iterator[str]:
    """A control database with nothing in it, gone after the test."""
    with tables_database(server) as dsn:
        yield dsn


@pytest.fixture
def control(control_dsn: str) -> Iterator[Database]:
    """The same, with its environments."""
    with registered(control_dsn) as database:
        yield database


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    """A service that alerts are sent to."""
    with http_receiver() as made:
        yield made


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of an object store with a bucket."""
    with object_store() as address:
        yield address


@pytest.fixture
def plan(endpoint: str, tmp_path: Path) -> BackupConfig:
    """A plan of backups that go there."""
    return plan_in(endpoint, tmp_path)
