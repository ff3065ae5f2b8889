"""Tablespaces of a restored data folder: below it, in `tablespaces/<oid>`, and never where they were on the source.

A server that begins recovery makes its links anew from `tablespace_map`, which has the source's paths: it is written anew here.
The WAL has those paths as well: where it makes a tablespace, recovery would do so in the source's own folder, on one machine in
files that are in use. So WAL that makes one is not replayed.

Source: PostgreSQL manual, "Tablespaces", "Backup Data Structure"; src/backend/commands/tablespace.c (tblspc_redo).
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from dbshield.backup.damage import Damaged
from dbshield.cluster.account import Account
from dbshield.errors import BackupError

FOLDER = "tablespaces"
LINKS = "pg_tblspc"
MAP = "tablespace_map"
CREATE = re.compile(r"desc: CREATE (\d+) ")
ENDED = re.compile(r"error in WAL record at|could not find a valid record after|could not find file")
"""pg_waldump where the WAL ends before the place that was asked for; recovery, which reads the same files, comes no further.
Anything else is about the look itself."""
ESCAPED = re.compile(r"([\\\n\r])")
"""Signs that `tablespace_map` has a backslash before."""


def home(data: Path) -> Path:
    """Where tablespaces of a data folder are."""
    return data / FOLDER


def oids(data: Path) -> tuple[str, ...]:
    """The tablespaces that are there."""
    return tuple(sorted(path.name for path in home(data).iterdir())) if home(data).is_dir() else ()


def link(data: Path, oid: str, place: Path) -> None:
    """Let a data folder find a tablespace at a place."""
    path = data / LINKS / oid
    path.unlink(missing_ok=True)
    path.symlink_to(place)


def settle(data: Path, target: Path | None = None) -> None:
    """Let the links lead to where the tablespaces are, or will be when the data folder is moved to `target`."""
    for oid in oids(data):
        link(data, oid, home(target or data) / oid)


def write_map(data: Path, account: Account) -> None:
    """The map that recovery reads, with our own places."""
    found = oids(data)
    if not found:
        return
    path = data / MAP
    path.write_text("".join(f"{oid} {ESCAPED.sub(lambda sign: chr(92) + sign[0], str(home(data) / oid))}\n" for oid in found))
    account.own(path, 0o600)


def require_none_made(program: Path, folder: Path, *, timeline: int, start: str, end: str) -> None:
    """Raises Damaged where the WAL in a folder makes a tablespace between two LSNs; BackupError where it cannot be looked at."""
    done = subprocess.run(
        [
            program, f"--path={folder}", f"--timeline={timeline}", f"--start={start}", f"--end={end}", "--rmgr=Tablespace",
        ],
        capture_output=True, text=True, errors="replace", check=False, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    found = CREATE.search(done.stdout)
    if found is not None:
        raise Damaged(
            f"the WAL makes the tablespace {found[1]}, which recovery would put where it is on the source",
            hint="Use another snapshot.",
        )
    if done.returncode and ENDED.search(done.stderr) is None:
        said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[0]
        raise BackupError(f"nobody could look whether the WAL makes a tablespace: {said}", hint="Look at this machine.")
