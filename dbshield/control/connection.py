"""How every part of dbshield reaches the control database: by its URL, or by running the embedded one while anybody needs it.

The embedded server is shared: `dbshield up` may run while somebody makes an agent, and either may end first. Each user holds a
shared lock on a file; whoever leaves and finds that nobody else holds it stops the server. The kernel gives the lock back when a
process dies, so a crash leaves at most a server that the next user stops.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dbshield.cluster import Cluster
from dbshield.config import Config
from dbshield.errors import StoreError

USERS_LOCK = "control.users"
"""Held shared by every process that uses the embedded server, and by the children it forked."""
CHANGE_LOCK = "control.change"
"""Held alone for as long as it takes to start or stop the server."""


@contextmanager
def control_dsn(config: Config) -> Iterator[str]:
    """The connection string of the control database; an embedded server runs at least until the block ends.

    Raises ConfigError where the password cannot be read, StoreError where the state folder is not there, ClusterError where the
    embedded server does not start.
    """
    if not config.control.embedded:
        yield config.control.dsn()
        return
    cluster = Cluster(config.state / "control")
    with _opened(config.state / USERS_LOCK) as users, _opened(config.state / CHANGE_LOCK) as change:
        with _alone(change):
            fcntl.flock(users, fcntl.LOCK_SH)
            cluster.start()
        try:
            yield cluster.dsn()
        finally:
            with _alone(change):
                if _last(users):
                    cluster.stop()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"the state folder {path.parent} cannot be used: {error.strerror}", hint="`dbshield init` makes it."
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _last(users: int) -> bool:
    """Whether nobody else uses the server. Nobody joins meanwhile, since joining needs the other lock."""
    fcntl.flock(users, fcntl.LOCK_UN)
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
