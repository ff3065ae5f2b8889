"""One proxy that the tests of a module share, in front of PostgreSQL 18."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import servers
from support.servers import Server
from support.shield import Shield, running_shield


@pytest.fixture(scope="session")
def gate(server18: Server, worker_id: str) -> Iterator[Shield]:
    """With two workers and short patience. Its tests leave it as they found it."""
    folder = servers.here() / f"gate-{worker_id}"
    with running_shield(server18, f"gate_{worker_id}", folder, workers=2, login_timeout=3.0, drain_timeout=5.0) as shield:
        yield shield
