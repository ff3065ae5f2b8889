"""Servers of a test's own, with WAL enough for base backups; the shared ones have none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dbshield.cluster import Cluster, temporary_folder
from support.servers import SETTINGS, SOURCES, Server

WITH_WAL = {
    **SETTINGS,
    "wal_level": "replica",
    "max_wal_senders": "10",
    "full_page_writes": "on",
    "max_connections": "100",
    "max_wal_size": "256MB",
    # Commits that wait for the disk, as in life, although it is none that survives anything.
    "synchronous_commit": "on",
}


@contextmanager
def server_with_wal(major: int, **settings: str) -> Iterator[Server]:
    """A fresh server of this version, gone afterwards, whatever ends this process."""
    with a_cluster(
        major,
        {**WITH_WAL, **settings},
        hba=("local replication postgres peer map=dbshield", "local replication all scram-sha-256"),
    ) as cluster:
        cluster.start(tethered=True, throwaway=True)
        yield Server(major=major, cluster=cluster, passwords={}, ca=Path("/nonexistent"))


@contextmanager
def a_cluster(major: int, settings: Mapping[str, str], hba: tuple[str, ...] = ()) -> Iterator[Cluster]:
    """A cluster that was not made yet, in a folder of its own."""
    folder = temporary_folder("dbshield-wal-")
    cluster = Cluster(folder / "cluster", binaries=SOURCES[major](), settings=settings, hba=hba)
    try:
        yield cluster
    finally:
        cluster.remove()
        folder.rmdir()
