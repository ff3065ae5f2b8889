"""Reads the files that an agent could read: hidden ones, ignored ones, and what links point at.

What is not read is named with the reason. A folder or file is read once, however many ways lead to it, so that links that form
a circle end. History that git has packed is not unpacked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dbshield.errors import ConfigError

FILE_MAX_BYTES = 10 << 20
"""Larger files are data, not configuration; reading one takes seconds."""
LOOKED_AT = 8192
"""Bytes at a file's beginning in which a NUL means that it is no text, as git and grep decide it."""
BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A file that was read."""

    path: Path
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A file or folder that was not read, and why."""

    path: Path
    reason: str


def walk(paths: Iterable[Path]) -> Iterator[Text | Skipped]:
    """Every file below the paths, in order. Raises ConfigError where one of the paths is not there."""
    seen: set[tuple[int, int]] = set()
    for path in paths:
        if not os.path.lexists(path):
            raise ConfigError(f"{path} is not there", hint="Name files and folders to look through.")
        yield from _walk(path, seen)


def _walk(path: Path, seen: set[tuple[int, int]]) -> Iterator[Text | Skipped]:
    waiting = [path]
    while waiting:
        current = waiting.pop()
        try:
            status = current.stat()
        except OSError as error:
            yield Skipped(path=current, reason=_reason(error))
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        if stat.S_ISDIR(status.st_mode):
            try:
                waiting += sorted((Path(entry.path) for entry in os.scandir(current)), reverse=True)
            except OSError as error:
                yield Skipped(path=current, reason=_reason(error))
        elif not stat.S_ISREG(status.st_mode):
            yield Skipped(path=current, reason="no regular file")
        else:
            yield _read(current)


def _read(path: Path) -> Text | Skipped:
    try:
        # Whatever took the file's place meanwhile, opening it waits for nobody.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return Skipped(path=path, reason="no regular file")
            data = stream.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        return Skipped(path=path, reason=_reason(error))
    if len(data) > FILE_MAX_BYTES:
        return Skipped(path=path, reason=f"larger than {FILE_MAX_BYTES >> 20} MB")
    encoding = next((name for bom, name in BOMS.items() if data.startswith(bom)), "utf-8")
    if encoding != "utf-16" and b"\0" in data[:LOOKED_AT]:
        return Skipped(path=path, reason="binary")
    # What is not UTF-8 stays as it is: the signs of a credential are ASCII.
    return Text(path=path, text=data.decode(encoding, "surrogateescape" if encoding == "utf-8" else "replace"))


def _reason(error: OSError) -> str:
    return (error.strerror or "cannot be read").lower()
