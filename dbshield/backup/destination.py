"""Whether a destination survives what destroys the database.

What can be checked from here, and is:
- A folder on the file system, the disk or the network share's host that holds the server's data, its WAL or a tablespace.
- A folder that the account of the database server may write in, or a folder above it: who becomes superuser there runs programs.
- A folder inside dbshield's own state folder, which the proxy's account owns.
- A server on this machine that does not tell where its data lies: that is refused as well, since nobody can know.
- A store in S3 whose credentials a proxy of this machine has too (`store_identity.py`).

What cannot be checked, and is said in docs/how-to/backups.md: what the credentials of an object store may do and who else has
them; which disk lies behind a network file system.

Source: proc(5), mountinfo; sysfs, /sys/dev/block.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from dbshield.backup import store_identity
from dbshield.backup.source import Connection
from dbshield.config import BackupConfig, conninfo
from dbshield.errors import Refused
from dbshield.model import Upstream

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph", "glusterfs")
NOT_SAFE = "55000"
"""object_not_in_prerequisite_state"""
PLACES = """
    select current_setting('data_directory', true) union
    select pg_tablespace_location(oid) from pg_tablespace where pg_tablespace_location(oid) <> ''
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo: `device` is st_dev, `source` what is mounted."""

    device: int
    kind: str
    source: str


def check(plan: BackupConfig, state: Path, server: Upstream, connection: Connection) -> None:
    """Raises Refused where the destination lies too near, unless the plan says so by name. ConfigError for credentials_file."""
    folder = plan.folder
    if folder is None:
        require_own_credentials(plan, state)
        return
    standing = _standing(folder)
    if plan.same_device == "refused":
        problem = _near(standing, server, connection)
        if problem:
            raise Refused(
                f"the destination {folder} {problem}",
                sqlstate=NOT_SAFE,
                hint='Choose another disk or a store; or say same_device = "allowed", and what destroys one destroys both.',
            )
    if plan.same_account == "refused":
        problem = _within(folder, state) or _writable(standing, server, connection)
        if problem:
            raise Refused(
                f"the destination {folder} {problem}",
                sqlstate=NOT_SAFE,
                hint='Give the folder to another account; or say same_account = "allowed".',
            )


def require_own_credentials(plan: BackupConfig, state: Path) -> None:
    """Raises Refused where a proxy of this machine has those of a store in S3, unless the plan says so by name."""
    if plan.same_credentials == "allowed" or not plan.destination.startswith("s3:"):
        return
    where = store_identity.shared_with(plan, state)
    if where:
        raise Refused(
            f"the credentials for {plan.destination} are {where}",
            sqlstate=NOT_SAFE,
            hint="Give backups a key of their own in credentials_file, which no proxy or agent has; or say"
            ' same_credentials = "allowed", and who takes over the one gets at the other.',
        )


def _standing(folder: Path) -> Path:
    """The folder itself or the nearest one above it that exists, without symbolic links."""
    real = folder.resolve()
    while not real.exists():
        real = real.parent
    return real


def _near(folder: Path, server: Upstream, connection: Connection) -> str:
    """Why the folder is too near to the server's data; nothing where it is not."""
    mine = mount_of(folder)
    if not _is_here(server):
        host = mine.source.partition(":")[0].strip("[]/").rpartition("@")[2]
        if mine.kind in NETWORK and host == server.host:
            return f"is a share of {host}, the database's own machine"
        return ""
    places = list(server_places(connection))
    if not places:
        return "cannot be told from the database's disk: its data_directory is not seen (pg_read_all_settings)"
    for place in places:
        theirs = mount_of(place)
        if mine.device == theirs.device or (mine.source.startswith("/dev/") and mine.source == theirs.source):
            return f"lies on the file system of the database ({place})"
        if disks(mine.device) & disks(theirs.device):
            return f"lies on the disk of the database ({place})"
    return ""


def server_places(connection: Connection) -> Iterator[Path]:
    """Folders of a server on this machine that can be seen: its data, its WAL, its tablespaces. None where the data is not."""
    try:
        named = [str(place) for (place,) in connection.execute(PLACES) if place]
    except psycopg.Error:
        return
    real = []
    for place in named:
        try:
            real.append(Path(place).resolve(strict=True))
        except OSError:  # A container's path, or one behind a tunnel.
            return
    for path in real:
        yield path
        try:
            yield (path / "pg_wal").resolve(strict=True)
        except OSError:  # A tablespace has none, and others may not look into the data folder.
            continue


def disks(device: int) -> frozenset[str]:
    """The physical disks below a block device, as sysfs knows them: partitions, LVM and RAID are followed down."""
    return frozenset(_disks(Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")))


def _disks(block: Path) -> Iterator[str]:
    try:
        real = block.resolve(strict=True)
    except OSError:  # tmpfs and the like have no device.
        return
    below = list((real / "slaves").iterdir()) if (real / "slaves").is_dir() else []
    if below:
        for slave in below:
            yield from _disks(slave)
    elif (real / "partition").exists():
        yield real.parent.name
    else:
        yield real.name


def mount_of(path: Path) -> Mount:
    """The file system that a path lies on."""
    device = path.stat().st_dev
    best = Mount(device=device, kind="", source="")
    longest = -1
    for point, mount in _mounts():
        if (path == point or point in path.parents) and len(str(point)) >= longest:
            # Later lines cover earlier ones at the same place.
            longest, best = len(str(point)), Mount(device=device, kind=mount.kind, source=mount.source)
    return best


def _mounts() -> Iterable[tuple[Path, Mount]]:
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        front, _, back = line.partition(" - ")
        parts, rest = front.split(" "), back.split(" ")
        if len(parts) > 4 and len(rest) > 1:
            point = parts[4].encode("latin-1", "surrogateescape").decode("unicode_escape", "replace")
            yield Path(point), Mount(device=0, kind=rest[0], source=rest[1])


def _within(folder: Path, state: Path) -> str:
    real, home = folder.resolve(), state.resolve()
    if real == home or home in real.parents:
        return f"lies in dbshield's own state folder {state}, which the proxy's account may write"
    return ""


def _writable(folder: Path, server: Upstream, connection: Connection) -> str:
    """Whether the account of a server on this machine could write the folder, or put another in its place."""
    if not _is_here(server):
        return ""
    places = list(server_places(connection))
    if not places:
        return "cannot be told from what the database's account may write: its data_directory is not seen (pg_read_all_settings)"
    account = places[0].stat()
    for path in (folder, *folder.parents) if account.st_uid else ():
        problem = _writes(account, path.stat())
        if problem:
            return f"can be changed by the account of the database server ({problem}: {path})"
    return ""


def _writes(account: os.stat_result, facts: os.stat_result) -> str:
    if facts.st_uid == account.st_uid:
        return "it is the owner"
    if facts.st_gid == account.st_gid and facts.st_mode & stat.S_IWGRP:
        return "its group may write"
    if facts.st_mode & stat.S_IWOTH and not facts.st_mode & stat.S_ISVTX:
        return "everybody may write"
    return ""


def _is_here(server: Upstream) -> bool:
    """Whether the server may be on this machine. A tunnel looks the same, and is then refused as one that cannot be told."""
    if conninfo.is_local(server):
        return True
    try:
        found = socket.getaddrinfo(server.host, None, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in found:
        # An address that can be bound is one of ours.
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
            return True
    return False
