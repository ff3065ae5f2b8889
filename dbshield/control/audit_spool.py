"""Entries of the audit on this machine's disk, while the control database is away.

Each worker has a file of its own, which it holds locked for as long as it lives. A file that nobody holds is what a dead worker
left; whoever finds it brings its entries to the database, under the dead one's name, so that none is taken in twice.

Laws:
- What `add` has returned from is on the disk (fdatasync).
- A line that a crash cut was never promised to anybody, and is left out.

A line is the entry's number, a space, the entry: one JSON object, ASCII alone.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import UUID

from dbshield.errors import ConfigError, StoreError

SUFFIX: Final = ".spool"
UNFINISHED: Final = ".new"
"""A file that is not locked yet, and so not to be taken for a dead worker's."""
BATCH_BYTES: Final = 1 << 20
"""Bytes that are read, and sent to the database, at a time."""


class SpoolFull(StoreError):
    """The spool has reached its limit, or the disk is full."""


class Spool:
    """One worker's file. Every method may block on the disk."""

    def __init__(self, path: Path, descriptor: int, *, max_bytes: int) -> None:
        self.path = path
        self.writer = UUID(path.stem)
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._size = _whole(descriptor)
        self._read = self._following = 0

    @classmethod
    def create(cls, folder: Path, writer: UUID, *, max_bytes: int) -> Spool:
        """A new one, empty. ConfigError where the folder cannot be written to: found out now, not when it is needed."""
        path = folder / f"{writer}{SUFFIX}"
        unfinished = path.with_suffix(UNFINISHED)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            unfinished.rename(path)
            _sync_folder(folder)
        except OSError as error:
            raise ConfigError(
                f"the folder {folder} cannot be written to: {error.strerror}",
                hint="The audit's entries go there while the control database is away.",
            ) from error
        return cls(path, descriptor, max_bytes=max_bytes)

    @classmethod
    def left_over(cls, folder: Path) -> Iterator[Spool]:
        """Those of dead workers, locked one after the other. Whoever takes one closes it before the next."""
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                continue  # somebody else was faster
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                there = path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor))
                UUID(path.stem)
            except (OSError, ValueError):
                there = False
            if there:
                yield cls(path, descriptor, max_bytes=0)
            else:
                os.close(descriptor)

    @property
    def empty(self) -> bool:
        return self._read >= self._size

    def add(self, first: int, entries: Sequence[str]) -> None:
        """Keeps entries, the first of which has this number. SpoolFull where they do not fit; then none of them is kept."""
        data = "".join(f"{number} {entry}\n" for number, entry in enumerate(entries, first)).encode("ascii")
        if self._size + len(data) > self._max_bytes:
            raise SpoolFull(f"{self.path} has reached [audit] spool_max_bytes")
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], self._size + done)
            os.fdatasync(self._descriptor)
        except OSError as error:
            with suppress(OSError):
                # A part of it must not lie behind what is written next.
                os.ftruncate(self._descriptor, self._size)
            raise SpoolFull(f"{self.path} cannot be written: {error.strerror}") from error
        self._size += len(data)

    def next(self) -> tuple[int, list[str]]:
        """The next entries that were not taken yet, and the number of the first; stays there until `taken`."""
        data = os.pread(self._descriptor, min(BATCH_BYTES, self._size - self._read), self._read)
        end = data.rfind(b"\n") + 1
        while not end:  # an entry that is longer than a batch
            more = os.pread(self._descriptor, min(BATCH_BYTES, self._size - self._read - len(data)), self._read + len(data))
            if not more:
                raise StoreError(f"{self.path} was changed by somebody else")
            data += more
            end = data.rfind(b"\n") + 1
        first, used = 0, 0
        entries: list[str] = []
        for line in data[:end].splitlines(keepends=True):
            number, _, entry = line.decode("ascii").rstrip("\n").partition(" ")
            if not entries:
                first = int(number)
            elif int(number) != first + len(entries):
                break  # what lies between was lost, and the next entry says so
            entries.append(entry)
            used += len(line)
        self._following = self._read + used
        return first, entries

    def taken(self) -> None:
        """What `next` gave is in the database."""
        self._read = self._following
        if self.empty:
            os.ftruncate(self._descriptor, 0)
            self._read = self._size = 0

    def close(self) -> None:
        """Lets go. The file stays where something is in it."""
        if self.empty:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _whole(descriptor: int) -> int:
    """Bytes up to the end of the last whole line."""
    end = os.fstat(descriptor).st_size
    while end:
        begin = max(0, end - BATCH_BYTES)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
