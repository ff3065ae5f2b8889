"""What a token narrows of its agent's rights: checked when it is issued, at every login, and while a session stands.

Law: nothing here adds a right. What cannot be read refuses the token; so does a source whose address is not known.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Final

from dbshield.control.hours import parse_hours
from dbshield.errors import ConfigError, DbshieldError, Refused
from dbshield.model import AccessLevel, AgentLogin, TokenScope

SOCKET: Final = "socket"
"""Stands among the networks for a Unix socket, as for the guard's addresses."""
OUT_OF_SCOPE: Final = "28000"
"""invalid_authorization_specification: the token is right, and not for this."""
ORDER: Final = tuple(AccessLevel)
"""From least to most."""
ANYWHERE: Final = TokenScope()

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def make_scope(
    *, access: AccessLevel | None = None, databases: Iterable[str] = (), networks: Iterable[str] = (), hours: str = ""
) -> TokenScope:
    """A scope in its canonical form. Raises ConfigError where a network or the hours have no proper form."""
    return TokenScope(
        access=access,
        databases=tuple(dict.fromkeys(databases)),
        networks=tuple(dict.fromkeys(canonical_network(text) for text in networks)),
        hours=str(parse_hours(hours)) if hours else "",
    )


def check_within(scope: TokenScope, *, agent: str, access: AccessLevel, databases: Sequence[str]) -> None:
    """Raises Refused where a scope names what the agent does not have: a narrower token is never a wider one."""
    if scope.access is not None and ORDER.index(scope.access) > ORDER.index(access):
        raise Refused(
            f"{agent} has access level {access}, and a token may not have more",
            sqlstate="22023",
            hint=f"Ask for {access} or less, or leave --access away.",
        )
    for database in scope.databases:
        if database not in databases:
            raise Refused(
                f"{agent} has no database {database}", sqlstate="22023", hint=f"It may use: {', '.join(databases) or 'none'}."
            )


def narrowed(login: AgentLogin, scope: TokenScope) -> AgentLogin:
    """The agent as this token makes it: its level and databases are at most the agent's own."""
    access = login.access if scope.access is None else min(login.access, scope.access, key=ORDER.index)
    databases = tuple(name for name in login.databases if not scope.databases or name in scope.databases)
    return replace(login, access=access, databases=databases)


def check_use(scope: TokenScope, *, token_id: str, source: str, database: str, now: datetime) -> None:
    """Raises Refused where a token is used for another database, from elsewhere, or at another time than it is for.

    `source` is the client's address without a port, or SOCKET. Only whoever proved the token is told.
    """
    if scope.databases and database not in scope.databases:
        raise _refused(f"token {token_id} is not for the database {database!a}", f"It is for: {', '.join(scope.databases)}.")
    if scope.networks and not comes_from(source, scope.networks):
        where = "a Unix socket" if source == SOCKET else source
        raise _refused(
            f"token {token_id} may not be used from {where}",
            "Use it where it was issued for, or ask for one that is for this place.",
        )
    check_hours(scope, token_id=token_id, now=now)


def check_hours(scope: TokenScope, *, token_id: str, now: datetime) -> None:
    """Raises Refused outside the token's hours."""
    if not scope.hours:
        return
    try:
        inside = parse_hours(scope.hours).contain(now)
    except DbshieldError as error:
        raise _refused(f"the hours of token {token_id} cannot be read", "Ask for a new one: dbshield token issue.") from error
    if not inside:
        raise _refused(f"token {token_id} does not work at this hour", f"Its hours are {scope.hours}.")


def comes_from(source: str, networks: Sequence[str]) -> bool:
    """Whether an address lies in one of the networks. An address or a network that cannot be read lies in none."""
    if source == SOCKET:
        return SOCKET in networks
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any((network := _network(text)) is not None and address in network for text in networks)


def canonical_network(text: str) -> str:
    """A network as it is kept. Raises ConfigError."""
    if text.strip().lower() == SOCKET:
        return SOCKET
    try:
        return str(_plain(ipaddress.ip_network(text.strip())))
    except ValueError as error:
        raise ConfigError(
            f"{text[:60]!a} is no network: {error}", hint=f'Write it as in 10.0.0.0/8 or fd00::/8, or "{SOCKET}".'
        ) from None


@lru_cache(maxsize=4096)
def _network(text: str) -> Network | None:
    try:
        return _plain(ipaddress.ip_network(text))
    except ValueError:
        return None


def _plain(network: Network) -> Network:
    """An IPv4 network in IPv6's clothes as what it is, since addresses are compared so too."""
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None and network.prefixlen >= 96:
        return ipaddress.IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def _refused(message: str, hint: str) -> Refused:
    return Refused(message, sqlstate=OUT_OF_SCOPE, hint=hint)
