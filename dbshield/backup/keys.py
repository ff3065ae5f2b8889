"""The key that signs manifests and drills: Ed25519, in a file of the backup host; its public half stands in the control database.

Encryption cannot say who wrote a snapshot, since anybody has a recipient's public key. The signature can: who may write at the
destination can lose a snapshot, and cannot put another in its place.

Source: RFC 8032. The signed text begins with what it is, so that a signature never counts for something else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dbshield.backup.damage import Damaged
from dbshield.errors import BackupError, ConfigError
from dbshield.new_file import write_new

KEY_BYTES = 32
_PREFIX = "dbshield-backup-key-1"
PUBLIC_PREFIX = "dbshield-backup-public-1"
PURPOSE_MANIFEST = b"dbshield snapshot manifest 1\n"
PURPOSE_DRILL = b"dbshield drill 1\n"
FILE_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature of 64 bytes, and the name of the key that made it."""

    key: str
    value: bytes


def key_name(public: bytes) -> str:
    """The name of a key: the first 16 hexadecimal digits of the public half's SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


class SigningKey:
    """The private half."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()
        self.name = key_name(self.public)

    @classmethod
    def create(cls, path: Path) -> SigningKey:
        """A new key in a new file that only its owner reads. FileExistsError where there is one: a key is never replaced."""
        key = Ed25519PrivateKey.generate()
        write_new(path, f"{_PREFIX}:{base64.b64encode(key.private_bytes_raw()).decode('ascii')}\n")
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """The key of a file. BackupError where it is not there, no key, or readable for others."""
        try:
            with path.open("rb") as stream:
                mode = os.fstat(stream.fileno()).st_mode
                text = stream.read(FILE_BYTES).decode("ascii").strip()
        except FileNotFoundError as error:
            raise BackupError(f"the signing key {path} is not there", hint="`dbshield backup key` makes one.") from error
        except (OSError, UnicodeDecodeError) as error:
            raise BackupError(f"the signing key {path} cannot be read: {error}") from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise BackupError(f"the signing key {path} is open to others than its owner", hint=f"chmod 600 {path}")
        return cls(Ed25519PrivateKey.from_private_bytes(_decoded(text, _PREFIX, path)))

    def sign(self, purpose: bytes, text: bytes) -> Signature:
        return Signature(key=self.name, value=self._key.sign(purpose + text))

    @property
    def public_text(self) -> str:
        """The public half as `--public-key` takes it and people keep it."""
        return f"{PUBLIC_PREFIX}:{base64.b64encode(self.public).decode('ascii')}"


def public_key(text: str) -> bytes:
    """The public half from its text. Raises ConfigError."""
    try:
        return _decoded(text.strip(), PUBLIC_PREFIX, None)
    except BackupError as error:
        raise ConfigError("that is no public key of dbshield's backups", hint=f"It begins with {PUBLIC_PREFIX}:") from error


def check(signature: Signature, purpose: bytes, text: bytes, trusted: Mapping[str, bytes], *, what: str) -> None:
    """Raises Damaged unless one of the trusted public keys (by name) signed the text for this purpose."""
    public = trusted.get(signature.key)
    if public is None:
        raise Damaged(
            f"{what} is signed by the key {signature.key}, which is not known here",
            hint="Name its public key, or look at who else writes at the destination.",
        )
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature.value, purpose + text)
    except InvalidSignature as error:
        raise Damaged(
            f"{what} is not what was signed", hint="It was changed at the destination; use another snapshot."
        ) from error


def _decoded(text: str, expected: str, path: Path | None) -> bytes:
    prefix, _, encoded = text.partition(":")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        key = b""
    if prefix != expected or len(key) != KEY_BYTES:
        raise BackupError(f"{path or 'the text'} does not hold a key of dbshield's backups")
    return key
