"""What environments must not share. An agent that is let into staging must not meet production there.

The incident began with a task on staging. A system identifier is made once, by initdb: two environments with the same one are
one cluster, or one is a copy of the other's files.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

from dbshield.guard.doctor import Finding, Severity
from dbshield.model import Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One environment as it is configured, and what its server said of itself where it was reached.

    `recorded` is the system identifier that was kept when the environment was first seen. `roles` are those that agents use.
    """

    environment: str
    server: Upstream
    databases: Sequence[str]
    system_identifier: int | None = None
    recorded: int | None = None
    roles: frozenset[str] = frozenset()
    password: str | None = field(default=None, repr=False)


def identity_findings(environments: Sequence[Identity]) -> list[Finding]:
    """What is shared between environments, and servers that are others than they were."""
    found = [_changed(one) for one in environments if _moved(one)]
    for one, other in combinations(environments, 2):
        found += _shared(one, other)
    return found


def recorded_findings(
    configured: str, database: str, *, environment: str, system_identifier: str, is_now: str | None
) -> list[Finding]:
    """What the guard in a database wrote down when it was installed, against the configuration and the server of today."""
    found = []
    if environment != configured:
        found.append(
            Finding(
                check="environments.recorded-name",
                severity=Severity.CRITICAL,
                environment=configured,
                database=database,
                what="the guard in this database was installed for another environment",
                why="The configuration leads one environment's agents to another one's data.",
                subjects=(environment,),
                mends=(f"correct upstream of [environments.{configured}]",),
            )
        )
    if is_now is not None and system_identifier != is_now:
        found.append(
            Finding(
                check="environments.recorded-identity",
                severity=Severity.CRITICAL,
                environment=configured,
                database=database,
                what="the guard in this database was installed in another cluster",
                why="This is a copy, or the address leads somewhere else now.",
                subjects=(f"was {system_identifier}, is {is_now}",),
                mends=(f"look at upstream; where the copy is meant: dbshield guard install --environment {configured}",),
            )
        )
    return found


def _moved(one: Identity) -> bool:
    return one.recorded is not None and one.system_identifier is not None and one.recorded != one.system_identifier


def _changed(one: Identity) -> Finding:
    return Finding(
        check="environments.changed-identity",
        severity=Severity.CRITICAL,
        environment=one.environment,
        what="the server is not the cluster that it was when this environment was set up",
        why="The address leads somewhere else now: to another environment, a copy, or a cluster that was made anew.",
        subjects=(f"was {one.recorded}, is {one.system_identifier}",),
        mends=(f"look at upstream of [environments.{one.environment}]",),
    )


def _shared(one: Identity, other: Identity) -> list[Finding]:
    pair = f"{one.environment} and {other.environment}"
    same_address = (one.server.host.lower(), one.server.port) == (other.server.host.lower(), other.server.port)
    same_cluster = one.system_identifier is not None and one.system_identifier == other.system_identifier
    databases = sorted(set(one.databases) & set(other.databases))
    roles = sorted((one.roles | {one.server.user}) & (other.roles | {other.server.user}))
    found = []
    if same_address or same_cluster:
        found.append(
            Finding(
                check="environments.same-cluster",
                severity=Severity.CRITICAL,
                environment=pair,
                what="two environments are on one server" if same_address else "two environments have one system identifier",
                why="What a role, a setting or a full disk does to one it does to the other; or one is a copy of the other.",
                subjects=(f"{one.server.host}:{one.server.port}" if same_address else str(one.system_identifier),),
                mends=(f"move {other.environment} to a cluster of its own, made by initdb",),
            )
        )
    if databases and (same_address or same_cluster):
        found.append(
            Finding(
                check="environments.same-database",
                severity=Severity.CRITICAL,
                environment=pair,
                what="two environments lead to the same database",
                why="An agent of one writes the other's data.",
                subjects=tuple(databases),
                mends=(f"correct upstream and databases of [environments.{other.environment}]",),
            )
        )
    if _equal(one.password, other.password):
        found.append(
            Finding(
                check="environments.same-password",
                severity=Severity.CRITICAL,
                environment=pair,
                what="two environments are entered with the same password",
                why="Whoever finds one of them has both.",
                subjects=(f"{one.server.user}, {other.server.user}",),
                mends=(rf"\password {other.server.user} in psql on {other.environment}",),
            )
        )
    if roles:
        found.append(
            Finding(
                check="environments.same-role",
                severity=Severity.WARNING,
                environment=pair,
                what="two environments have roles of the same name",
                why="A password that fits one is tried on the other first; with names of their own a mix-up fails at login.",
                subjects=tuple(roles),
                mends=(f"give {other.environment} roles of its own",),
            )
        )
    return found


def _equal(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and hmac.compare_digest(one.encode(), other.encode())
