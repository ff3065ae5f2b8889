"""Which of the found credentials lead to a protected environment around the proxy. Pure: names are compared, nothing is asked."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, unique

from dbshield.scan.found import Found, Power, Target

DEFAULT_PORT = 5432

Resolve = Callable[[str], frozenset[str]]
"""The addresses of a host name; empty where they are not known or not asked for."""


@unique
class Way(StrEnum):
    """How a credential meets a protected environment, the worst first."""

    AROUND = "around the proxy"
    MAYBE = "maybe"
    """The text leaves open where it leads, or it opens the provider below the database."""
    PROXY = "through the proxy"
    ELSEWHERE = "elsewhere"


WAYS = tuple(Way)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protected:
    """One environment as a credential would reach it: its server, the role in `upstream`, and that role's password if known."""

    environment: str
    host: str
    port: int
    databases: tuple[str, ...]
    user: str
    password: str | None = field(default=None, repr=False)


def unresolved(_: str) -> frozenset[str]:
    """Looks nothing up: that takes time, and tells others what is looked for."""
    return frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What credentials are compared with. `proxies` are the addresses where dbshield itself listens."""

    environments: Sequence[Protected] = ()
    proxies: Sequence[tuple[str, int]] = ()
    resolve: Resolve = unresolved


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where one credential leads, to which environment, and why that is thought, in a few words."""

    way: Way
    environment: str = ""
    why: str = ""


def reach(found: Found, around: Surroundings) -> Reach:
    """The worst that is true of the credential."""
    if found.power is Power.PROXY:
        return Reach(way=Way.PROXY, why="a token of dbshield")
    if found.power is Power.INFRASTRUCTURE:
        return Reach(way=Way.MAYBE, why="a provider's token may delete servers and backups; no proxy sees it")
    if found.power is Power.OTHER:
        return Reach(way=Way.ELSEWHERE)
    reaches = [_reach(found, environment, around) for environment in around.environments]
    return min(reaches, key=lambda one: WAYS.index(one.way), default=Reach(way=Way.ELSEWHERE))


def _reach(found: Found, protected: Protected, around: Surroundings) -> Reach:
    name = protected.environment
    if protected.password is not None and hmac.compare_digest(found.secret.encode(), protected.password.encode()):
        return Reach(way=Way.AROUND, environment=name, why="the password of the environment's own role")
    target = found.target or Target()
    ways = [_address(host, port, target.database, protected, around) for host, port in target.addresses]
    if not target.hosts:
        # Without a host the name of the role or the database is all there is to go by.
        fits = target.user == protected.user or target.database in protected.databases
        ways = [Reach(way=Way.MAYBE, environment=name, why="no host, but its role or database")] if fits else []
    return min(ways, key=lambda one: WAYS.index(one.way), default=Reach(way=Way.ELSEWHERE))


def _address(host: str, port: int | None, database: str, protected: Protected, around: Surroundings) -> Reach:
    name = protected.environment
    if host == "*":
        fits = port in {None, protected.port} and database in {"", *protected.databases}
        return Reach(way=Way.AROUND, environment=name, why="for any host") if fits else Reach(way=Way.ELSEWHERE)
    number = port if port is not None else DEFAULT_PORT
    if any(number == proxy_port and same_host(host, proxy, around.resolve) for proxy, proxy_port in around.proxies):
        return Reach(way=Way.PROXY, environment=name, why="the proxy's address")
    if not same_host(host, protected.host, around.resolve):
        return Reach(way=Way.ELSEWHERE)
    if number != protected.port:
        return Reach(way=Way.MAYBE, environment=name, why="the environment's host, another port")
    where = "its server and database" if database in protected.databases else "its server"
    return Reach(way=Way.AROUND, environment=name, why=where)


def same_host(one: str, other: str, resolve: Resolve) -> bool:
    """Whether two names of hosts are known to be one machine."""
    first, second = canonical(one), canonical(other)
    return first == second or not resolve(first).isdisjoint(resolve(second))


def canonical(host: str) -> str:
    """One spelling for each host; the machine itself, by socket or loopback, is `localhost`."""
    name = host.strip("[]").lower().rstrip(".")
    if name in {"", "localhost", "localhost.localdomain"} or name.startswith(("/", "@")):
        return "localhost"
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return "localhost" if address.is_loopback or address.is_unspecified else str(address)
