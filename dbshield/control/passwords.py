"""Passwords of people, for the console alone: scrypt (RFC 7914), of which only a verifier is kept.

    scrypt$15$8$3$<salt>$<key>      the logarithm of N, r, p; salt and key in base 64

A password is the first of two factors. It is normalised (NFKC), so that the same letters typed on another keyboard are the same
password, and otherwise taken as it is: no rules about its letters, a length alone (NIST SP 800-63B, section 5.1.1.2).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import unicodedata
from typing import Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from dbshield.errors import ConfigError, StoreError

LOG_N, R, P = 15, 8, 3
"""32 MiB and about a quarter of a second: OWASP Password Storage Cheat Sheet."""
LOG_N_MOST: Final = 20
"""Of a stored verifier: 1 GiB. Who may write it may do worse, but no sign-in shall take all memory."""
SALT_BYTES: Final = 16
KEY_BYTES: Final = 32
LEAST: Final = 12
"""Characters."""
MOST: Final = 1024
DISTINCT: Final = 5
"""Characters that are not the same, at least: "aaaaaaaaaaaa" is none."""


def check_password(password: str, person: str) -> str:
    """The password as it is hashed. ConfigError where it is too weak to be one."""
    normal = _normal(password)
    if not LEAST <= len(normal) <= MOST:
        raise ConfigError(f"a password has {LEAST} to {MOST} characters", hint="A few words that nobody else would put together.")
    about_the_name = person.casefold() in normal.casefold().replace(" ", "") and len(normal) < len(person) + LEAST
    if about_the_name or len(set(normal)) < DISTINCT:
        raise ConfigError("this password is easily guessed", hint="A few words that nobody else would put together.")
    return normal


def verifier(password: str) -> str:
    """What is kept of a password that was checked."""
    salt = secrets.token_bytes(SALT_BYTES)
    key = _derive(_normal(password), salt, LOG_N, R, P)
    return "$".join(("scrypt", str(LOG_N), str(R), str(P), _text(salt), _text(key)))


def matches(password: str, stored: str | None) -> bool:
    """Whether it is the password of a verifier; no, after the same work, where there is none. StoreError where it is none."""
    log_n, r, p, salt, key = _read(stored) if stored is not None else (LOG_N, R, P, bytes(SALT_BYTES), bytes(KEY_BYTES))
    same = hmac.compare_digest(_derive(_normal(password[: MOST + 1]), salt, log_n, r, p), key)
    return same and stored is not None


def _normal(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


def _derive(password: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    return Scrypt(salt=salt, length=KEY_BYTES, n=1 << log_n, r=r, p=p).derive(password.encode("utf-8", "surrogatepass"))


def _read(stored: str) -> tuple[int, int, int, bytes, bytes]:
    try:
        scheme, log_n, r, p, salt, key = stored.split("$")
        read = int(log_n), int(r), int(p), base64.b64decode(salt, validate=True), base64.b64decode(key, validate=True)
    except (ValueError, binascii.Error):
        scheme, read = "", (0, 0, 0, b"", b"")
    if scheme != "scrypt" or not 10 <= read[0] <= LOG_N_MOST or not read[1] * read[2] <= 64 or len(read[4]) != KEY_BYTES:
        raise StoreError("the stored password has a form that this dbshield does not know", hint="`dbshield user password NAME`")
    return read


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
