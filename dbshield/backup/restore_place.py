"""Restoring into a new data folder: under another name beside it until all of it is there, compared, and on the disk.

Source: rename(2): a folder takes the place of an empty one, and of no other; initdb's `--sync-only`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from dbshield.backup import tablespaces
from dbshield.backup.drill_place import drill_place
from dbshield.backup.work import LOCK, Work
from dbshield.cluster import Cluster
from dbshield.errors import BackupError, ClusterError


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Work]:
    """A folder beside `target`, on its file system, gone afterwards. What a restore that was killed left there is removed.

    Raises BackupError where the target is anything but a name that is free or an empty folder.
    """
    require_free(target)
    base = target.parent / f".{target.name}.restoring"
    hint = f"Name a folder that the account which runs PostgreSQL can get to, not below {target.parent}."
    try:
        with drill_place(base, hint=hint) as work:
            yield work
    finally:
        with contextlib.suppress(OSError):
            # Others who restore to the same name still hold their own folders in it.
            if not any(path.name != LOCK for path in base.iterdir()):
                shutil.rmtree(base)


def require_free(target: Path) -> None:
    """Raises BackupError unless nothing can be lost by restoring to `target`."""
    try:
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise BackupError(f"{target} is there and is no folder", hint="Name a new one.")
        if target.is_dir() and any(target.iterdir()):
            raise BackupError(f"{target} is not empty, and nothing is written over", hint="Name a new folder.")
        if not target.parent.is_dir():
            raise BackupError(f"the folder {target.parent} is not there", hint="Make it first.")
    except OSError as error:
        raise BackupError(f"{target} cannot be looked at: {error.strerror}", hint="Name another folder.") from error


def settle(cluster: Cluster, target: Path) -> None:
    """Give the data of a server that was stopped in order its name, once it is on the disk. Raises BackupError, ClusterError."""
    command: list[str | Path] = [cluster.binaries.program("initdb"), "--sync-only", "-D", cluster.data]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **cluster.account.process())
    if done.returncode:
        raise ClusterError(f"the data could not be synced: {done.stderr.strip()}", hint="Look at that disk.")
    (cluster.data / "postmaster.opts").unlink(missing_ok=True)
    try:
        tablespaces.settle(cluster.data, target)
        cluster.data.rename(target)
        descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BackupError(
            f"{target} was taken meanwhile: {error.strerror}", hint="Nothing was written over; restore to another folder."
        ) from error
