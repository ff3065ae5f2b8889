"""Secrets that the configuration points at. They are read when they are used, so that a rotated file is seen at once."""

from __future__ import annotations

import os
from pathlib import Path

from dbshield.errors import ConfigError


def read_secret(key: str, *, file: Path | None, variable: str) -> str | None:
    """The secret that `key` (as in "[control] password") points at; nothing where neither a file nor a variable is named.

    One newline at the end belongs to the file, not to the secret. Raises ConfigError where what is named is not there.
    """
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(f"{key}: the file {file} cannot be read: {reason}") from error
        text = text.removesuffix("\n").removesuffix("\r")
        if not text:
            raise ConfigError(f"{key}: the file {file} is empty", hint="Write the password into it, on one line.")
        return text
    if variable:
        value = os.environ.get(variable)
        if not value:
            raise ConfigError(f"{key}: the environment variable {variable} is not set", hint="Set it, or name a file instead.")
        return value
    return None
