"""Agents and their tokens: who may do what, who is frozen, what was used last; freezing, thawing and revoking for admins."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dbshield.config import Config
from dbshield.console.confirming import confirmed_by
from dbshield.console.frame import Page, Parts, Person, allowed, parts_of, person_of, render
from dbshield.control.agents import Agents
from dbshield.control.agents_seen import agents_seen
from dbshield.control.freezes import REASON_MAX, Freezes
from dbshield.control.issuing import TokenInfo
from dbshield.control.person_roles import Role
from dbshield.errors import ConfigError, DbshieldError, Refused
from dbshield.store.frozen import Freeze

TOKENS_SHOWN: Final = 100
LENGTHS: Final = {"": None, "1h": timedelta(hours=1), "8h": timedelta(hours=8), "1d": timedelta(days=1), "7d": timedelta(days=7)}
LENGTH_WORDS: Final = {
    "": "until somebody thaws it",
    "1h": "for one hour",
    "8h": "for eight hours",
    "1d": "for a day",
    "7d": "for a week",
}
DONE: Final = {
    "frozen": "It is frozen: it may read, and writes nothing.",
    "thawed": "It is thawed.",
    "revoked": "The token is revoked: it opens nothing any more.",
    "revoked-before": "The token was revoked already.",
}
"""What is said after a change."""


@allowed(Role.VIEWER)
async def listed(request: Request) -> Response:
    return await render(
        request, "agents.html", await run_in_threadpool(_list, parts_of(request), request.query_params.get("after"))
    )


def _list(parts: Parts, after: str | None) -> dict[str, Any]:
    now = parts.clock()
    begin = None
    if after:
        environment, _, name = after.partition("/")
        begin = (environment, name)
    found, more = agents_seen(parts.database, now=now, after=begin)
    freezes = Freezes(parts.database, parts.config.environments)
    agents, whole = freezes.agents_in_force(now), freezes.in_force(now)
    return {
        "seen": found,
        "frozen": {one.agent.user: (*agents.get(one.agent.user, ()), *whole.get(one.agent.environment, ())) for one in found},
        "more": "/".join(more) if more is not None else "",
        "first": begin is None,
    }


@allowed(Role.VIEWER)
async def one(request: Request) -> Response:
    return await _show(request, done=request.query_params.get("done", ""))


async def _show(request: Request, *, done: str = "", problem: DbshieldError | None = None) -> Response:
    path = request.path_params
    context = await run_in_threadpool(_one, parts_of(request), path["environment"], path["name"])
    context |= {"done": DONE.get(done, ""), "problem_said": problem, "lengths": LENGTH_WORDS, "reason_max": REASON_MAX}
    return await render(request, "agent.html", context, status=_status(problem))


def _one(parts: Parts, environment: str, name: str) -> dict[str, Any]:
    now = parts.clock()
    registry = _agents(parts)
    agent = registry.find(name=name, environment=environment, now=now)
    tokens = sorted(registry.list_tokens(name=name, environment=environment), key=lambda token: token.created_at, reverse=True)
    freezes = Freezes(parts.database, parts.config.environments)
    return {
        "agent": agent,
        "tokens": [(token, _state(parts.config, token, now)) for token in tokens[:TOKENS_SHOWN]],
        "left_out": max(0, len(tokens) - TOKENS_SHOWN),
        "freezes": freezes.agents_in_force(now).get(agent.user, ()),
        "environment_freezes": freezes.in_force(now).get(environment, ()),
    }


def _state(config: Config, token: TokenInfo, now: datetime) -> str:
    environment = config.environments.get(token.environment)
    if environment is not None and token.stale(now, timedelta(days=environment.token_stale_days)):
        return "stale"
    return token.state(now)


@allowed(Role.ADMIN)
async def freeze(request: Request) -> Response:
    parts, person, form = parts_of(request), _person(request), await request.form()
    environment, name = request.path_params["environment"], request.path_params["name"]

    def work() -> Freeze:
        now = parts.clock()
        lasting = _field(form, "lasting")
        if lasting not in LENGTHS:
            raise ConfigError("this is no length of time that is offered", hint="Choose one of the list.")
        length = LENGTHS[lasting]
        return Freezes(parts.database, parts.config.environments).freeze(
            environment,
            agent=name,
            reason=_field(form, "reason"),
            by=person.name,
            now=now,
            until=now + length if length is not None else None,
            within=confirmed_by(parts, person, _field(form, "code"), now=now),
        )

    return await _changed(request, partial(run_in_threadpool, work), "frozen")


@allowed(Role.ADMIN)
async def thaw(request: Request) -> Response:
    parts, person, form = parts_of(request), _person(request), await request.form()
    environment, name = request.path_params["environment"], request.path_params["name"]

    def work() -> int:
        now = parts.clock()
        within = confirmed_by(parts, person, _field(form, "code"), now=now)
        return Freezes(parts.database, parts.config.environments).thaw(
            environment, agent=name, by=person.name, now=now, within=within
        )

    return await _changed(request, partial(run_in_threadpool, work), "thawed")


@allowed(Role.ADMIN)
async def asked_to_revoke(request: Request) -> Response:
    return await _revoking(request)


async def _revoking(request: Request, problem: DbshieldError | None = None) -> Response:
    path = request.path_params
    context = await run_in_threadpool(_one, parts_of(request), path["environment"], path["name"])
    token = next((token for token, _ in context["tokens"] if token.id == path["token"]), None)
    if token is None:
        raise Refused(f"{path['name']} has no token {path['token']}", hint="Its page has those that there are.")
    context |= {"token": token, "problem_said": problem}
    return await render(request, "agent_revoke.html", context, status=_status(problem))


@allowed(Role.ADMIN)
async def revoke(request: Request) -> Response:
    parts, person, form = parts_of(request), _person(request), await request.form()
    path = request.path_params

    def work() -> bool:
        now = parts.clock()
        registry = _agents(parts)
        if path["token"] not in {token.id for token in registry.list_tokens(name=path["name"], environment=path["environment"])}:
            raise Refused(f"{path['name']} has no token {path['token']}", hint="Its page has those that there are.")
        within = confirmed_by(parts, person, _field(form, "code"), now=now)
        return registry.revoke_token(token_id=path["token"], now=now, by=person.name, within=within)

    try:
        done = "revoked" if await run_in_threadpool(work) else "revoked-before"
    except DbshieldError as error:
        return await _revoking(request, error)
    return RedirectResponse(f"/agents/{path['environment']}/{path['name']}?done={done}", 303)


async def _changed(request: Request, work: Any, done: str) -> Response:
    """The agent's page after a change, or with what was in the way of it."""
    try:
        await work()
    except DbshieldError as error:
        return await _show(request, problem=error)
    path = request.path_params
    return RedirectResponse(f"/agents/{path['environment']}/{path['name']}?done={done}", 303)


def _agents(parts: Parts) -> Agents:
    return Agents(parts.database, parts.config.environments, lambda: parts.vault)


def _person(request: Request) -> Person:
    person = person_of(request)
    assert person is not None, "only who is allowed comes here"
    return person


def _field(form: FormData, name: str) -> str:
    return str(form.get(name, ""))


def _status(problem: DbshieldError | None) -> int:
    if problem is None:
        return 200
    return 409 if isinstance(problem, Refused) else 400


PAGE = Page(
    title="Agents",
    path="/agents",
    routes=[
        Route("/agents", listed),
        Route("/agents/{environment}/{name}", one),
        Route("/agents/{environment}/{name}/freeze", freeze, methods=["POST"]),
        Route("/agents/{environment}/{name}/thaw", thaw, methods=["POST"]),
        Route("/agents/{environment}/{name}/revoke/{token}", asked_to_revoke),
        Route("/agents/{environment}/{name}/revoke/{token}", revoke, methods=["POST"]),
    ],
)
