"""Tokens: what an agent logs in with.

A token is `dbs_<environment>_<id>_<secret>`. Only its SCRAM-SHA-256 verifier is kept (RFC 5802, RFC 7677): enough to check a
proof, not enough to make one. Every token of an agent shares the agent's salt and iteration count, because SCRAM sends them
before it is known which token the client holds; with 160 random bits in each, nothing is learnt from a shared salt.

The alphabet is that of RFC 4648 base32 in lower case: plain ASCII that SASLprep leaves alone, that needs no escape in a URL,
and without the underscore that separates the parts.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import timedelta

import scramp

from dbshield.config.names import NAME_PATTERN
from dbshield.errors import ConfigError

PREFIX = "dbs"
SECRET_BYTES = 20
"""160 bits; NIST SP 800-63B takes 112 for a secret beyond guessing."""
ID_BYTES = 10
ID_LENGTH = 12
"""60 bits: ids are public and only have to differ."""
SALT_BYTES = 16
ITERATIONS = 4096
"""RFC 7677's minimum. More only slows logins down: stretching helps guessable passwords, and a token is none."""

_TOKEN = re.compile(rf"{PREFIX}_(?P<environment>{NAME_PATTERN})_(?P<id>[a-z2-7]{{{ID_LENGTH}}})_(?P<secret>[a-z2-7]{{32}})")
_DURATION = re.compile(r"([0-9]{1,6})([mhdw])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token in clear. It exists from its making until it is shown, and is kept nowhere."""

    environment: str
    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """What the agent gives as its password."""
        return f"{PREFIX}_{self.environment}_{self.id}_{self.secret}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """The two keys of RFC 5802 that a server keeps, 32 bytes each."""

    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


def new_token(environment: str) -> Token:
    """A token for one environment, from the operating system's random source."""
    return Token(environment=environment, id=_letters(ID_BYTES)[:ID_LENGTH], secret=_letters(SECRET_BYTES))


def parse_token(text: str) -> Token:
    """The parts of a token. Raises ValueError, which never repeats the text."""
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise ValueError(f"is no token; one looks like {PREFIX}_<environment>_<id>_<secret>")
    return Token(environment=match["environment"], id=match["id"], secret=match["secret"])


def hidden(text: str) -> str:
    """`text` with every token in it cut behind its id, which is public: people put tokens in the wrong place."""
    return _TOKEN.sub(rf"{PREFIX}_\g<environment>_\g<id>_***", text) if f"{PREFIX}_" in text else text


def new_salt() -> bytes:
    return secrets.token_bytes(SALT_BYTES)


def make_verifier(token: Token, *, salt: bytes, iterations: int) -> Verifier:
    """What is kept of a token."""
    _, stored_key, server_key, _ = scramp.ScramMechanism("SCRAM-SHA-256").make_auth_info(token.text, iterations, salt)
    return Verifier(stored_key=stored_key, server_key=server_key)


def matches(token: Token, verifier: Verifier, *, salt: bytes, iterations: int) -> bool:
    """Whether the verifier was made from this token, in a time that does not depend on how near a guess is."""
    made = make_verifier(token, salt=salt, iterations=iterations)
    same_stored = hmac.compare_digest(made.stored_key, verifier.stored_key)
    same_server = hmac.compare_digest(made.server_key, verifier.server_key)
    return same_stored and same_server


def parse_duration(text: str) -> timedelta:
    """`30d`, `12h`, `45m` or `2w`. Raises ConfigError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise ConfigError(f'"{text}" is no length of time', hint="Write a number with m, h, d or w, as in 30d.")
    return int(match[1]) * _UNITS[match[2]]


def _letters(count: int) -> str:
    return base64.b32encode(secrets.token_bytes(count)).decode("ascii").rstrip("=").lower()
