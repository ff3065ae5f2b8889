"""What is wrong with a snapshot, told apart: not there, not what was written, or not for this key."""

from __future__ import annotations

from dbshield.errors import BackupError


class Absent(BackupError):
    """An object is not at the destination."""


class Damaged(BackupError):
    """An object is there and is not what the signed manifest says: too short, too long, changed, or signed by nobody known."""


class WrongKey(BackupError):
    """None of the given identities opens what was sealed."""


class Taken(BackupError):
    """An object of this name is there already; nothing is ever written over."""
