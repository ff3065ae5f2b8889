"""The folder of an undo point: files that are written once, counted, hashed, and never half there.

    undo/apr-k3x7w2mq/
      manifest.json        what the point holds, with the size and SHA-256 of every other file
      pre.sql, post.sql    pg_dump's schema of the relations that go
      1.before, 1.after    rows in COPY's text format

It is written below a temporary name, synced, and moved; a folder without the dot in front is complete. The hash of the manifest
stands in the control database, so that what is read back is what was written.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from dbshield.errors import DbshieldError, Refused

MANIFEST: Final = "manifest.json"
BLOCK: Final = 1 << 20


class UndoError(DbshieldError):
    """An undo point cannot be written or read; the message says what is wrong with it."""


class Folder:
    """A point that is being written. `limit` bounds the sum of its files, in bytes."""

    def __init__(self, parent: Path, name: str, *, limit: int) -> None:
        self._final = parent / name
        self._path = parent / f".{name}.partial"
        self._limit = limit
        self._files: dict[str, dict[str, Any]] = {}
        self.bytes = 0
        try:
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.rmtree(self._path, ignore_errors=True)
            self._path.mkdir(mode=0o700)
        except OSError as error:
            raise UndoError(f"the folder {parent} of undo points cannot be written: {error.strerror}") from error

    @contextmanager
    def file(self, name: str) -> Iterator[Callable[[bytes | memoryview], None]]:
        """Gives the function that appends to a new file. Refused beyond the limit, UndoError where the disk does not take it."""
        hashed, size = hashlib.sha256(), 0
        try:
            with (self._path / name).open("xb") as stream:

                def write(data: bytes | memoryview) -> None:
                    nonlocal size
                    size += len(data)
                    if self.bytes + size > self._limit:
                        raise too_large(self._limit)
                    hashed.update(data)
                    stream.write(data)

                yield write
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise UndoError(
                f"the undo point cannot be written: {error.strerror}", hint=f"Make room in {self._final.parent}."
            ) from error
        self.bytes += size
        self._files[name] = {"bytes": size, "sha256": hashed.hexdigest()}

    def finish(self, content: Mapping[str, Any]) -> bytes:
        """Writes the manifest and moves everything into place; the manifest's SHA-256."""
        text = json.dumps({**content, "files": self._files}, indent=1, sort_keys=True).encode()
        with self.file(MANIFEST) as write:
            write(text)
        try:
            _sync(self._path)
            # What lies there was left by an execution that was not committed: an approval runs once.
            shutil.rmtree(self._final, ignore_errors=True)
            self._path.rename(self._final)
            _sync(self._final.parent)
        except OSError as error:
            raise UndoError(f"the undo point cannot be moved into place: {error.strerror}") from error
        return hashlib.sha256(text).digest()

    def discard(self) -> None:
        """Removes what was written, finished or not."""
        for path in (self._path, self._final):
            shutil.rmtree(path, ignore_errors=True)


class TooLarge(Refused):
    """What a statement destroys is more than an undo point may hold."""


def too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"what the statement destroys does not fit into an undo point of {limit:,} bytes",
        sqlstate="53400",
        hint="Raise undo_max_bytes of the environment, or approve it with --without-undo.",
    )


def read_manifest(folder: Path, sha256: bytes) -> dict[str, Any]:
    """What a point holds, after every file of it was read and compared. UndoError where anything is not as it was written."""
    try:
        text = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise UndoError(
            f"the undo point {folder} is not there: {error.strerror}", hint="It lies on the machine whose executor took it."
        ) from error
    if not hmac.compare_digest(hashlib.sha256(text).digest(), sha256):
        raise UndoError(f"the manifest in {folder} was changed since it was written")
    manifest: dict[str, Any] = json.loads(text)
    for name, known in manifest["files"].items():
        if _hash(folder / name) != known["sha256"]:
            raise UndoError(f"{folder / name} was changed since it was written")
    return manifest


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UndoError(f"{path} cannot be read: {error.strerror}") from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
