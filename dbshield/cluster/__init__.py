"""PostgreSQL clusters that dbshield runs itself: the binaries, a data folder, start and stop."""

from __future__ import annotations

from dbshield.cluster.account import temporary_folder
from dbshield.cluster.binaries import Binaries, binaries_in, debian_binaries, embedded_binaries
from dbshield.cluster.cluster import Cluster

__all__ = ["Binaries", "Cluster", "binaries_in", "debian_binaries", "embedded_binaries", "temporary_folder"]
