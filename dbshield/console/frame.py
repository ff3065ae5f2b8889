"""What every page shares: who looks at it, how it is made, and who may see it.

Statements, names and reasons come from agents and are never markup: the templates escape whatever they are given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, wraps
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute

from dbshield.config import Config
from dbshield.console.security import csrf_token
from dbshield.control.person_roles import Role
from dbshield.control.vault import Vault
from dbshield.store.database import Database
from dbshield.visible import visible as one_line
from dbshield.visible import visible_lines

FOLDER: Final = Path(__file__).parent
SIGN_IN: Final = "/sign-in"

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What pages work with. `database` is synchronous: it is asked by `starlette.concurrency.run_in_threadpool`. `dsn` is where
    it is, for what listens by itself; `clock` says what time it is, with a zone."""

    config: Config
    database: Database
    dsn: str = field(repr=False)
    vault: Vault = field(repr=False)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who looks at a page."""

    name: str
    role: Role

    def may(self, role: Role | str) -> bool:
        """Whether they have this role, or a higher one."""
        return self.role >= Role(role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page in the navigation, with all its routes."""

    title: str
    path: str
    routes: Sequence[BaseRoute]


def parts_in(app: Starlette) -> Parts:
    """Those of an application, with the configuration as it is now."""
    found = app.state.parts
    assert isinstance(found, Parts)
    return found


def parts_of(request: Request) -> Parts:
    return parts_in(request.app)


def person_of(request: Request) -> Person | None:
    """Who is signed in; nobody where nobody is."""
    found = getattr(request.state, "person", None)
    return found if isinstance(found, Person) else None


async def render(request: Request, template: str, context: Mapping[str, Any] | None = None, *, status: int = 200) -> Response:
    """A template as a page."""
    return HTMLResponse(rendered(request, template, context), status)


def rendered(request: Request, template: str, context: Mapping[str, Any] | None = None) -> str:
    """The text of a template: a page, or a part that is exchanged within one."""
    parts = parts_of(request)
    made = _templates().get_template(template)
    given = {
        "person": person_of(request),
        "pages": request.app.state.pages,
        "path": request.url.path,
        "csrf_token": csrf_token(request.state.cookie) if request.state.cookie else "",
        "now": parts.clock(),
        **(context or {}),
    }
    return made.render(given)


def allowed(role: Role) -> Callable[[Handler], Handler]:
    """For people with this role or a higher one. Others are told so; who is not signed in is asked to."""

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        async def guarded(request: Request) -> Response:
            person = person_of(request)
            if person is None:
                return await signed_out(request)
            if not person.may(role):
                context = {
                    "message": f"This is for people with the role {role}; {person.name} is {person.role}.",
                    "hint": "`dbshield user role NAME ROLE` changes it.",
                }
                return await render(request, "error.html", context, status=403)
            return await handler(request)

        return guarded

    return decorate


async def signed_out(request: Request) -> Response:
    """The way to the sign-in, and back from there."""
    if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "GET":
        # A link in a chat: the browser keeps a strict cookie back, and sends it when the page itself asks again.
        return await render(request, "again.html")
    if "text/event-stream" in request.headers.get("accept", ""):
        # Any other answer would have the browser ask again and again.
        return Response(status_code=204)
    where = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    target = SIGN_IN if where == "/" or request.method != "GET" else f"{SIGN_IN}?next={quote(where, safe='')}"
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"HX-Redirect": target})
    return RedirectResponse(target, 303)


@cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"prose": prose, "when": when, "iso": iso, "ago": ago, "visible": visible, "in_short": in_short}
    made.globals |= {"static": static, "Role": Role}
    return made


@cache
def static(name: str) -> str:
    """The address of a file, with what is in it: a browser keeps it for ever, and sees at once when it is another."""
    digest = hashlib.sha256((FOLDER / "static" / name).read_bytes()).hexdigest()[:16]
    return f"/static/{name}?v={digest}"


def visible(text: object) -> str:
    """A text as it is, with everything spelled out that hides or turns the direction of writing."""
    return "\n".join(visible_lines(str(text)))


def in_short(text: str, most: int) -> str:
    """The beginning of a statement on one line, in so many characters; that it goes on is said, and how far."""
    line = one_line(" ".join(text.split()))
    if len(line) <= most:
        return line
    return f"{line[:most].rstrip()} … and {len(line) - most:,} more characters"


def prose(text: str) -> Markup:
    """Words of our own in which code stands between backticks."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )


def when(moment: datetime | None) -> str:
    """2026-05-01 12:00:00, in UTC as everywhere on the console."""
    return "–" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def ago(moment: datetime, now: datetime) -> str:
    """How far it is from now, either way: "3 min ago", "in 2 h". Not to the second, so that a page that follows what happens
    is not another one at each look."""
    seconds = int((now - moment).total_seconds())
    length = abs(seconds)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if length >= size:
            text = f"{length // size} {unit}"
            break
    else:
        text = "less than 1 min"
    return f"{text} ago" if seconds >= 0 else f"in {text}"
