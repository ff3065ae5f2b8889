"""Looking at a base backup's tar while it streams past: that it is whole, and the two small files in it that say what it is.

Only headers are read; what lies between them is skipped, so it costs nothing beside compression. Nothing is written to a disk.

Source: POSIX.1-2008, pax, "ustar Interchange Format"; src/port/tar.c of PostgreSQL (sizes beyond 8 GB are base-256).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dbshield.backup.store import Source
from dbshield.errors import BackupError

BLOCK = 512
LABEL = "backup_label"
MANIFEST = "backup_manifest"
KEPT = (LABEL, MANIFEST)
NAME, SIZE, CHECKSUM, PREFIX = slice(0, 100), slice(124, 136), slice(148, 156), slice(345, 500)
KEPT_MAX = 1 << 30
"""Bytes of a file that is kept in memory; a manifest has some 150 for each file of the database."""


class Tarball:
    """A source that hands on a tar as it comes. `files` holds the content of `kept` once they have gone by.

    At its end `ended` is called, which raises where the program that writes the tar has failed; then the tar has to be whole.
    """

    def __init__(self, source: Source, ended: Callable[[], None], *, kept: Sequence[str] = KEPT) -> None:
        self._source = source
        self._ended = ended
        self._kept = kept
        self._header = bytearray()
        self._name = ""
        self._left = 0
        self._padding = 0
        self._over = False
        self.files: dict[str, bytearray] = {}

    def read(self, size: int = -1, /) -> bytes:
        """Raises BackupError where the tar is cut short, or is none."""
        data = self._source.read(size)
        if data:
            self._look(data)
        elif size:
            self._ended()
            if not self._over or any(name not in self.files for name in self._kept):
                raise BackupError("the base backup ended in the middle", hint="Look at the server's log, and make another one.")
        return data

    def _look(self, data: bytes) -> None:
        """Go through a piece; it may begin and end anywhere."""
        view = memoryview(data)
        place = 0
        while place < len(view) and not self._over:
            if self._left:
                taken = min(self._left, len(view) - place)
                if self._name in self.files:
                    self.files[self._name] += view[place : place + taken]
                self._left -= taken
            elif self._padding:
                taken = min(self._padding, len(view) - place)
                self._padding -= taken
            else:
                taken = min(BLOCK - len(self._header), len(view) - place)
                self._header += view[place : place + taken]
                if len(self._header) == BLOCK:
                    self._begin(bytes(self._header))
                    self._header.clear()
            place += taken

    def _begin(self, header: bytes) -> None:
        if not any(header):
            self._over = True
            return
        if sum(header[:148]) + sum(header[156:]) + 8 * 32 != _number(header[CHECKSUM]):
            raise BackupError("the base backup is no tar", hint="Look at which pg_basebackup runs.")
        parts = (header[PREFIX], header[NAME])
        self._name = "/".join(text for part in parts if (text := part.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")))
        self._left = _number(header[SIZE])
        self._padding = -self._left % BLOCK
        if self._name in self._kept:
            if self._left > KEPT_MAX or self._name in self.files:
                raise BackupError(f"the {self._name} of the base backup is none", hint="Look at which pg_basebackup runs.")
            self.files[self._name] = bytearray()


def _number(field: bytes) -> int:
    """Octal digits, or base-256 where the first bit is set. Raises BackupError."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    try:
        return int(digits or b"0", 8)
    except ValueError as error:
        raise BackupError("the base backup is no tar", hint="Look at which pg_basebackup runs.") from error
