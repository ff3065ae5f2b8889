"""Streams of what happens: how many there may be, and that each is given back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request
from starlette.types import Message

from dbshield.console import live as living
from dbshield.console.frame import Person
from dbshield.console.live import STREAMS_MOST, STREAMS_PER_PERSON, Live, Look
from dbshield.control.person_roles import Role
from dbshield.errors import StoreError


class Tab:
    """An open page of somebody's."""

    def __init__(self, live: Live, person: str, look: Look | None = None) -> None:
        self._look = look or _part
        self.status = 0
        self.heard = ""
        self._live = live
        self._person = Person(name=person, role=Role.VIEWER)
        self._begun = asyncio.Event()
        self._closed = asyncio.Event()
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        scope = {"type": "http", "method": "GET", "path": "/stream", "headers": [], "state": {"person": self._person}}
        answer = await self._live.follow(Request(scope), {"part": self._look}, valid=_valid, every=0.01)
        await answer(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        await self._closed.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.heard += message["body"].decode()
            self._begun.set()

    async def begun(self) -> int:
        """The status of the answer, once something of it is there."""
        await asyncio.wait_for(self._begun.wait(), 30)
        return self.status

    async def hears(self, text: str) -> bool:
        """Whether this comes."""
        async with asyncio.timeout(30):
            while text not in self.heard:
                self._begun.clear()
                await self._begun.wait()
        return True

    async def close(self) -> None:
        """As by a browser that goes away."""
        self._closed.set()
        await asyncio.wait_for(self._task, 30)


async def _part() -> str:
    return "as it is"


async def _valid() -> bool:
    return True


@contextlib.asynccontextmanager
async def opened(live: Live, *people: str) -> AsyncIterator[list[Tab]]:
    tabs = [Tab(live, person) for person in people]
    try:
        yield tabs
    finally:
        live.end()
        for tab in tabs:
            await tab.close()


def test_one_person_has_a_share_of_the_streams_and_gets_it_back() -> None:
    async def run() -> None:
        live = Live("")
        async with opened(live, *["ann"] * (STREAMS_PER_PERSON + 2)) as tabs:
            statuses = [await tab.begun() for tab in tabs]
            assert statuses == [200] * STREAMS_PER_PERSON + [429] * 2
            async with opened(live, "bob") as (other,):
                assert await other.begun() == 200
                assert "as it is" in tabs[0].heard
                await tabs[0].close()
                async with opened(live, "ann", "ann") as (again, more):
                    assert (await again.begun(), await more.begun()) == (200, 429)

    asyncio.run(run())


def test_all_together_have_a_limit() -> None:
    async def run() -> None:
        people = [f"p{number // STREAMS_PER_PERSON}" for number in range(STREAMS_MOST)]
        async with opened(Live(""), *people, "one more") as tabs:
            statuses = [await tab.begun() for tab in tabs]
        assert statuses == [200] * STREAMS_MOST + [503]

    asyncio.run(run())


def test_regression_what_cannot_be_looked_at_is_said_until_it_can_be() -> None:
    """A page showed "Control database: ok" and that nothing waits for as long as the control database was away."""

    async def run() -> None:
        is_away = False

        async def look() -> str:
            if is_away:
                raise StoreError("the control database is away", hint="")
            return "as it is"

        live = Live("")
        tab = Tab(live, "ann", look)
        try:
            assert await tab.hears("event: part\ndata: as it is\n")
            assert "event: away" not in tab.heard
            is_away = True
            assert await tab.hears("event: away\ndata: <div")
            is_away = False
            assert await tab.hears("event: away\ndata: \n\n")
        finally:
            live.end()
            await tab.close()

    asyncio.run(run())


def test_a_look_that_hangs_is_said_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(living, "LATE", 0.05)

    async def run() -> None:
        answers = asyncio.Event()

        async def look() -> str:
            await answers.wait()
            return "as it is"

        live = Live("")
        tab = Tab(live, "ann", look)
        try:
            assert await tab.hears("event: away\ndata: <div")
            assert "event: part" not in tab.heard
            answers.set()
            assert await tab.hears("event: part")
            assert await tab.hears("event: away\ndata: \n\n")
        finally:
            live.end()
            await tab.close()

    asyncio.run(run())
