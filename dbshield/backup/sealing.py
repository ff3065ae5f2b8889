"""What a member goes through on its way to the destination: zstandard, then age. Both stream; memory is bounded.

age is a published format with a published review: X25519 wraps a random file key, ChaCha20-Poly1305 in chunks of 64 KiB with
counters and a mark on the last one (STREAM), so that a changed, swapped or missing chunk is noticed before its bytes are given
out, and a cut at the end of a chunk as well. The backup host has public keys only. Anybody has those, so age says nothing about
who wrote a member: that is the manifest's signature.

Source: age-encryption.org/v1; RFC 8878 (zstandard).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import pyrage
import zstandard

from dbshield.backup.damage import Damaged, WrongKey
from dbshield.backup.store import Sink, Source
from dbshield.errors import BackupError, ConfigError
from dbshield.new_file import write_new

CHUNK = 1024 * 1024
IDENTITY_PREFIX = "AGE-SECRET-KEY-1"
SMALL_FILE = 64 * 1024
"""Bytes of a file of identities; a larger one is something else."""
NO_KEY = "No matching keys found"
"""What pyrage says where no identity fits."""

Recipient: TypeAlias = Any
"""A public key, `pyrage.x25519.Recipient`; the package has no types."""
Identity: TypeAlias = Any
"""A private key, `pyrage.x25519.Identity`."""


def recipients(texts: Sequence[str]) -> tuple[Recipient, ...]:
    """The public keys of `encrypt_to`. Raises ConfigError."""
    found = []
    for text in texts:
        try:
            found.append(pyrage.x25519.Recipient.from_str(text))
        except pyrage.RecipientError as error:
            raise ConfigError(
                f'encrypt_to has "{text}", which is no age recipient', hint="`dbshield backup key` makes one."
            ) from error
    return tuple(found)


def identities(path: Path) -> tuple[Identity, ...]:
    """The identities of a file as age-keygen writes it: one a line, # begins a comment. Raises ConfigError without their text."""
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            text = stream.read(SMALL_FILE).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the identity file {path} cannot be read: {error}") from error
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"the identity file {path} is open to others than its owner", hint=f"chmod 600 {path}")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        found = tuple(pyrage.x25519.Identity.from_str(line) for line in lines)
    except pyrage.IdentityError:
        # Without the cause, which could repeat the line.
        raise ConfigError(f"{path} holds something else than age identities", hint=f"Each line is {IDENTITY_PREFIX}…") from None
    if not found:
        raise ConfigError(f"{path} holds no age identity", hint=f"Each line is {IDENTITY_PREFIX}…")
    return found


def new_identity(path: Path) -> str:
    """Make an age identity in a new file that only its owner reads; its recipient. OSError where the file cannot be made."""
    identity = pyrage.x25519.Identity.generate()
    recipient = str(identity.to_public())
    write_new(path, f"# public key: {recipient}\n{identity}\n")
    return recipient


def seal(
    source: Source,
    sink: Sink,
    *,
    to: Sequence[Recipient],
    level: int,
    threads: int = 0,
    passed: Callable[[int], None] | None = None,
) -> int:
    """Compress, and encrypt for the recipients if there are any. The bytes that were read.

    With `threads` so many compress, while this one reads, encrypts and writes: for what is large and comes as one stream.
    `passed` is told of every piece that was read. What source or sink raise comes through as it is.
    """
    counted = _Counted(source, passed)
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, threads=threads)
    packed = compressor.stream_reader(cast(IO[bytes], counted), read_size=CHUNK)
    if not to:
        while data := packed.read(CHUNK):
            sink.write(data)
        return counted.count
    reader, writer = _Kept(source=packed), _Kept(sink=sink)
    try:
        pyrage.encrypt_io(reader, writer, list(to))
    except (pyrage.EncryptError, OSError) as error:
        raise counted.error or reader.error or writer.error or BackupError(f"age could not encrypt: {error}") from error
    return counted.count


def unseal(source: Source, sink: Sink, *, encrypted: bool, keys: Sequence[Identity], expected: int, name: str) -> None:
    """Decrypt and decompress a member. Only when this returns were the bytes in `sink` what was sealed, `expected` of them.

    Raises WrongKey, Damaged, and what source or sink raise.
    """
    bounded = _Bounded(sink, expected, name)
    unpacked = _Kept(sink=zstandard.ZstdDecompressor().stream_writer(cast(IO[bytes], bounded), closefd=False))
    reader = _Kept(source=source)
    try:
        if encrypted:
            pyrage.decrypt_io(reader, unpacked, list(keys))
        else:
            while data := source.read(CHUNK):
                unpacked.write(data)
    except (pyrage.DecryptError, zstandard.ZstdError, OSError) as error:
        cause = reader.error or bounded.error or unpacked.error
        if cause is not None and not isinstance(cause, zstandard.ZstdError):
            raise cause from error
        if NO_KEY in str(error):
            raise WrongKey(f"{name} is sealed for another key", hint="Give the identity of one of its recipients.") from error
        raise Damaged(
            f"{name} cannot be opened: {cause or error}", hint="It was changed or cut short; use another snapshot."
        ) from error
    if bounded.count != expected:
        raise Damaged(f"{name} has {bounded.count} bytes in it, the manifest says {expected}")


class _Counted:
    """A source that is counted, and whose exception is kept: age reports only its text."""

    def __init__(self, source: Source, passed: Callable[[int], None] | None) -> None:
        self._source = source
        self._passed = passed
        self.count = 0
        self.error: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            data = self._source.read(size)
            self.count += len(data)
            if self._passed is not None:
                self._passed(len(data))
        except BaseException as error:
            self.error = error
            raise
        return data


class _Kept:
    """A source or a sink whose exception is kept."""

    def __init__(self, *, source: Source | None = None, sink: Sink | None = None) -> None:
        self._source = source
        self._sink = sink
        self.error: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        assert self._source is not None
        try:
            return self._source.read(size)
        except BaseException as error:
            self.error = error
            raise

    def write(self, data: bytes, /) -> int:
        assert self._sink is not None
        try:
            self._sink.write(data)
        except BaseException as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is kept back."""


class _Bounded:
    """A sink that takes what the manifest promises and no more: a small object can unpack to a very large one."""

    def __init__(self, sink: Sink, limit: int, name: str) -> None:
        self._sink = sink
        self._limit = limit
        self._name = name
        self.count = 0
        self.error: BaseException | None = None

    def write(self, data: bytes, /) -> int:
        self.count += len(data)
        if self.count > self._limit:
            self.error = Damaged(f"{self._name} unpacks to more than the {self._limit} bytes that the manifest says")
            raise self.error
        try:
            self._sink.write(data)
        except BaseException as error:
            self.error = error
            raise
        return len(data)
