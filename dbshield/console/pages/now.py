"""What happens now: how everything stands, what is held, and every statement with its verdict as it comes."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dbshield.console.feed import Feed
from dbshield.console.frame import Page, allowed, parts_of, person_of, render, rendered
from dbshield.console.health import Glance
from dbshield.console.live import LOOK
from dbshield.console.sessions import live_of, still_valid
from dbshield.control.approval import State
from dbshield.control.approvals import Approvals
from dbshield.control.freezes import Freezes
from dbshield.control.people import People
from dbshield.control.person_roles import Role
from dbshield.errors import ConfigError, DbshieldError

HELD_SHOWN: Final = 5
LASTING: Final = {"": "until somebody thaws it", "1": "1 hour", "4": "4 hours", "24": "1 day", "168": "1 week"}
"""Hours that a freeze may last, and what is said of them."""


@allowed(Role.VIEWER)
async def show(request: Request) -> Response:
    paused = request.query_params.get("feed") == "paused"
    context = {**await _glance(request), "lines": await _feed(request).lines(), "paused": paused}
    return await render(request, "now.html", context)


@allowed(Role.VIEWER)
async def stream(request: Request) -> Response:
    paused = request.query_params.get("feed") == "paused"

    counted: list[int] = []

    async def glance() -> str:
        context = await _glance(request)
        counted[:] = [context["waiting"]]
        return rendered(request, "now_glance.html", context)

    async def said() -> str:
        # As many as the glance before it saw.
        return rendered(request, "waiting_said.html", {"waiting_count": counted[0]}) if counted else ""

    async def feed() -> str:
        return rendered(request, "now_feed.html", {"lines": await _feed(request).lines()})

    looks = {"glance": glance, "said": said} if paused else {"glance": glance, "said": said, "feed": feed}
    return await live_of(request).follow(request, looks, valid=still_valid(request), every=LOOK)


@allowed(Role.ADMIN)
async def ask_freeze(request: Request) -> Response:
    return await _freeze_form(request)


@allowed(Role.ADMIN)
async def freeze(request: Request) -> Response:
    form = await request.form()
    parts, person = parts_of(request), person_of(request)
    assert person is not None
    now = parts.clock()
    lasting = str(form.get("lasting", ""))
    try:
        if lasting not in LASTING:
            raise ConfigError("a freeze lasts one of the times that are offered", hint="Choose one of them.")
        work = partial(
            Freezes(parts.database, parts.config.environments).freeze,
            request.path_params["environment"],
            reason=str(form.get("reason", "")),
            by=person.name,
            now=now,
            until=now + timedelta(hours=int(lasting)) if lasting else None,
            within=_within(request, str(form.get("code", ""))),
        )
        await run_in_threadpool(work)
    except DbshieldError as error:
        return await _freeze_form(request, problem=error, reason=str(form.get("reason", "")), lasting=lasting)
    return RedirectResponse("/", 303)


@allowed(Role.ADMIN)
async def thaw(request: Request) -> Response:
    form = await request.form()
    parts, person = parts_of(request), person_of(request)
    assert person is not None
    work = partial(
        Freezes(parts.database, parts.config.environments).thaw,
        request.path_params["environment"],
        by=person.name,
        now=parts.clock(),
        within=_within(request, str(form.get("code", ""))),
    )
    try:
        await run_in_threadpool(work)
    except DbshieldError as error:
        return await _freeze_form(request, problem=error)
    return RedirectResponse("/", 303)


def _within(request: Request, code: str) -> Any:
    """A transaction in which the code of an admin is taken first."""
    parts, person = parts_of(request), person_of(request)
    assert person is not None
    people = People(parts.database, parts.vault)
    return partial(people.confirmed, person.name, code, now=parts.clock(), role=Role.ADMIN)


async def _freeze_form(
    request: Request, *, problem: DbshieldError | None = None, reason: str = "", lasting: str = ""
) -> Response:
    parts = parts_of(request)
    name = request.path_params["environment"]
    if name not in parts.config.environments:
        raise ConfigError(f'the environment "{name}" is not configured', hint="The first page lists those that are.")
    freezes = await run_in_threadpool(Freezes(parts.database, parts.config.environments).in_force, parts.clock())
    context = {
        "environment": name,
        "freezes": freezes.get(name, ()),
        "configured": parts.config.environments[name].is_frozen(parts.clock()),
        "offers": LASTING,
        "problem": problem,
        "reason": reason,
        "lasting": lasting,
    }
    return await render(request, "freeze.html", context, status=200 if problem is None else 409)


async def _glance(request: Request) -> dict[str, Any]:
    parts = parts_of(request)
    if not hasattr(request.app.state, "glance"):
        request.app.state.glance = Glance()
    now = parts.clock()
    approvals = Approvals(parts.database)
    waiting = await run_in_threadpool(approvals.count, now=now, states=(State.WAITING,))
    held = await run_in_threadpool(approvals.list_, now=now, states=(State.WAITING,), limit=HELD_SHOWN) if waiting else []
    return {"health": await request.app.state.glance.look(parts), "held": held, "waiting": waiting}


def _feed(request: Request) -> Feed:
    if not hasattr(request.app.state, "feed"):
        request.app.state.feed = Feed(parts_of(request).database)
    found: Feed = request.app.state.feed
    return found


PAGE = Page(
    title="Now",
    path="/",
    routes=[
        Route("/", show),
        Route("/stream", stream),
        Route("/environments/{environment}/freeze", ask_freeze),
        Route("/environments/{environment}/freeze", freeze, methods=["POST"]),
        Route("/environments/{environment}/thaw", thaw, methods=["POST"]),
    ],
)
