"""Writes a file that is not there yet, whole or not at all: keys, identities, the configuration.

A key of no bytes, which a full disk leaves, would be taken for the key that is to be kept.
"""

from __future__ import annotations

import os
from pathlib import Path

OWNER_ONLY = 0o600


def write_new(path: Path, text: str, *, mode: int = OWNER_ONLY) -> None:
    """Make the file with this text, in UTF-8 and durable. FileExistsError where there is one; OSError where it cannot be made or
    written, and then nothing is left of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
