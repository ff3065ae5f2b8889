"""Object stores: Amazon S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage, by obstore.

A large object is a multi-part upload, which is there only when it was completed; one that an error ends is aborted. Those that
SIGKILL leaves behind are no objects, and cost money until the bucket's own rule removes them (docs/how-to/backups.md).
A multi-part upload cannot ask that its name be free, so a snapshot first claims its prefix with a small object that can
(`put_new`), and only who has the claim writes below it.

Source: obstore's reference; S3 user guide, "How to prevent object overwrites with conditional writes".
"""

from __future__ import annotations

import io
import ipaddress
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import ObjectStore, from_url

from dbshield.backup.damage import Absent, Taken
from dbshield.backup.store import Sink, Source, Stored
from dbshield.config import BackupConfig
from dbshield.errors import BackupError, ConfigError

PART_BYTES = 8 * 1024 * 1024
"""Of a multi-part upload, and of one request while reading. S3 wants at least 5 MiB and at most 10,000 parts."""
PARTS_EXPECTED = 5_000
"""Parts that an object of the expected size is cut into, so that one twice as large still fits."""
PARTS_AT_ONCE = 4
REQUEST_TIMEOUT = "120s"
RETRIES: dict[str, Any] = {"max_retries": 6}
SMALL_FILE = 64 * 1024
"""Bytes of a file of credentials; a larger one is something else."""


class Objects:
    """A bucket with a prefix as a store."""

    def __init__(self, store: ObjectStore, place: str) -> None:
        self._store = store
        self._place = place

    @classmethod
    def of(cls, plan: BackupConfig) -> Objects:
        """The store of a plan. Raises ConfigError where credentials or endpoint are not usable."""
        return cls(cls.opened(plan), plan.destination)

    @staticmethod
    def opened(plan: BackupConfig) -> ObjectStore:
        """The bucket of a plan. Raises ConfigError."""
        settings: dict[str, Any] = dict(credentials(plan.credentials_file)) if plan.credentials_file else {}
        options: dict[str, Any] = {"timeout": REQUEST_TIMEOUT}
        if plan.endpoint:
            options |= _endpoint(plan.endpoint)
            settings["endpoint"] = plan.endpoint
        if plan.region:
            settings["region"] = plan.region
        try:
            store: ObjectStore = from_url(plan.destination, config=settings, client_options=options, retry_config=RETRIES)  # type: ignore[call-overload]
        except (BaseError, ValueError, TypeError) as error:
            raise ConfigError(
                f"the store {plan.destination} cannot be used: {_first_line(error)}",
                hint="Look at destination, region, endpoint and credentials_file.",
            ) from error
        return store

    @property
    def place(self) -> str:
        return self._place

    @contextmanager
    def create(self, key: str, *, expected: int = 0) -> Iterator[Sink]:
        if self._there(key):
            raise self._taken(key)
        part = max(PART_BYTES, expected // PARTS_EXPECTED)
        with self.told(key):
            writer = obstore.open_writer(self._store, key, buffer_size=part, max_concurrency=PARTS_AT_ONCE)
        try:
            yield _Writer(self, writer, key)
        except BaseException:
            # With an exception at hand it aborts the upload.
            writer.__exit__(*sys.exc_info())
            raise
        with self.told(key):
            writer.close()

    def put_new(self, key: str, data: bytes) -> None:
        try:
            with self.told(key):
                obstore.put(self._store, key, data, mode="create")
        except Taken:
            # A repeated request after a lost answer meets what it wrote itself.
            with self.open(key) as found:
                if found.read() != data:
                    raise

    @contextmanager
    def open(self, key: str, *, start: int = 0) -> Iterator[Source]:
        with self.told(key):
            size = int(obstore.head(self._store, key)["size"])
        yield ObjectReader(self, key, size, start)

    def list(self, prefix: str) -> Iterator[Stored]:
        with self.told(prefix):
            for batch in obstore.list(self._store, prefix=prefix or None):
                for found in batch:
                    yield Stored(key=found["path"], size=found["size"], modified=found["last_modified"])

    def delete(self, key: str) -> None:
        try:
            with self.told(key):
                obstore.delete(self._store, key)
        except Absent:
            pass

    def range(self, key: str, start: int, length: int, version: str = "") -> bytes:
        """A piece of an object, or of one version of it."""
        with self.told(key):
            if not version:
                return bytes(obstore.get_range(self._store, key, start=start, length=length))
            return bytes(obstore.get(self._store, key, options={"version": version, "range": (start, start + length)}).bytes())

    def _there(self, key: str) -> bool:
        try:
            with self.told(key):
                obstore.head(self._store, key)
        except Absent:
            return False
        return True

    def _taken(self, key: str) -> Taken:
        return Taken(f"{self._place}/{key} is there already", hint="Nothing is written over; look at who else writes there.")

    @contextmanager
    def told(self, key: str) -> Iterator[None]:
        """What the store says, in a line without its request."""
        try:
            yield
        except FileNotFoundError as error:
            raise Absent(f"{self._place}/{key} is not there", hint="`dbshield backup list` shows what there is.") from error
        except (AlreadyExistsError, PreconditionError) as error:
            raise self._taken(key) from error
        except (BaseError, OSError) as error:
            raise BackupError(
                f"{self._place}/{key}: {_first_line(error)}",
                hint="Look at the store, its credentials, and what they may do there.",
            ) from error


class _Writer:
    def __init__(self, objects: Objects, writer: Any, key: str) -> None:
        self._objects = objects
        self._writer = writer
        self._key = key

    def write(self, data: bytes, /) -> int:
        with self._objects.told(self._key):
            self._writer.write(data)
        return len(data)


class ObjectReader(io.RawIOBase):
    """An object in pieces: each request is short, so a connection that breaks costs one piece."""

    def __init__(self, objects: Objects, key: str, size: int, start: int, version: str = "") -> None:
        self._objects = objects
        self._key = key
        self._version = version
        self._size = size
        self._asked = start
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._piece and self._asked < self._size:
            length = min(PART_BYTES, self._size - self._asked)
            self._piece = memoryview(self._objects.range(self._key, self._asked, length, self._version))
            self._asked += length
        given = min(len(buffer), len(self._piece))
        buffer[:given] = self._piece[:given]
        self._piece = self._piece[given:]
        return given


def credentials(path: Path) -> Mapping[str, str]:
    """The NAME=value lines of a file that only its owner reads. Raises ConfigError, which repeats no value."""
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            text = stream.read(SMALL_FILE).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"credentials_file {path} cannot be read: {error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"credentials_file {path} is open to others than its owner", hint=f"chmod 600 {path}")
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ConfigError(f"credentials_file {path}: line {number} is no NAME=value")
        found[name.strip().lower()] = value.strip()
    return found


def _endpoint(text: str) -> dict[str, Any]:
    """The client's options for an endpoint. Without TLS whoever sits between could take the place of the store."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise ConfigError("endpoint is no URL of a store", hint="Write https://host:port, without credentials.")
    if parts.scheme == "https":
        return {}
    try:
        local = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ConfigError("endpoint is http:// and not on this machine", hint="Use https://.")
    return {"allow_http": True}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
