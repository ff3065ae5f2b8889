"""Folders for what is under way. They hold data in clear, so nothing of them stays: not after an error, and not after SIGKILL.

Each holds a lock for as long as its process lives; the programs that it starts hold it too. Whoever begins removes the folders
whose lock nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dbshield.errors import BackupError

PREFIX = "work-"
LOCK = "lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A private folder. `lock` is a descriptor that children inherit (`pass_fds`), so that it is not removed beneath them."""

    folder: Path
    lock: int

    def make(self, name: str) -> Path:
        """A new folder in it."""
        path = self.folder / name
        path.mkdir(mode=0o700)
        return path


@contextlib.contextmanager
def work_folder(base: Path, *, before: Callable[[Path], None] | None = None) -> Iterator[Work]:
    """A folder below `base`, which is made for its owner alone; what others left behind there is removed first.

    `before` is called with each folder that is about to be removed, to end what still runs in it.

    Raises:
        BackupError: the folder cannot be used.
    """
    try:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        if base.stat().st_mode & 0o022:
            raise BackupError(f"others may write in {base}, where the data lies in clear for a while", hint=f"chmod go-w {base}")
        sweep(base, before=before)
        with _alone(base):
            folder = base / f"{PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
            folder.mkdir(mode=0o700)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise BackupError(
            f"the work folder {base} cannot be used: {error.strerror}", hint="Set work to a folder that you may write to."
        ) from error
    try:
        yield Work(folder=folder, lock=lock)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(base: Path, *, before: Callable[[Path], None] | None = None) -> tuple[str, ...]:
    """Remove what dead processes left behind; the names of what went. `before` as in `work_folder`."""
    gone = []
    with _alone(base):
        for folder in sorted(base.glob(f"{PREFIX}*")):
            with contextlib.suppress(OSError):
                lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if before is not None:
                        before(folder)
                    shutil.rmtree(folder, ignore_errors=True)
                    gone.append(folder.name)
                finally:
                    os.close(lock)
    return tuple(gone)


@contextlib.contextmanager
def _alone(base: Path) -> Iterator[None]:
    """Nobody removes a folder between its making and its locking."""
    descriptor = os.open(base / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
