"""Signing in and out."""

from __future__ import annotations

import secrets
from functools import partial
from typing import Final

import anyio
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dbshield.console.frame import SIGN_IN, parts_of, person_of, render
from dbshield.console.security import cookie_name
from dbshield.console.sessions import signing_in
from dbshield.control.signing_in import TOKEN_BYTES, TOO_MANY
from dbshield.errors import Refused

AT_ONCE: Final = 2
"""Passwords that are tried at the same time: each takes 32 MiB and a quarter of a second of one processor."""


async def show(request: Request) -> Response:
    target = _target(request.query_params.get("next", ""))
    if person_of(request) is not None:
        return RedirectResponse(target, 303)
    fresh = "" if request.state.cookie else secrets.token_urlsafe(TOKEN_BYTES)
    if fresh:
        # A form needs a cookie that its token is made of, also before there is a session.
        request.state.cookie = fresh
    answer = await _form(request, target=target, said="Sign in to go on." if target != "/" else "")
    if fresh:
        _set_cookie(request, answer, fresh, form=True)
    return answer


async def sign_in(request: Request) -> Response:
    form = await request.form()
    name, password, code, target = (str(form.get(field, "")) for field in ("name", "password", "code", "next"))
    parts = parts_of(request)
    source = request.client.host if request.client is not None else "unknown"
    work = partial(signing_in(parts).sign_in, name.strip().lower(), password, code, source=source, now=parts.clock())
    try:
        token = await to_thread.run_sync(work, limiter=_limiter(request))
    except Refused as error:
        status = 429 if error.sqlstate == TOO_MANY else 403
        return await _form(request, target=_target(target), name=name[:63], problem=error, status=status)
    answer = RedirectResponse(_target(target), 303)
    _set_cookie(request, answer, token)
    return answer


async def sign_out(request: Request) -> Response:
    parts = parts_of(request)
    await to_thread.run_sync(partial(signing_in(parts).sign_out, request.state.cookie, now=parts.clock()))
    answer = RedirectResponse(SIGN_IN, 303)
    secure = _secure(request)
    answer.delete_cookie(cookie_name(secure=secure), path="/", secure=secure, httponly=True, samesite="strict")
    # What the browser still has of the pages goes too.
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    return answer


ROUTES = [
    Route(SIGN_IN, show),
    Route(SIGN_IN, sign_in, methods=["POST"]),
    Route("/sign-out", sign_out, methods=["POST"]),
]


async def _form(
    request: Request, *, target: str, name: str = "", said: str = "", problem: Refused | None = None, status: int = 200
) -> Response:
    context = {
        "next": target,
        "name": name,
        "said": said,
        "problem_text": f"{problem.message[:1].upper()}{problem.message[1:]}." if problem else "",
        "problem_hint": problem.hint if problem else "",
    }
    return await render(request, "sign_in.html", context, status=status)


def _target(given: str) -> str:
    """A page of the console, whatever was given: a link of somebody else's must not lead away from here."""
    plain = given.isascii() and given.isprintable() and "\\" not in given
    return given if plain and given.startswith("/") and not given.startswith("//") else "/"


def _secure(request: Request) -> bool:
    return str(request.state.origin).startswith("https:")


def _set_cookie(request: Request, answer: Response, token: str, *, form: bool = False) -> None:
    secure = _secure(request)
    answer.set_cookie(cookie_name(secure=secure, form=form), token, path="/", secure=secure, httponly=True, samesite="strict")


def _limiter(request: Request) -> anyio.CapacityLimiter:
    found = getattr(request.app.state, "password_limiter", None)
    if found is None:
        found = request.app.state.password_limiter = anyio.CapacityLimiter(AT_ONCE)
    assert isinstance(found, anyio.CapacityLimiter)
    return found
