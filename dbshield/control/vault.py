"""Passwords that dbshield must be able to use again, sealed with a key that the control database never sees.

The proxy logs in to the protected server with an agent's role, so a verifier will not do: SCRAM needs the password itself. It is
sealed with AES-256-GCM, and the identity of its row is authenticated with it, so that a sealed password copied to another row
does not open there.

Sealed form: one byte of version (1), four bytes that name the key, a nonce of 12 bytes, the ciphertext with its tag of 16 bytes.
Source: NIST SP 800-38D (nonces of 96 bits; random ones are safe far beyond the number of passwords that a team has).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dbshield.errors import StoreError

KEY_BYTES = 32
NONCE_BYTES = 12
KEY_NAME_BYTES = 4
VERSION = b"\x01"
_HEAD = len(VERSION) + KEY_NAME_BYTES
_PREFIX = "dbshield-secret-key-1"


def password_identity(agent: UUID) -> str:
    """What an agent's role password is sealed for."""
    return f"agents/{agent}/password"


class Vault:
    """Seals and opens passwords with one key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        self._key = key
        self._cipher = AESGCM(key)
        self._name = hashlib.sha256(b"dbshield key name" + key).digest()[:KEY_NAME_BYTES]

    @classmethod
    def create(cls, path: Path) -> Vault:
        """A new key in a new file that only its owner reads. FileExistsError where there is one: a key is never replaced."""
        key = secrets.token_bytes(KEY_BYTES)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(f"{_PREFIX}:{base64.b64encode(key).decode('ascii')}\n")
            stream.flush()
            os.fsync(stream.fileno())
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> Vault:
        """The key of a file. StoreError where it is not there, not a key, or readable for others."""
        try:
            with path.open("rb") as stream:
                mode = os.fstat(stream.fileno()).st_mode
                text = stream.read(256).decode("ascii").strip()
        except FileNotFoundError as error:
            raise StoreError(
                f"the key file {path} is not there", hint="`dbshield init` makes one; other machines need a copy of it."
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"the key file {path} cannot be read: {error}") from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise StoreError(f"the key file {path} is open to others than its owner", hint=f"chmod 600 {path}")
        prefix, _, encoded = text.partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            key = b""
        if prefix != _PREFIX or len(key) != KEY_BYTES:
            raise StoreError(f"{path} does not hold a key of dbshield")
        return cls(key)

    def derive(self, purpose: str) -> bytes:
        """32 bytes that only who has the key can make, the same on every machine that has it."""
        return hmac.digest(self._key, f"dbshield {purpose}".encode(), "sha256")

    def seal(self, secret: str, *, identity: str) -> bytes:
        """The secret, sealed for the row of this identity."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return VERSION + self._name + nonce + self._cipher.encrypt(nonce, secret.encode(), identity.encode())

    def unseal(self, sealed: bytes, *, identity: str) -> str:
        """The secret. StoreError where it was sealed with another key, for another row, or was changed since."""
        if sealed[: len(VERSION)] != VERSION or len(sealed) < _HEAD + NONCE_BYTES:
            raise StoreError(f"the sealed password of {identity} has a form that this dbshield does not know")
        if sealed[len(VERSION) : _HEAD] != self._name:
            raise StoreError(
                f"the password of {identity} was sealed with another key",
                hint="Copy the key file of the machine that created it.",
            )
        nonce, ciphertext = sealed[_HEAD : _HEAD + NONCE_BYTES], sealed[_HEAD + NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, ciphertext, identity.encode()).decode()
        except InvalidTag as error:
            raise StoreError(f"the sealed password of {identity} was changed, or belongs to another agent") from error
