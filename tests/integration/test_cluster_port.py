"""A server's port may be taken between being chosen and being listened on."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from support.ports import free_port
from support.servers import SOURCES, Server

from dbshield.cluster import Cluster, cluster, temporary_folder
from dbshield.errors import ClusterError

pytestmark = pytest.mark.one_server

SETTINGS = {"fsync": "off", "shared_buffers": "1MB"}


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield int(holder.getsockname()[1])


@pytest.mark.parametrize("said", ["log", "fatal"])
def test_another_one_is_taken_however_little_the_server_says(
    server: Server, taken: int, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    ports = iter([taken, free_port()])
    monkeypatch.setattr(cluster, "_free_port", lambda: next(ports))
    made = Cluster(
        temporary_folder(), binaries=SOURCES[server.major](), listen=True, settings={**SETTINGS, "log_min_messages": said}
    )
    try:
        made.start()
        assert made.port != taken
        made.stop()
        # One that was asked for by number is not exchanged for another.
        wanted = Cluster(made.folder, binaries=SOURCES[server.major](), listen=True, settings=SETTINGS, port=taken)
        with pytest.raises(ClusterError, match="Address already in use"):
            wanted.start()
    finally:
        made.remove()
