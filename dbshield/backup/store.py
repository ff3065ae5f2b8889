"""Where objects lie: a small interface, and the folder on this machine. Object stores are in `objects.py`.

Laws:
- Nothing is written over: `create` and `put_new` raise Taken where the name exists.
- An object is there whole or not at all. Whatever ends a writer early, even SIGKILL, leaves no object of that name.
- After the writer has ended without an error the bytes are on the disk, and so is the name (fsync of file and folder).
- Memory is bounded by a chunk, whatever an object's size.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from dbshield.backup.damage import Absent, Damaged, Taken
from dbshield.errors import BackupError

HALF = ".half-"
"""How the names of objects begin that are being written. They are no objects."""
SNAPSHOT_DEPTH = 2
"""Folders down to a snapshot's own: its environment's, and itself. Nobody else writes below it."""
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})
"""File systems without hard links, such as FAT and some network shares."""


class Sink(Protocol):
    """Where the bytes of one object go."""

    def write(self, data: bytes, /) -> object: ...


class Source(Protocol):
    """Where bytes come from; an empty answer is the end."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One object: its key with `/` between the parts, bytes, and when the store says it was written."""

    key: str
    size: int
    modified: datetime


class Store(Protocol):
    """A place for objects. Every method raises BackupError with what to do where the place does not answer."""

    @property
    def place(self) -> str:
        """The place in words, without a secret."""
        ...

    def create(self, key: str, *, expected: int = 0) -> AbstractContextManager[Sink]:
        """A writer; the object is there when the block has ended without an exception. Raises Taken.

        `expected` are the bytes that are likely to come: a store that cuts an object into parts chooses their size by it.
        """
        ...

    def put_new(self, key: str, data: bytes) -> None:
        """A small object, whole: of two who do this at once, one raises Taken."""
        ...

    def open(self, key: str, *, start: int = 0) -> AbstractContextManager[Source]:
        """A reader, from the byte `start` on. Raises Absent."""
        ...

    def list(self, prefix: str) -> Iterator[Stored]:
        """The objects below a prefix, which ends between two parts of a key; in no order."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none. Not while somebody writes beside it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Until when nobody may delete an object; `as_asked` is false where the store's word is weaker than the plan's."""

    until: datetime
    as_asked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One content of an object: the store's name for it, bytes, and when the store says it was written."""

    id: str
    size: int
    written: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """All that was written under a key and not removed, the oldest first; `hidden` since when a delete marker lies on top."""

    kept: tuple[Version, ...]
    hidden: datetime | None = None


@runtime_checkable
class Holding(Protocol):
    """A store that can keep objects from being deleted, whoever asks. It keeps what was written over as well."""

    @property
    def place(self) -> str:
        """As of a store."""
        ...

    def require_lock(self) -> None:
        """Raises ConfigError where it cannot."""
        ...

    def hold(self, keys: Sequence[str], *, days: int | None = None) -> None:
        """Keep objects that are there, with all their versions, for as long as the plan says or longer; with `days` no longer
        than that, unless they are already. Raises BackupError."""
        ...

    def held(self, key: str, version: str) -> Hold | None:
        """How a version of an object is kept; nothing where it is not. Raises BackupError."""
        ...

    def versions(self, prefix: str) -> Mapping[str, Versions]:
        """By key what there is below a prefix, or was only hidden. Raises BackupError."""
        ...

    def open_version(self, key: str, version: Version, *, start: int = 0) -> AbstractContextManager[Source]:
        """A reader of one version, from the byte `start` on. Raises Absent."""
        ...

    def cover(self, what: str) -> None:
        """Note that something lies over what was written, for `covered`."""
        ...

    def covered(self) -> tuple[str, ...]:
        """What was noted, a sentence each, once."""
        ...


class Folder:
    """A folder as a store. It is made, for its owner alone, when the first object is."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def place(self) -> str:
        return str(self.root)

    @contextmanager
    def create(self, key: str, *, expected: int = 0) -> Iterator[Sink]:
        target = self._path(key)
        half = target.with_name(f"{HALF}{secrets.token_hex(8)}")
        try:
            with self.told(key):
                self._make(target.parent)
                if target.exists():
                    raise Taken(f"{target} is there already", hint="Nothing is written over; look at who else writes there.")
                stream = os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
            try:
                yield _Told(stream, self, key)
                with self.told(key):
                    stream.flush()
                    os.fsync(stream.fileno())
                    stream.close()
            finally:
                # Where a disk is full closing tries to write once more, and what it says would hide what was told.
                with contextlib.suppress(OSError):
                    stream.close()
            with self.told(key):
                _settle(half, target)
        finally:
            with contextlib.suppress(OSError):
                half.unlink(missing_ok=True)

    def put_new(self, key: str, data: bytes) -> None:
        with self.create(key) as sink:
            sink.write(data)

    @contextmanager
    def open(self, key: str, *, start: int = 0) -> Iterator[Source]:
        with self.told(key):
            # Without waiting: for a pipe that was put in an object's place nobody may ever come to write.
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Damaged(f"{self.root / key} is no file", hint="It was put there by somebody else.")
        with os.fdopen(descriptor, "rb") as stream:
            stream.seek(start)
            yield stream

    def list(self, prefix: str) -> Iterator[Stored]:
        base = self._path(prefix) if prefix else self.root
        with self.told(prefix):
            # A folder that was never written to has no objects, which is no error.
            found = sorted(path for path in base.rglob("*") if path.is_file()) if base.is_dir() else []
            for path in found:
                if path.name.startswith(HALF):
                    continue
                facts = path.stat()
                key = path.relative_to(self.root).as_posix()
                yield Stored(key=key, size=facts.st_size, modified=datetime.fromtimestamp(facts.st_mtime, UTC))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self.told(key):
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.root or any(left.is_file() and not left.name.startswith(HALF) for left in folder.rglob("*")):
                    break
                if len(folder.relative_to(self.root).parts) >= SNAPSHOT_DEPTH:
                    # What a killed writer left half-written goes with the last object.
                    shutil.rmtree(folder)
                    continue
                try:
                    folder.rmdir()
                except OSError:  # Somebody begins another snapshot beside it.
                    break

    def _path(self, key: str) -> Path:
        parts = key.rstrip("/").split("/")
        if any(part in {"", ".", ".."} or "\0" in part for part in parts):
            raise BackupError(f"{key!r} is no name of an object", hint="The snapshot was not written by dbshield.")
        return self.root.joinpath(*parts)

    def _make(self, folder: Path) -> None:
        """The folder and those above it, each durable before something is put into it."""
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            _sync(path.parent)

    @contextmanager
    def told(self, key: str) -> Iterator[None]:
        """What the operating system says, as an error that a person can act on."""
        try:
            yield
        except FileNotFoundError as error:
            raise Absent(f"{self.root / key} is not there", hint="`dbshield backup list` shows what there is.") from error
        except OSError as error:
            raise BackupError(
                f"{self.root / key}: {error.strerror or error}", hint=_hint(error, "Look at the folder's disk and permissions.")
            ) from error


class _Told:
    """A writer whose errors name the object."""

    def __init__(self, stream: IO[bytes], folder: Folder, key: str) -> None:
        self._stream = stream
        self._folder = folder
        self._key = key

    def write(self, data: bytes, /) -> int:
        with self._folder.told(self._key):
            return self._stream.write(data)


def _settle(half: Path, target: Path) -> None:
    """Give what was written its name, unless that exists. A hard link cannot replace anything; a rename would."""
    try:
        os.link(half, target)
    except FileExistsError as error:
        raise Taken(f"{target} is there already", hint="Nothing is written over; look at who else writes there.") from error
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _settle_without_links(half, target)
    _sync(target.parent)


def _settle_without_links(half: Path, target: Path) -> None:
    """The name is taken first, by an empty file that nobody else can have made, and then replaced."""
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError as error:
        raise Taken(f"{target} is there already", hint="Nothing is written over; look at who else writes there.") from error
    half.rename(target)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # A file system that cannot sync a folder.
            raise
    finally:
        os.close(descriptor)


def _hint(error: OSError, otherwise: str) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return "The destination is full: make room, or let retention remove old snapshots."
    return otherwise
