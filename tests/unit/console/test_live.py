"""Streams of what happens: how many there may be, and that each is given back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.types import Message

from dbshield.console.frame import Person
from dbshield.console.live import STREAMS_MOST, STREAMS_PER_PERSON, Live
from dbshield.control.person_roles import Role


class Tab:
    """An open page of somebody's."""

    def __init__(self, live: Live, person: str) -> None:
        self.status = 0
        self.heard = ""
        self._live = live
        self._person = Person(name=person, role=Role.VIEWER)
        self._begun = asyncio.Event()
        self._closed = asyncio.Event()
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        scope = {"type": "http", "method": "GET", "path": "/stream", "headers": [], "state": {"person": self._person}}
        answer = await self._live.follow(Request(scope), {"part": _part}, valid=_valid)
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
