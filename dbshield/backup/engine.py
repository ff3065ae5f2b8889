"""What every engine is: something that reads a protected server and puts members into a snapshot.

The runner (`run.py`) claims the snapshot, adds the record as a member, signs, and writes the catalogue; an engine knows of none
of that. Whatever an engine raises makes the snapshot a failed one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dbshield.backup.chain import Parent
from dbshield.backup.manifest import Outside, Server
from dbshield.backup.record import Record
from dbshield.backup.repository import Writer
from dbshield.backup.source import Source
from dbshield.backup.work import Work
from dbshield.cluster import Binaries
from dbshield.config import BackupConfig


class Progress(Protocol):
    """Who is told how far it is. Both may be called from any thread."""

    def step(self, name: str, total: int | None) -> None:
        """Another step begins, of `total` bytes if that is known."""
        ...

    def advance(self, amount: int) -> None:
        """So many bytes of the step are done."""
        ...


class Silent:
    """Progress that nobody looks at."""

    def step(self, name: str, total: int | None) -> None:
        """Nobody looks."""

    def advance(self, amount: int) -> None:
        """Nobody looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One snapshot to make. `work` is a private folder that is gone afterwards. `known` tells whether the catalogue has an id.

    `parent` is what a physical one is made upon, where it is to be incremental.
    """

    plan: BackupConfig
    source: Source
    writer: Writer
    programs: Binaries
    work: Work
    progress: Progress
    jobs: int
    fingerprint_max_bytes: int
    known: Callable[[str], bool]
    parent: Parent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What an engine has found out besides the members that it wrote.

    `kind` where it is known only afterwards. `parent` is the snapshot that it was made upon, `outside` what it put elsewhere.
    `backup_manifest` is PostgreSQL's own, for the next incremental one.
    """

    server: Server
    record: Record
    kind: str = ""
    parent: str | None = None
    outside: Outside | None = None
    backup_manifest: bytes = b""


class Engine(Protocol):
    """`name` and `kind` are those of the catalogue: logical, physical or pgbackrest; full or incremental."""

    name: str
    kind: str

    def back_up(self, task: Task) -> Taken:
        """Write every member. Raises BackupError."""
        ...
