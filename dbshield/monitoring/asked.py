"""By which name the endpoint is asked.

A browser that stands near it, on the same machine or behind the same firewall, can be led here by a page of somebody else's: its
name is made to point at this address (DNS rebinding), and the page may read the answer, which has the names of agents and
environments. Such a request carries that name as its Host. An address is nobody's to point elsewhere, so whoever asks by one is
answered, as are `localhost`, and a load balancer that sends no Host at all; a name has to be one that the configuration knows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

NOT_OURS: Final = (
    "This is not a name of this endpoint: ask by its address, or put the name into [metrics] names of dbshield.toml.\n"
)


class AskedByName:
    """ASGI middleware that refuses (421) requests for names that are not among `names`, which are in lower case."""

    def __init__(self, app: ASGIApp, *, names: Sequence[str]) -> None:
        self._app = app
        self._names = frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_ours(Headers(scope=scope).getlist("host"), self._names):
            await PlainTextResponse(NOT_OURS, 421)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def is_ours(hosts: Sequence[str], names: frozenset[str]) -> bool:
    """Whether the Host headers of a request are none, an address, `localhost`, or one of these names; with a port or without."""
    if not hosts or list(hosts) == [""]:
        return True
    if len(hosts) > 1:
        return False
    try:
        host = urlsplit(f"//{hosts[0]}").hostname or ""
    except ValueError:
        return False
    if host == "localhost" or host.rstrip(".") in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
