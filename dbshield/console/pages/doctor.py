"""What the doctor finds: the same as `dbshield doctor`, at most a minute old."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dbshield.console.frame import Page, Parts, allowed, parts_of, render
from dbshield.control.person_roles import Role
from dbshield.doctor.diagnosis import Diagnosis, diagnose
from dbshield.guard.doctor import ORDER

FRESH: Final = timedelta(minutes=1)
"""For which an answer is good: the doctor connects to every protected database."""
SHOWN: Final = 20
"""Subjects and commands of one finding; `dbshield doctor --json` has all of them."""


@dataclass(slots=True)
class Round:
    """The newest round. Who comes while one is made waits for that one."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    found: Diagnosis | None = None
    at: datetime | None = None


@allowed(Role.VIEWER)
async def show(request: Request) -> Response:
    """The page at once: with what is known, or with a promise of it."""
    return await render(request, "doctor.html", _context(request, _round(request)))


@allowed(Role.VIEWER)
async def findings(request: Request) -> Response:
    """The findings, when they are known; as a part of the page, or as a page for a browser without scripts."""
    state, parts = _round(request), parts_of(request)
    async with state.lock:
        now = parts.clock()
        if state.at is None or now - state.at >= FRESH:
            state.found = await run_in_threadpool(partial(_diagnose, parts, now))
            state.at = parts.clock()
    template = "doctor_findings.html" if request.headers.get("hx-request") else "doctor.html"
    return await render(request, template, _context(request, state))


def _diagnose(parts: Parts, now: datetime) -> Diagnosis:
    return diagnose(parts.config, list(parts.config.environments), lambda: nullcontext(parts.database), moment=now)


def _context(request: Request, state: Round) -> dict[str, object]:
    now = parts_of(request).clock()
    fresh = state.at is not None and now - state.at < FRESH
    counted = Counter(one.severity for one in state.found.findings) if state.found is not None and fresh else Counter()
    return {
        "diagnosis": state.found if fresh else None,
        "at": state.at if fresh else None,
        "counts": [(severity, counted[severity]) for severity in ORDER],
        "shown": SHOWN,
    }


def _round(request: Request) -> Round:
    state = request.app.state
    if not hasattr(state, "doctor_round"):
        state.doctor_round = Round()
    found = state.doctor_round
    assert isinstance(found, Round)
    return found


PAGE = Page(title="Doctor", path="/doctor", routes=[Route("/doctor", show), Route("/doctor/findings", findings)])
