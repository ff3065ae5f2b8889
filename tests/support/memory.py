"""Temporary files in memory, where there is room for them.

A test of a database makes some thousand files and removes them again, which takes a disk several times as long: all tests take a
third less time with them in memory.
"""

from __future__ import annotations

import contextlib
import os
from itertools import count
from pathlib import Path

import psutil

MEMORY = Path("/dev/shm")
ROOM = 2 << 30
"""Bytes free there for each processor; all that the tests of two have there at once is below 2 GB."""


def memory_folder() -> Path | None:
    """A new folder in memory that everybody may use as they use /tmp. None where somebody has chosen a place (TMPDIR), and where
    memory is short or lets no program run.

    Its name is short: a socket's has 107 bytes at most.
    """
    if "TMPDIR" in os.environ or not _has_room():
        return None
    for number in count():
        folder = MEMORY / f"dbs{number}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(0o1777)
            return folder
    return None


def is_in_memory(path: Path) -> bool:
    """Whether this lies in such a folder."""
    return path.is_relative_to(MEMORY) and path.relative_to(MEMORY).parts[0].startswith("dbs")


def _has_room() -> bool:
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return False
    needed = ROOM * (os.cpu_count() or 1)
    return (
        os.access(MEMORY, os.W_OK)
        and not found.f_flag & os.ST_NOEXEC
        and found.f_bavail * found.f_frsize >= needed
        # What lies there is taken from what programs have.
        and psutil.virtual_memory().available >= 2 * needed
    )
