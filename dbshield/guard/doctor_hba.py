"""Who may reach the server around the proxy, read from the rules of pg_hba.conf in the order in which the server reads them.

The first rule that matches a connection decides. Patterns (`/regex`) and names of groups that are not known count as a match:
a hole that is not there is looked at once, one that is overlooked is found by somebody else.

Source: PostgreSQL manual, "The pg_hba.conf File" and "pg_hba_file_rules".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import LiteralString

from dbshield.guard.doctor import Finding, Severity

QUERY: LiteralString = """
    select line_number, coalesce(type, ''), coalesce(database, '{}'), coalesce(user_name, '{}'), coalesce(address, ''),
           coalesce(netmask, ''), coalesce(auth_method, ''), coalesce(error, '')
    from pg_hba_file_rules order by line_number
"""
ONE_ADDRESS = frozenset({"samehost"})
EVERY_ADDRESS = "all"
NO_PASSWORD = frozenset({"trust", "ident"})
"""From another machine: ident asks that machine who its user is, and whoever has the machine answers."""

TRUST = Finding(
    check="access.trust",
    severity=Severity.CRITICAL,
    environment="",
    what="pg_hba.conf lets other machines in without a password",
    why="Whoever reaches the port is whoever they say, a superuser too.",
    mends=("in pg_hba.conf write scram-sha-256 for trust and ident; then select pg_reload_conf()",),
)
AROUND = Finding(
    check="access.around-the-proxy",
    severity=Severity.WARNING,
    environment="",
    what="agents' roles may log in from other machines than the proxy's",
    why="With a password that was found somewhere they reach the database without the proxy; the guard alone is left.",
    mends=(
        "in pg_hba.conf, before that line: host all +dbshield_agents PROXY_ADDRESS/32 scram-sha-256, "
        "and then: host all +dbshield_agents all reject",
    ),
)
CLEAR = Finding(
    check="access.clear-text",
    severity=Severity.WARNING,
    environment="",
    what="pg_hba.conf lets other machines in without TLS",
    why="Whoever sits between reads along.",
    mends=("in pg_hba.conf write hostssl for host, and hostnossl with reject",),
)
LOCAL_TRUST = Finding(
    check="access.local-trust",
    severity=Severity.WARNING,
    environment="",
    what="pg_hba.conf lets everybody on the server's machine in without a password",
    why="An agent, or anything else that runs there, is whoever it says, a superuser too.",
    mends=("in pg_hba.conf write peer (local) or scram-sha-256 (host) for trust; then select pg_reload_conf()",),
)
UNREADABLE = Finding(
    check="access.unreadable-rule",
    severity=Severity.WARNING,
    environment="",
    what="pg_hba.conf has lines that the server cannot read",
    why="The server keeps the rules of its last good file, and does not start with this one.",
    mends=("mend the lines, then select pg_reload_conf()",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HbaRule:
    """One line of pg_hba.conf; `error` is set where the server could not read it."""

    line: int
    type: str
    databases: Sequence[str]
    users: Sequence[str]
    address: str
    netmask: str
    method: str
    error: str = ""

    @property
    def local(self) -> bool:
        """Whether nobody on another machine is let in by it."""
        if self.type == "local" or self.address in ONE_ADDRESS:
            return True
        network = self.network
        return network is not None and network.is_loopback

    @property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
        """None for a name, `samenet`, or all addresses."""
        try:
            return ipaddress.ip_network(f"{self.address}/{_prefix(self.netmask)}", strict=False)
        except ValueError:
            return None

    @property
    def wide(self) -> bool:
        """Whether more than one machine matches."""
        network = self.network
        if network is not None:
            return network.num_addresses > 1
        return self.address in {EVERY_ADDRESS, "samenet"} or self.address.startswith(".")

    def __str__(self) -> str:
        address = f" {self.address}" + (f"/{_prefix(self.netmask)}" if self.netmask else "") if self.address else ""
        return f"line {self.line}: {self.type} {','.join(self.databases)} {','.join(self.users)}{address} {self.method}"

    def matches(self, role: str, groups: frozenset[str], databases: Sequence[str]) -> bool:
        """Whether a login of the role to one of the databases is decided here."""
        user = any(
            name in {"all", role} or name.startswith("/") or (name.startswith("+") and name[1:] in groups | {role})
            for name in self.users
        )
        return user and any(
            name in {"all", "sameuser", "samerole", "samegroup", *databases} or name[:1] in "/@" for name in self.databases
        )


def hba_findings(
    rules: Sequence[HbaRule], *, agents: Mapping[str, frozenset[str]], databases: Sequence[str], environment: str
) -> list[Finding]:
    """What the rules leave open. `agents` has the groups of each agent's role."""
    around = sorted(
        {(rule.line, str(rule), role) for role, groups in agents.items() for rule in _doors(rules, role, groups, databases)}
    )
    wording = (
        (TRUST, [str(rule) for rule in rules if rule.method in NO_PASSWORD and not rule.local]),
        (AROUND, [f"{role}: {text}" for _, text, role in around]),
        (CLEAR, [str(rule) for rule in rules if _in_clear(rule)]),
        (LOCAL_TRUST, [str(rule) for rule in rules if rule.method == "trust" and rule.local]),
        (UNREADABLE, [f"line {rule.line}: {rule.error}" for rule in rules if rule.error]),
    )
    return [replace(found, environment=environment, subjects=tuple(subjects)) for found, subjects in wording if subjects]


def _doors(rules: Sequence[HbaRule], role: str, groups: frozenset[str], databases: Sequence[str]) -> Iterator[HbaRule]:
    """The rules that let the role in from more than one other machine, and that no earlier rule closes."""
    closed: set[str] = set()
    for rule in rules:
        if rule.error or rule.type in {"local", ""} or not rule.matches(role, groups, databases):
            continue
        if {"host4", "host6"} <= closed:
            return
        if rule.method == "reject":
            if rule.type == "host" and "all" in rule.databases and not _is_pattern(rule, role, groups):
                closed |= _families(rule)
        elif rule.wide and not rule.local and not _families(rule, partly=True) <= closed:
            yield rule


def _is_pattern(rule: HbaRule, role: str, groups: frozenset[str]) -> bool:
    """Whether it is only a pattern that makes the rule match: then it is not known to reject this role."""
    return not any(name in {"all", role} or (name[:1] == "+" and name[1:] in groups | {role}) for name in rule.users)


def _families(rule: HbaRule, *, partly: bool = False) -> set[str]:
    """The families of addresses that the rule covers whole, or `partly`."""
    if rule.address == EVERY_ADDRESS:
        return {"host4", "host6"}
    network = rule.network
    if network is None:
        return {"host4", "host6"} if partly else set()
    return {f"host{network.version}"} if partly or network.prefixlen == 0 else set()


def _in_clear(rule: HbaRule) -> bool:
    if rule.local or rule.method == "reject" or rule.error or not rule.type:
        return False
    return rule.type in {"host", "hostnossl"}


def _prefix(netmask: str) -> str:
    """The length of a netmask; nothing of an empty one means a single address."""
    if not netmask:
        return "invalid"
    return str(bin(int(ipaddress.ip_address(netmask))).count("1"))
