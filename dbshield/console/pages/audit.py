"""The audit: searching it, reading one entry, taking it elsewhere, and whether its chain is whole."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dbshield.console.audit_lines import line_of, said_in
from dbshield.console.frame import Page, Parts, allowed, parts_of, person_of, render
from dbshield.console.live import CHECK
from dbshield.console.sessions import still_valid
from dbshield.control import audit_export, audit_read, audit_search, audit_store, audit_values
from dbshield.control.audit_read import Filter
from dbshield.control.person_roles import Role
from dbshield.control.tokens import parse_duration
from dbshield.errors import ConfigError, DbshieldError, StoreError

VERDICTS: Final = ("allow", "limit", "hold", "deny")
FORMS: Final = ("jsonl", "csv")
TEXT_MOST: Final = 200
LINES_AT_ONCE: Final = 500
"""Lines of an export that are sent together."""
EXPORTS_MOST: Final = 4
"""Exports at once, one of each person: each holds a connection to the control database for as long as somebody reads slowly."""
LENGTH: Final = re.compile(r"\d{1,6}[mhdw]")
WORDS: Final = ("environment", "agent", "kind", "verdict", "rule", "text", "since", "until", "observed")
"""The filters, as they stand in the address."""


@dataclass(slots=True)
class Round:
    """The verification that this console is about: since when, by whom, and what was in its way. One at a time."""

    since: datetime | None = None
    person: str = ""
    problem: str = ""
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class SessionOverError(Exception):
    """Whoever takes an export has no session any more."""


class Export(StreamingResponse):
    """An export, which counts until its end: `ended` is called then, whatever becomes of it. Where the session ends meanwhile the
    connection is cut, so that nobody takes what they have for all of it."""

    def __init__(self, content: AsyncIterator[str], ended: Callable[[], None], **given: Any) -> None:
        super().__init__(content, **given)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(SessionOverError):
                await super().__call__(scope, receive, send)
        finally:
            self._ended()


@allowed(Role.VIEWER)
async def search(request: Request) -> Response:
    parts, asked = parts_of(request), request.query_params
    problem: DbshieldError | None = None
    found = audit_search.Found(links=(), older=None, searched_to=0, full=False)
    try:
        which = _filter(asked, parts.clock())
        found = await run_in_threadpool(audit_search.search, parts.database, which)
    except ConfigError as error:
        problem = error
    given = _given(asked)
    context = {
        "problem_said": problem,
        "given": {name: given.get(name, "") for name in WORDS},
        "environments": list(parts.config.environments),
        "verdicts": VERDICTS,
        "lines": [line_of(link) for link in found.links],
        "found": found,
        "older": f"/audit?{urlencode({**given, 'before': found.older})}" if found.older is not None else "",
        "newest": f"/audit?{urlencode(given)}" if asked.get("before") else "",
        "exports": {form: f"/audit/export.{form}?{urlencode(given)}" for form in FORMS},
        **await _chain(request),
    }
    return await render(request, "audit.html", context, status=400 if problem is not None else 200)


@allowed(Role.VIEWER)
async def one(request: Request) -> Response:
    parts = parts_of(request)
    number = request.path_params["number"]
    link = await run_in_threadpool(audit_search.entry, parts.database, number)
    if link is None:
        raise StoreError(f"the audit has no entry {number}", hint="Retention may have dropped it.")
    return await render(request, "audit_entry.html", {"link": link, "line": line_of(link), "said": _fields(said_in(link))})


@allowed(Role.VIEWER)
async def export(request: Request) -> Response:
    """The entries that the filter lets through, oldest first, as they are read; the answer begins at once."""
    parts, asked = parts_of(request), request.query_params
    person = person_of(request)
    assert person is not None, "only who is allowed comes here"
    form = request.url.path.rpartition(".")[2]
    now = parts.clock()
    which = _filter(asked, now)
    which.condition()  # a rule that is none is told before the answer begins
    exporting = _exporting(request)
    if person.name in exporting or len(exporting) >= EXPORTS_MOST:
        said = {"message": "Another export is under way.", "hint": "Wait until it ends; each person has one at a time."}
        return await render(request, "error.html", said, status=429)
    exporting.add(person.name)
    try:
        return await _export(request, person.name, which, form=form, now=now, exporting=exporting)
    except BaseException:
        exporting.discard(person.name)
        raise


async def _export(request: Request, person: str, which: Filter, *, form: str, now: datetime, exporting: set[str]) -> Response:
    parts, given = parts_of(request), _given(request.query_params)
    await run_in_threadpool(
        audit_store.record, parts.database, kind="audit-exported", at=now, person=person, form=form, filter=given
    )
    links = audit_read.stream(parts.database, which)
    lines = audit_export.json_lines(links) if form == "jsonl" else audit_export.csv_lines(links)
    name = f"audit-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.{form}"
    return Export(
        _in_batches(lines, links, still_valid(request)),
        lambda: exporting.discard(person),
        media_type="application/x-ndjson" if form == "jsonl" else "text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _exporting(request: Request) -> set[str]:
    """The people whose exports are under way."""
    state = request.app.state
    if not hasattr(state, "exporting"):
        state.exporting = set()
    found: set[str] = state.exporting
    return found


async def _in_batches(lines: Iterator[str], links: Iterator[Any], valid: Callable[[], Awaitable[bool]]) -> AsyncIterator[str]:
    """The lines, for as long as the session is one. Raises SessionOverError."""
    checked = time.monotonic()
    try:
        while batch := await run_in_threadpool(lambda: "".join(itertools.islice(lines, LINES_AT_ONCE))):
            if time.monotonic() - checked >= CHECK:
                checked = time.monotonic()
                if not await valid():
                    raise SessionOverError
            yield batch
    finally:
        # Whoever goes away in the middle leaves no transaction open.
        for each in (lines, links):
            if isinstance(each, Generator):
                each.close()


@allowed(Role.VIEWER)
async def chain(request: Request) -> Response:
    """The chain's state alone, for a page that waits for a verification."""
    return await render(request, "audit_chain.html", await _chain(request))


@allowed(Role.APPROVER)
async def verify(request: Request) -> Response:
    """Begins to walk the chain, which may take minutes; nobody waits for it."""
    parts, person, state = parts_of(request), person_of(request), _round(request)
    assert person is not None, "only who is allowed comes here"
    if state.since is None:
        state.since, state.person, state.problem = parts.clock(), person.name, ""
        state.task = asyncio.create_task(_walk(parts, state))
    return RedirectResponse("/audit#chain", 303)


async def _walk(parts: Parts, state: Round) -> None:
    try:
        report = await run_in_threadpool(audit_read.verify, parts.database)
        await run_in_threadpool(audit_search.record_verification, parts.database, report, person=state.person, now=parts.clock())
    except DbshieldError as error:
        state.problem = error.message
    finally:
        state.since = None


@allowed(Role.VIEWER)
async def checkpoint(request: Request) -> Response:
    """Where the chain stands, signed, to be kept elsewhere."""
    parts = parts_of(request)
    made = await run_in_threadpool(audit_read.checkpoint, parts.database, parts.vault)
    headers = {"Content-Disposition": f'attachment; filename="checkpoint-{made.position}.json"'}
    said = {name: getattr(made, name) for name in audit_read.Checkpoint.__slots__}
    return Response(json.dumps(said, indent=2) + "\n", media_type="application/json", headers=headers)


async def _chain(request: Request) -> dict[str, Any]:
    """What audit_chain.html shows. How the walk stands is taken first, so that who sees that it is over sees what came of it."""
    state = replace(_round(request))
    return {"round": state, "chain": await run_in_threadpool(audit_search.chain, parts_of(request).database)}


def _round(request: Request) -> Round:
    state = request.app.state
    if not hasattr(state, "audit_round"):
        state.audit_round = Round()
    found = state.audit_round
    assert isinstance(found, Round)
    return found


def _given(asked: QueryParams) -> dict[str, str]:
    """The filters that are set."""
    return {name: asked[name].strip() for name in WORDS if asked.get(name, "").strip()}


def _filter(asked: QueryParams, now: datetime) -> Filter:
    """Raises ConfigError where a filter is none."""
    given = _given(asked)
    verdict, text, before = given.get("verdict"), given.get("text"), asked.get("before", "")
    if any(len(value) > TEXT_MOST or not value.isprintable() for value in given.values()):
        raise ConfigError(f"what to look for has at most {TEXT_MOST} printable characters", hint="Look for less of it.")
    if before and not re.fullmatch(r"[0-9]{1,18}", before):
        raise ConfigError("this is no place in the audit", hint="Begin at the newest entry again.")
    return Filter(
        environment=given.get("environment"),
        agent=given.get("agent"),
        kind=given.get("kind"),
        verdict=verdict,
        rule=given.get("rule"),
        text=text,
        observed="observed" in given,
        since=_time(given.get("since"), now),
        until=_time(given.get("until"), now),
        before=int(before) if before else None,
    )


def _time(written: str | None, now: datetime) -> datetime | None:
    """A time, or a length of time before now. A time without a zone is UTC, as all that the console shows."""
    if written is None:
        return None
    try:
        if LENGTH.fullmatch(written):
            return now - min(parse_duration(written), timedelta(days=36_500))
        read = datetime.fromisoformat(written)
        return read if read.tzinfo is not None else read.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ConfigError(f'"{written}" is no time', hint="Write it as in 2026-05-01 18:00, or as 2h, 7d.") from None


def _fields(said: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Each field of an entry, and its value as lines of text."""
    found = []
    for name, value in said.items():
        if name == "parameters":
            found.append((name, list(audit_values.lines(said))))
            continue
        match value:
            case list():
                found.append((name, [str(each) for each in value]))
            case dict():
                found.append((name, [f"{key}: {each}" for key, each in value.items()]))
            case None:
                found.append((name, []))
            case _:
                found.append((name, [str(value)]))
    return found


PAGE = Page(
    title="Audit",
    path="/audit",
    routes=[
        Route("/audit", search),
        Route("/audit/chain", chain),
        Route("/audit/verify", verify, methods=["POST"]),
        Route("/audit/checkpoint.json", checkpoint),
        *(Route(f"/audit/export.{form}", export) for form in FORMS),
        Route("/audit/{number:int}", one),
    ],
)
