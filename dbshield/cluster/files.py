"""The small files of a cluster: postmaster.pid, pg_hba.conf, the log, the socket's folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dbshield.cluster.account import Account

SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's path (sun_path is 108 with its final NUL, unix(7))."""
LONGEST_SOCKET_NAME = "/.s.PGSQL.65535.lock"
LOG_LIMIT = 16 * 1024 * 1024
"""Bytes after which the log is put aside at the next start."""
TAIL_LINES = 15
TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LockFile:
    """What postmaster.pid tells (src/include/utils/pidfile.h)."""

    pid: int
    port: int
    socket_folder: Path


def lock_file(data: Path) -> LockFile | None:
    """The content of postmaster.pid; None when there is none or the server has not finished writing it."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        # The lines are filled in one after another while the server starts.
        return LockFile(pid=int(lines[0]), port=int(lines[3]), socket_folder=Path(lines[4])) if lines[4] else None
    except (OSError, ValueError, IndexError):
        return None


def server_pid(data: Path) -> int | None:
    """The process that works on the data folder, None when there is none.

    The number in postmaster.pid alone proves nothing: it survives a crash and a restart of the container.
    """
    try:
        pid = abs(int((data / "postmaster.pid").read_text().split("\n", 1)[0]))
    except (OSError, ValueError):
        return None
    return pid if _works_in(pid, data) else None


def _works_in(pid: int, data: Path) -> bool:
    """Whether the process is alive and its working folder is `data`, where every postmaster stays."""
    process = Path("/proc") / str(pid)
    if not Path("/proc/self").exists():  # No procfs: a living process of that number has to do.
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            return True
        return False
    try:
        return (process / "cwd").samefile(data)
    except OSError:  # Gone, a zombie, or somebody else's.
        return False


def forget_stale(data: Path, sockets: Path) -> None:
    """Remove lock files whose number now belongs to a process that is no server of this folder, or to one that has ended.

    PostgreSQL itself sees through a number that nobody has, and refuses to start while anybody has it. Call it only while
    no server runs: the folder of the socket is the cluster's own, so whatever lies in it then is stale.
    """
    for left in sockets.glob(".s.PGSQL.*"):
        left.unlink(missing_ok=True)
    try:
        pid = abs(int((data / "postmaster.pid").read_text().split("\n", 1)[0]))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        pid = 0
    if pid == 0 or (Path(f"/proc/{pid}").exists() and not _works_in(pid, data)):
        (data / "postmaster.pid").unlink(missing_ok=True)


def write_hba(data: Path, account: Account, superuser: str, extra: Sequence[str]) -> None:
    """Write pg_hba.conf and pg_ident.conf: peer for the superuser over the socket, SCRAM for everybody else."""
    hba = [
        "# Written by dbshield at every start.",
        *extra,
        f'local all "{superuser}" peer map=dbshield',
        f'local replication "{superuser}" peer map=dbshield',
        "local all all scram-sha-256",
        "host all all 127.0.0.1/32 scram-sha-256",
        "host all all ::1/128 scram-sha-256",
    ]
    names = dict.fromkeys(("root", account.name))
    ident = ["# Written by dbshield at every start.", *(f'dbshield "{name}" "{superuser}"' for name in names)]
    for name, lines in (("pg_hba.conf", hba), ("pg_ident.conf", ident)):
        path = data / name
        path.write_text("\n".join(lines) + "\n")
        account.own(path, 0o600)


def socket_folder(folder: Path, account: Account) -> Path:
    """A private folder for the Unix socket, made if needed: below `folder`, or in /tmp when that path would be too long."""
    near = folder / "socket"
    if len(os.fsencode(near)) + len(LONGEST_SOCKET_NAME) <= SOCKET_PATH_LIMIT:
        near.mkdir(exist_ok=True)
        account.own(near, 0o700)
        return near
    noted = _noted_socket_folder(folder)
    if noted is not None and _is_private(noted, account):
        return noted
    # mkdtemp, because a name that others can guess is a name that others can make first.
    far = Path(tempfile.mkdtemp(prefix="dbshield-", dir="/tmp"))
    account.own(far, 0o700)
    (folder / "socket-folder").write_text(f"{far}\n")
    return far


def forget_socket_folder(folder: Path) -> None:
    """Remove the socket's folder in /tmp, if there is one."""
    noted = _noted_socket_folder(folder)
    if noted is not None:
        shutil.rmtree(noted, ignore_errors=True)


def _noted_socket_folder(folder: Path) -> Path | None:
    try:
        return Path((folder / "socket-folder").read_text().strip())
    except OSError:
        return None


def _is_private(path: Path, account: Account) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == account.uid and not found.st_mode & 0o077


def roll(log: Path) -> None:
    """Put a large log aside, keeping one."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_LIMIT:
            log.rename(log.with_suffix(".log.1"))


def tail(log: Path, *, begin: int = 0) -> str:
    """The last lines of the log, none from before byte `begin`."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(begin, log.stat().st_size - TAIL_BYTES))
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-TAIL_LINES:])
    except OSError as error:
        return f"(no log: {error})"
