"""The file of the keys that seal stored secrets: the one in use, perhaps the next one, and old ones that open still.

One line a key: a word that says what it is for, a colon, 32 bytes in base64. A file of one key is what `dbshield init` makes. It
is never written in place: another file is written beside it and takes its name, so that whoever reads it reads all of one or of
the other.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dbshield.errors import StoreError
from dbshield.new_file import write_new

KEY_BYTES: Final = 32
NAME_BYTES: Final = 4
CURRENT: Final = "dbshield-secret-key-1"
NEXT: Final = f"{CURRENT}-next"
OLD: Final = f"{CURRENT}-old"
LONGEST: Final = 4096
"""Bytes of a file: some fifty keys."""


def key_name(key: bytes) -> bytes:
    """What a seal names its key by; it tells nothing of the key."""
    return hashlib.sha256(b"dbshield key name" + key).digest()[:NAME_BYTES]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRing:
    """The keys of a file. `current` seals and signs; `following` opens already, and is to take its place; `older` open still."""

    current: bytes = field(repr=False)
    following: bytes | None = field(default=None, repr=False)
    older: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def every(self) -> tuple[bytes, ...]:
        """All that open, the current one first."""
        return (self.current, *((self.following,) if self.following is not None else ()), *self.older)

    def prepared(self) -> KeyRing:
        """With a next key whose name is like no other's."""
        names = {key_name(key) for key in self.every}
        while key_name(key := secrets.token_bytes(KEY_BYTES)) in names:
            pass
        return KeyRing(current=self.current, following=key, older=self.older)

    def switched(self) -> KeyRing:
        """With the next key in use, and the one before among the old."""
        assert self.following is not None
        return KeyRing(current=self.following, older=(self.current, *self.older))

    def retired(self) -> KeyRing:
        """Without the old ones."""
        return KeyRing(current=self.current, following=self.following)

    def text(self) -> str:
        lines = [(CURRENT, self.current)]
        lines += [(NEXT, self.following)] if self.following is not None else []
        lines += [(OLD, key) for key in self.older]
        return "".join(f"{word}:{base64.b64encode(key).decode('ascii')}\n" for word, key in lines)


def read(path: Path) -> KeyRing:
    """The keys of a file. StoreError where it is not there, holds no key, or is readable for others."""
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            text = stream.read(LONGEST + 1).decode("ascii")
    except FileNotFoundError as error:
        raise StoreError(
            f"the key file {path} is not there", hint="`dbshield init` makes one; other machines need a copy of it."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"the key file {path} cannot be read: {error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StoreError(f"the key file {path} is open to others than its owner", hint=f"chmod 600 {path}")
    ring = _parse(text)
    if ring is None:
        raise StoreError(f"{path} does not hold a key of dbshield")
    return ring


def _parse(text: str) -> KeyRing | None:
    found: dict[str, list[bytes]] = {CURRENT: [], NEXT: [], OLD: []}
    for line in text.split():
        word, _, encoded = line.partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            return None
        if word not in found or len(key) != KEY_BYTES:
            return None
        found[word].append(key)
    if len(text) > LONGEST or len(found[CURRENT]) != 1 or len(found[NEXT]) > 1:
        return None
    return KeyRing(current=found[CURRENT][0], following=next(iter(found[NEXT]), None), older=tuple(found[OLD]))


def create(path: Path) -> KeyRing:
    """A new key in a new file that only its owner reads. FileExistsError where there is one: a key is not replaced by chance."""
    ring = KeyRing(current=secrets.token_bytes(KEY_BYTES))
    write_new(path, ring.text())
    return ring


def staged(path: Path, ring: KeyRing) -> Path:
    """The file beside `path` that `replace` gives its name to. StoreError where it cannot be written."""
    beside = path.with_name(f"{path.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            # Of one that was killed.
            beside.unlink()
        write_new(beside, ring.text())
        owner = path.stat()
        if os.geteuid() == 0:
            os.chown(beside, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise StoreError(
            f"the key file {path} cannot be written: {error.strerror or error}",
            hint="Do it on a machine, and as an account, that may write into its folder.",
        ) from error
    return beside


def replace(path: Path, beside: Path) -> None:
    """From now on it is the file. OSError where it cannot be."""
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
