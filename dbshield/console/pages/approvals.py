"""Held statements: what waits for a human, one of them with everything that is known of it, and the decision.

Deciding is `dbshield.control.deciding`'s, as for the command line: who may, with which code, and what follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dbshield.console.frame import Page, Parts, allowed, parts_of, person_of, render, rendered
from dbshield.console.sessions import live_of, still_valid
from dbshield.control.approval import Approval, State
from dbshield.control.approvals import Approvals
from dbshield.control.deciding import Deciding
from dbshield.control.marking import Piece, marked
from dbshield.control.people import People
from dbshield.control.person_roles import Role
from dbshield.control.printing import print_parameters, print_settings, readable
from dbshield.errors import DbshieldError, Refused
from dbshield.visible import visible_lines

WAITING: Final = (State.WAITING,)
GOING_ON: Final = (State.APPROVED, State.RUNNING)
WAITING_SHOWN: Final = 50
"""Of those that wait, on one page, the oldest first: browsers that follow a page are sent all of it with each change."""
OVER_SHOWN: Final = 30
LINES_SEEN: Final = 25
CHARACTERS_SEEN: Final = 2_000
"""Of a statement, what a screen has room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """How a statement is shown. `laid_out` is nothing where that is no other text, or not certain; `lines` and `characters` are
    how long the exact text is, where nobody sees all of it at once; `spelled` says whether signs of it are spelled out."""

    exact: list[Piece]
    laid_out: list[Piece] | None
    parameters: list[str]
    settings: Mapping[str, str]
    lines: int
    characters: int
    spelled: bool

    @property
    def has_marks(self) -> bool:
        """Whether anything is marked in what is shown first."""
        return any(piece.destroys for piece in (self.laid_out or self.exact))

    @property
    def is_long(self) -> bool:
        return self.lines > LINES_SEEN or self.characters > CHARACTERS_SEEN


@allowed(Role.VIEWER)
async def list_(request: Request) -> Response:
    before = _moment(request.query_params.get("before", ""))
    return await render(request, "approvals.html", await _listed(request, before, _number(request)))


@allowed(Role.VIEWER)
async def list_stream(request: Request) -> Response:
    number = _number(request)
    counted: list[int] = []

    async def look() -> str:
        context = await _listed(request, None, number)
        counted[:] = [context["waiting_count"]]
        return rendered(request, "approvals_live.html", context)

    async def said() -> str:
        # As many as the look before it saw.
        return rendered(request, "waiting_said.html", {"waiting_count": counted[0]}) if counted else ""

    return await live_of(request).follow(request, {"approvals": look, "said": said}, valid=still_valid(request))


@allowed(Role.VIEWER)
async def show(request: Request) -> Response:
    return await _page(request)


@allowed(Role.VIEWER)
async def show_stream(request: Request) -> Response:
    seen: dict[str, Any] = {}

    async def state() -> str:
        # For the other two as well: all of it is one look.
        seen.update(await _shown(request))
        return rendered(request, "approval_state.html", seen)

    async def preview() -> str:
        return rendered(request, "approval_preview.html", seen) if seen else ""

    async def form() -> str:
        # Nothing while it may be decided: somebody may be typing.
        return rendered(request, "approval_form.html", seen) if seen and not seen["decidable"] else ""

    looks = {"state": state, "preview": preview, "form": form}
    return await live_of(request).follow(request, looks, valid=still_valid(request))


@allowed(Role.APPROVER)
async def approve(request: Request) -> Response:
    form = await request.form()
    return await _decided(
        request,
        lambda deciding, common: deciding.approve(
            **common, without_undo=form.get("without_undo") == "yes", shown=str(form.get("shown", "")) or "none"
        ),
    )


@allowed(Role.APPROVER)
async def deny(request: Request) -> Response:
    return await _decided(request, lambda deciding, common: deciding.deny(**common))


async def _decided(request: Request, decide: Any) -> Response:
    """Decides as the person who is signed in, with the code that they typed; back on the page either way."""
    parts, person = parts_of(request), person_of(request)
    assert person is not None
    form = await request.form()
    common = {
        "approval_id": request.path_params["id"],
        "person": person.name,
        "code": str(form.get("code", "")),
        "reason": str(form.get("reason", "")),
        "now": parts.clock(),
    }
    deciding = Deciding(parts.database, People(parts.database, parts.vault), parts.config.environments)
    try:
        await run_in_threadpool(decide, deciding, common)
    except DbshieldError as error:
        if isinstance(error, Refused) or error.hint:
            return await _page(request, problem=error, reason=common["reason"])
        raise
    return RedirectResponse(f"/approvals/{request.path_params['id']}", 303)


async def _page(request: Request, *, problem: DbshieldError | None = None, reason: str = "") -> Response:
    context = await _shown(request) | {"problem": problem, "reason": reason}
    # Once for a page, and not for each of its looks: laying out a long statement takes a part of a second.
    context["text"] = await run_in_threadpool(text_of, context["one"])
    return await render(request, "approval.html", context, status=200 if problem is None else 409)


async def _listed(request: Request, before: datetime | None, number: int) -> dict[str, Any]:
    parts = parts_of(request)
    now = parts.clock()
    approvals = Approvals(parts.database)
    count = await run_in_threadpool(approvals.count, now=now, states=WAITING)
    # One that was full a moment ago may be empty now: then the last one that is not.
    number = max(1, min(number, -(-count // WAITING_SHOWN)))
    first = (number - 1) * WAITING_SHOWN
    waiting = await run_in_threadpool(approvals.list_, now=now, states=WAITING, first=first, limit=WAITING_SHOWN)
    going_on = await run_in_threadpool(approvals.list_, now=now, states=GOING_ON, limit=WAITING_SHOWN)
    over = await run_in_threadpool(approvals.over, now=now, before=before, limit=OVER_SHOWN)
    return {
        "waiting": waiting,
        "waiting_count": max(count, first + len(waiting)),
        "waiting_first": first + 1,
        "number": number,
        "is_last": first + WAITING_SHOWN >= count,
        "going_on": going_on,
        "over": over,
        "before": before,
        "older": over[-1].requested_at if len(over) == OVER_SHOWN else None,
        "needed": partial(needed, parts),
    }


async def _shown(request: Request) -> dict[str, Any]:
    parts, person = parts_of(request), person_of(request)
    approval = await run_in_threadpool(Approvals(parts.database).get, request.path_params["id"])
    state = approval.state_at(parts.clock())
    mine = [said for said in approval.decisions if person is not None and said.person == person.name and said.counts]
    environment = parts.config.environments.get(approval.environment)
    return {
        "one": approval,
        "state": state,
        "needed": needed(parts, approval),
        "runs": environment is not None and bool(environment.executor),
        "decided": mine[0] if mine else None,
        "decidable": state is State.WAITING and not mine and person is not None and person.may(Role.APPROVER),
        "problem": None,
        "reason": "",
    }


def needed(parts: Parts, approval: Approval) -> int:
    """How many people have to approve: what was said when it was asked, or more by now."""
    environment = parts.config.environments.get(approval.environment)
    return max(approval.needed, environment.approvals_needed if environment is not None else 0)


def text_of(approval: Approval) -> Text:
    laid_out = readable(approval.statement)
    another = laid_out is not None and laid_out.lower().split() != approval.statement.lower().split()
    return Text(
        exact=marked(approval.statement, approval.effects),
        laid_out=marked(laid_out, approval.effects) if laid_out is not None and another else None,
        parameters=print_parameters(approval.parameters, most=None),
        settings=print_settings(approval.settings),
        lines=approval.statement.count("\n") + 1,
        characters=len(approval.statement),
        spelled="\n".join(visible_lines(approval.statement)) != approval.statement,
    )


def _number(request: Request) -> int:
    """The page that is asked for, from 1; the first where somebody wrote no number."""
    written = request.query_params.get("page", "")
    return int(written) if written.isascii() and written.isdigit() and len(written) < 7 else 1


def _moment(text: str) -> datetime | None:
    """A time in a link of this page; none where somebody wrote another."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


PAGE = Page(
    title="Approvals",
    path="/approvals",
    routes=[
        Route("/approvals", list_),
        Route("/approvals/stream", list_stream),
        Route("/approvals/{id}", show),
        Route("/approvals/{id}/stream", show_stream),
        Route("/approvals/{id}/approve", approve, methods=["POST"]),
        Route("/approvals/{id}/deny", deny, methods=["POST"]),
    ],
)
