"""What the scan finds. A secret is kept only to be compared and tried; it is in no `repr`, and nothing prints it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum, unique
from functools import lru_cache

FINGERPRINT_ROUNDS = 50_000
"""Of PBKDF2: a fingerprint is shown in logs of builds, and a short password must not be guessed from it in bulk."""
FINGERPRINT_DIGITS = 8


@unique
class Power(StrEnum):
    """What a credential opens."""

    DATABASE = "database"
    PROXY = "proxy"
    """A token of dbshield itself: it goes through the proxy by its nature."""
    INFRASTRUCTURE = "infrastructure"
    """A provider's token that may delete servers, volumes or backups: no proxy and no guard sees that call."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a database credential leads, as far as the text says. A `port` of None is the default or not known; `*` is any."""

    hosts: tuple[str, ...] = ()
    ports: tuple[int | None, ...] = ()
    database: str = ""
    user: str = ""

    @property
    def addresses(self) -> tuple[tuple[str, int | None], ...]:
        """libpq's rule: one port for all hosts, or a port for each."""
        if len(self.ports) == len(self.hosts):
            return tuple(zip(self.hosts, self.ports, strict=True))
        port = self.ports[0] if self.ports else None
        return tuple((host, port) for host in self.hosts)

    def __str__(self) -> str:
        places = ",".join(f"{host}:{port}" if port is not None else host for host, port in self.addresses) or "?"
        return (f"{self.user}@" if self.user else "") + places + (f"/{self.database}" if self.database else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One credential. `line` counts from 1. `certain` is false where it is told only if it belongs to an environment: a bare
    `password:` may be anybody's."""

    line: int
    what: str
    power: Power
    secret: str = field(repr=False)
    target: Target | None = None
    certain: bool = True

    @property
    def fingerprint(self) -> str:
        """The same for the same secret, in every file and run; no secret is told from it."""
        return fingerprint(self.secret)


@lru_cache(maxsize=4096)
def fingerprint(secret: str) -> str:
    return hashlib.pbkdf2_hmac("sha256", secret.encode("utf-8", "surrogatepass"), b"dbshield scan", FINGERPRINT_ROUNDS).hex()[
        :FINGERPRINT_DIGITS
    ]


_PLACEHOLDER = re.compile(
    r"""\$\(?\w*\)?$ | \$\{[^}:]*\}$ | \$\{\{.*\}\}$ | \{\{.*\}\}$ | \{[^}]*\}$ | <[^>]*>$ | \[[^\]]*\]$ | %\(\w+\)s$ | %s$
      | [*•.xX]{3,}$ | …+$ | %[A-Z_]+%$ | :\w+$""",
    re.VERBOSE,
)
_DEFAULT = re.compile(r"\$\{\w+:?-(.+)\}$")


def literal(value: str) -> str:
    """The secret that stands in a value; empty where there is only the name of one (`${PASSWORD}`, `<password>`, `****`).

    A default, as in `${PASSWORD:-secret}`, is a secret that stands there.
    """
    if default := _DEFAULT.match(value):
        return literal(default[1])
    return "" if _PLACEHOLDER.match(value) else value
