"""Who a server runs as: PostgreSQL refuses to run as root, so root lends it an account without rights."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbshield.errors import ClusterError

LENT_ACCOUNTS = ("postgres", "nobody")
"""Tried in this order when dbshield runs as root."""

TEST_TIMEOUT = 10.0
"""Seconds for one `test`; only a file system that hangs takes so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An operating system account. `lent` when it is not the one that dbshield itself runs as."""

    name: str
    uid: int
    gid: int
    lent: bool

    def process(self) -> dict[str, Any]:
        """The arguments of `subprocess` that start a program as this account, without the caller's groups and variables."""
        path = os.environ.get("PATH", os.defpath)
        common: dict[str, Any] = {"cwd": "/", "env": {"PATH": path, "LC_ALL": "C", "TZ": os.environ.get("TZ", "UTC")}}
        if self.lent:
            common |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return common

    def may(self, what: str, path: Path) -> bool:
        """Whether `test` says that the account may read (`-r`), write (`-w`) or enter and run (`-x`) the path."""
        return subprocess.run(["test", what, path], check=False, timeout=TEST_TIMEOUT, **self.process()).returncode == 0

    def own(self, path: Path, mode: int) -> None:
        """Give the path to this account alone."""
        if self.lent:
            os.chown(path, self.uid, self.gid)
        path.chmod(mode)


def temporary_folder(prefix: str = "dbshield-") -> Path:
    """A new private folder where the account that runs servers may work, for clusters that are thrown away."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    server_account().own(folder, 0o700)
    return folder


def server_account() -> Account:
    """The account that servers started by this process run as.

    Raises:
        ClusterError: root found none to lend, or the account that dbshield runs as has no name.
    """
    uid = os.geteuid()
    if uid != 0:
        try:
            entry = pwd.getpwuid(uid)
        except KeyError as error:
            raise ClusterError(
                f"user id {uid} has no name on this machine, and PostgreSQL needs one",
                hint="Add the user id to /etc/passwd, or point dbshield at a PostgreSQL that runs already.",
            ) from error
        return Account(name=entry.pw_name, uid=uid, gid=os.getegid(), lent=False)
    for name in LENT_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid, lent=True)
    raise ClusterError(
        f"PostgreSQL does not run as root, and there is no account {' or '.join(LENT_ACCOUNTS)} to run it",
        hint="Run dbshield as an ordinary user, or add the account postgres.",
    )
