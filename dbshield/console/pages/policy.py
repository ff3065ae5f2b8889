"""What holds for an agent, rule by rule and where each comes from; and what would be said of a statement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dbshield.app import make_judge
from dbshield.console.frame import Page, Parts, allowed, parts_of, render
from dbshield.control import effective
from dbshield.control.agents import Agents
from dbshield.control.freezes import Freezes
from dbshield.control.person_roles import Role
from dbshield.control.policies import policy_at
from dbshield.errors import ConfigError, DbshieldError
from dbshield.model import AccessLevel, Judgement, Limit
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.policy import Policy
from dbshield.store.frozen import Freeze, longest

STATEMENT_MOST: Final = 100_000
"""Characters of a statement to try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """Whose policy: `known` is false where an agent is named that there is not."""

    environment: str
    agent: str
    access: AccessLevel
    known: bool
    freeze: Freeze | None


@allowed(Role.VIEWER)
async def show(request: Request) -> Response:
    return await _show(request, dict(request.query_params))


@allowed(Role.VIEWER)
async def judge(request: Request) -> Response:
    """A statement is judged, and run nowhere."""
    form = await request.form()
    return await _show(request, {name: str(value) for name, value in form.items()}, trying=True)


async def _show(request: Request, asked: dict[str, str], *, trying: bool = False) -> Response:
    parts = parts_of(request)
    problem: DbshieldError | None = None
    context: dict[str, Any] = {"whose": None, "settings": [], "rules": [], "warnings": [], "frozen": None, "judgement": None}
    try:
        context |= await run_in_threadpool(_look, parts, asked, trying)
    except ConfigError as error:
        problem = error
    context |= {
        "problem_said": problem,
        "environments": list(parts.config.environments),
        "levels": [*AccessLevel],
        "given": {name: asked.get(name, "") for name in ("environment", "agent", "access", "statement")},
        "statement_most": STATEMENT_MOST,
    }
    return await render(request, "policy.html", context, status=400 if problem is not None else 200)


def _look(parts: Parts, asked: dict[str, str], trying: bool) -> dict[str, Any]:
    whose = _whose(parts, asked)
    environment = parts.config.environments.get(whose.environment)
    if environment is None:
        policy = Policy(access=whose.access)
    else:
        policy = policy_at(environment, agent=whose.agent, access=whose.access, freeze=whose.freeze, now=parts.clock())
    judgement = None
    if trying:
        statement = asked.get("statement", "")
        if not statement.strip() or len(statement) > STATEMENT_MOST:
            raise ConfigError(f"a statement to try has 1 to {STATEMENT_MOST} characters", hint="Write one into the box.")
        # As `dbshield policy test`: without a database, nothing is known of functions other than PostgreSQL's own.
        judgement = make_judge(parts.config, policy, FunctionCatalogue.builtin()).judge(
            statement.replace("\r\n", "\n").encode("utf-8", "surrogatepass")
        )
    return {
        "whose": whose,
        "settings": list(effective.settings(environment, whose.agent or None, policy)),
        "rules": list(effective.verdicts(policy)),
        "warnings": list(effective.warnings(policy)),
        "frozen": policy.freeze_reason if policy.frozen else None,
        "judgement": _told(judgement) if judgement is not None else None,
    }


def _whose(parts: Parts, asked: dict[str, str]) -> Whose:
    """Raises ConfigError where an environment or a level is none."""
    environment, agent, access = (asked.get(name, "").strip() for name in ("environment", "agent", "access"))
    if environment and environment not in parts.config.environments:
        raise ConfigError(f'the environment "{environment}" is not configured', hint="Choose one of the list.")
    if access and access not in [*AccessLevel]:
        raise ConfigError(f'"{access}" is no access level', hint=f"There are: {', '.join(AccessLevel)}.")
    if agent and not environment:
        raise ConfigError("an agent was named without its environment", hint="Choose its environment as well.")
    level, freeze, now = None, None, parts.clock()
    if environment:
        freezes = Freezes(parts.database, parts.config.environments)
        there = [*freezes.in_force(now).get(environment, ())]
        if agent:
            registry = Agents(parts.database, parts.config.environments, lambda: parts.vault)
            found = registry.list_agents(now=now, environment=environment)
            level = next((one.access for one in found if one.name == agent), None)
            there += freezes.agents_in_force(now).get(f"{agent}.{environment}", ())
        freeze = longest(there) if there else None
    return Whose(
        environment=environment,
        agent=agent,
        access=AccessLevel(access) if access else level or AccessLevel.MIGRATE,
        known=not agent or level is not None,
        freeze=freeze,
    )


def _told(judgement: Judgement) -> dict[str, Any]:
    said = judgement.observed or judgement.verdict
    return {
        "verdict": said.word,
        "observed": judgement.observed is not None,
        "max_rows": said.max_rows if isinstance(said, Limit) else None,
        "statements": judgement.statements,
        "findings": [
            {
                "rule": one.rule,
                "name": one.name,
                "verdict": one.verdict.word,
                "message": one.message,
                "hint": one.hint,
                "effect": str(one.effect) if one.effect is not None else "",
            }
            for one in judgement.findings
        ],
        "effects": [str(effect) for effect in judgement.effects],
    }


PAGE = Page(title="Policy", path="/policy", routes=[Route("/policy", show), Route("/policy", judge, methods=["POST"])])
