"""Passwords that dbshield must be able to use again, sealed with a key that the control database never sees.

The proxy logs in to the protected server with an agent's role, so a verifier will not do: SCRAM needs the password itself. It is
sealed with AES-256-GCM, and the identity of its row is authenticated with it, so that a sealed password copied to another row
does not open there.

The key may be exchanged (`dbshield.control.key_rotation`): seals of old keys open for as long as those stand in the file.

Sealed form: one byte of version (1), four bytes that name the key, a nonce of 12 bytes, the ciphertext with its tag of 16 bytes.
Source: NIST SP 800-38D (nonces of 96 bits; random ones are safe far beyond the number of passwords that a team has).
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dbshield.control import key_file
from dbshield.control.key_file import KEY_BYTES, NAME_BYTES, KeyRing, key_name
from dbshield.errors import StoreError

NONCE_BYTES = 12
VERSION = b"\x01"
_HEAD = len(VERSION) + NAME_BYTES


def password_identity(agent: UUID) -> str:
    """What an agent's role password is sealed for."""
    return f"agents/{agent}/password"


class Vault:
    """Seals with one key, and opens with every key of its file."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        self._take(KeyRing(current=key))
        self._path: Path | None = None
        self._seen: tuple[int, int, int] | None = None

    @classmethod
    def create(cls, path: Path) -> Vault:
        """A new key in a new file that only its owner reads. FileExistsError where there is one: a key is never replaced by
        chance."""
        key_file.create(path)
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> Vault:
        """The keys of a file. StoreError where it is not there, holds no key, or is readable for others."""
        # Before it is read: of a file that is exchanged in between it is known that it is another.
        seen = _state(path)
        made = cls.of(key_file.read(path))
        made._path, made._seen = path, seen
        return made

    @classmethod
    def of(cls, ring: KeyRing) -> Vault:
        """These keys, of which no file is looked at again."""
        made = cls(ring.current)
        made._take(ring)
        return made

    def _take(self, ring: KeyRing) -> None:
        # In one step, since threads share a vault.
        self._keys = (ring, {key_name(key): AESGCM(key) for key in ring.every})

    @property
    def name(self) -> bytes:
        """What seals of now name their key by."""
        return key_name(self._keys[0].current)

    def derived(self, purpose: str) -> tuple[bytes, ...]:
        """`derive` by the key in use and by each old one, in this order: for what they signed."""
        ring = self._keys[0]
        return tuple(_derive(key, purpose) for key in (ring.current, *ring.older))

    def derive(self, purpose: str) -> bytes:
        """32 bytes that only who has the key can make, the same on every machine that has it."""
        return _derive(self._keys[0].current, purpose)

    def seal(self, secret: str, *, identity: str) -> bytes:
        """The secret, sealed for the row of this identity."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        ring, ciphers = self._keys
        name = key_name(ring.current)
        return VERSION + name + nonce + ciphers[name].encrypt(nonce, secret.encode(), identity.encode())

    def unseal(self, sealed: bytes, *, identity: str) -> str:
        """The secret. StoreError where it was sealed with another key, for another row, or was changed since."""
        if sealed[: len(VERSION)] != VERSION or len(sealed) < _HEAD + NONCE_BYTES:
            raise StoreError(f"the sealed password of {identity} has a form that this dbshield does not know")
        cipher = self._cipher(sealed[len(VERSION) : _HEAD])
        if cipher is None:
            raise StoreError(
                f"the password of {identity} was sealed with another key",
                hint="Copy the key file of the machine that created it.",
            )
        nonce, ciphertext = sealed[_HEAD : _HEAD + NONCE_BYTES], sealed[_HEAD + NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, ciphertext, identity.encode()).decode()
        except InvalidTag as error:
            raise StoreError(f"the sealed password of {identity} was changed, or belongs to another agent") from error

    def _cipher(self, name: bytes) -> AESGCM | None:
        """The key of this name. One that is not known may stand in the file by now: it is read again, once each time it is
        another."""
        found = self._keys[1].get(name)
        if found is None and self._path is not None and (seen := _state(self._path)) != self._seen:
            self._seen = seen
            self._take(key_file.read(self._path))
            found = self._keys[1].get(name)
        return found


def sealed_by(sealed: bytes) -> bytes:
    """The name of the key that a seal was made with."""
    return sealed[len(VERSION) : _HEAD]


def _derive(key: bytes, purpose: str) -> bytes:
    return hmac.digest(key, f"dbshield {purpose}".encode(), "sha256")


def _state(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from the one that had its name before."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
