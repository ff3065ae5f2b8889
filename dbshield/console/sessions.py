"""Says of each request who is signed in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from dbshield.console.frame import Parts, Person, parts_of, render
from dbshield.console.live import Live
from dbshield.console.security import STATIC
from dbshield.control.people import People
from dbshield.control.signing_in import SigningIn
from dbshield.errors import DbshieldError


def signing_in(parts: Parts) -> SigningIn:
    """Sign-ins as the configuration has them."""
    console = parts.config.console
    return SigningIn(
        parts.database,
        People(parts.database, parts.vault),
        idle=timedelta(minutes=console.idle_minutes),
        lasting=timedelta(hours=console.session_hours),
    )


def live_of(request: Request) -> Live:
    found = request.app.state.live
    assert isinstance(found, Live)
    return found


def still_valid(request: Request) -> Callable[[], Awaitable[bool]]:
    """Whether the session of a request still is one. To ask is nobody's click."""
    cookie = request.state.cookie

    async def valid() -> bool:
        return await _find(parts_of(request), cookie, active=False) is not None

    return valid


class SignedIn:
    """ASGI middleware behind the gate: `scope["state"]["person"]` is a Person, or nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(STATIC):
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope["state"]
        state["person"] = None
        request = Request(scope)
        # A page that follows what happens by itself is nobody's click.
        active = "text/event-stream" not in request.headers.get("accept", "")
        try:
            state["person"] = await _find(parts_of(request), state["cookie"], active=active)
        except DbshieldError as error:
            answer = await render(request, "error.html", {"message": error.message, "hint": error.hint}, status=503)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


async def _find(parts: Parts, cookie: str, *, active: bool) -> Person | None:
    if not cookie:
        return None
    found = await run_in_threadpool(signing_in(parts).find, cookie, now=parts.clock(), active=active)
    return Person(name=found.person, role=found.role) if found is not None else None
