"""What the doctor says and how it comes to it: checks, findings, and their order. Nothing here connects anywhere.

Laws:
- A check that could not be asked is a finding of its own, `not looked`: silence always means that somebody looked.
- A check is a query whose every row is something wrong, with the command that mends it. Names are quoted by the server.
- Nothing that is read can be a password: what compares them gives only the answer.

Source: PostgreSQL manual, "System Catalogs", "System Views", and "Predefined Roles".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import LiteralString

from dbshield.model import AccessLevel

AGENTS_ROLE = "dbshield_agents"
"""The group that the guard knows agents by."""


@unique
class Severity(StrEnum):
    """How much is at stake, the worst first."""

    CRITICAL = "critical"
    """Data can be lost by what an agent can do today."""
    WARNING = "warning"
    """One defence less than there could be."""
    NOT_LOOKED = "not looked"
    """Whoever looked was not let."""
    NOTE = "note"


ORDER = tuple(Severity)


@unique
class Scope(StrEnum):
    """How often a check is asked: once a cluster, or in each database that agents may enter."""

    CLUSTER = "cluster"
    DATABASE = "database"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question. `query` gives rows of (what is concerned, the command that mends it); its parameters are those of `Agents`.

    `since` is the server's major version that knows what is asked. `guarded` is the severity where the guard is installed, for
    what the guard stops as well.
    """

    name: str
    severity: Severity
    what: str
    why: str
    query: LiteralString
    scope: Scope = Scope.CLUSTER
    since: int = 0
    guarded: Severity | None = None

    def finding(self, rows: Sequence[tuple[str, str]], *, environment: str, database: str = "", guard: bool = False) -> Finding:
        return Finding(
            check=self.name,
            severity=self.guarded if guard and self.guarded is not None else self.severity,
            environment=environment,
            database=database,
            what=self.what,
            why=self.why,
            subjects=tuple(subject for subject, _ in rows),
            mends=tuple(mend for _, mend in rows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or that could not be looked at. `mends` has a command for each of `subjects`, or one for all."""

    check: str
    severity: Severity
    environment: str
    what: str
    why: str
    database: str = ""
    subjects: tuple[str, ...] = ()
    mends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Agents:
    """The database roles that agents log in with, and the least that each is trusted with.

    A role that several agents share counts as a reader or a writer only while none of them may do more.
    """

    access: dict[str, AccessLevel | None]
    """None for a role that the database calls an agent's and the control database does not know."""

    @property
    def roles(self) -> list[str]:
        return sorted(self.access)

    def parameters(self) -> dict[str, list[str]]:
        """What the queries of the checks may name."""
        return {
            "agents": self.roles,
            "readers": sorted(role for role, access in self.access.items() if access is AccessLevel.READ),
            "not_migrators": sorted(role for role, access in self.access.items() if access is not AccessLevel.MIGRATE),
        }


def agents_of(logins: Iterable[tuple[str, AccessLevel]], members: Iterable[str]) -> Agents:
    """Roles of the control database with their access, and the members of the guard's group."""
    levels = list(AccessLevel)
    access: dict[str, AccessLevel | None] = dict.fromkeys(members)
    for role, level in logins:
        known = access.get(role)
        access[role] = level if known is None else max(known, level, key=levels.index)
    return Agents(access=access)


def not_looked(check: str, environment: str, what: str, *, mend: str, database: str = "") -> Finding:
    """A finding about what nobody could look at."""
    return Finding(
        check=check,
        severity=Severity.NOT_LOOKED,
        environment=environment,
        database=database,
        what=what,
        why="What is not seen may be wrong.",
        mends=(mend,),
    )


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first; of the same severity in the order in which the checks stand."""
    return sorted(findings, key=lambda finding: ORDER.index(finding.severity))
