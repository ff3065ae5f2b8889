"""The console as one ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from dbshield.console.frame import FOLDER, Parts, parts_in, render
from dbshield.console.live import Live
from dbshield.console.pages import PAGES
from dbshield.console.pages.rules import ROUTES as RULES
from dbshield.console.security import Gate
from dbshield.console.sessions import SignedIn
from dbshield.console.sign_in import ROUTES
from dbshield.control.second_factor import UNDEFINED_OBJECT
from dbshield.errors import DbshieldError, Refused, StoreError


def build(parts: Parts) -> Starlette:
    """The application for these parts."""

    def origins() -> Mapping[str, str]:
        # As the configuration is when they are asked for: a reload may have come.
        return parts_in(app).config.console.origins

    app = Starlette(
        routes=[
            *ROUTES,
            *RULES,
            *(route for page in PAGES for route in page.routes),
            Mount("/static", StaticFiles(directory=FOLDER / "static")),
        ],
        middleware=[
            Middleware(Gate, origins=origins),
            Middleware(SignedIn),
        ],
        lifespan=_lifespan,
        exception_handlers={DbshieldError: _failed, HTTPException: _not_there, Exception: _bug},
    )
    app.state.parts = parts
    app.state.pages = PAGES
    app.state.live = Live(parts.dsn)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    live: Live = app.state.live
    hearing = asyncio.create_task(live.run())
    try:
        yield
    finally:
        live.end()
        hearing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await hearing


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, DbshieldError)
    if isinstance(error, Refused):
        status = 404 if error.sqlstate == UNDEFINED_OBJECT else 409
    else:
        status = 503 if isinstance(error, StoreError) else 400
    return await render(request, "error.html", {"message": error.message, "hint": error.hint}, status=status)


async def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = "There is no such page." if error.status_code == 404 else f"{error.detail}."
    return await render(request, "error.html", {"message": message, "hint": ""}, status=error.status_code)


async def _bug(request: Request, error: Exception) -> Response:
    context = {"message": f"This is a bug in dbshield: {type(error).__name__}.", "hint": "The log of the console shows where."}
    return await render(request, "error.html", context, status=500)
