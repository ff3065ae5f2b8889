"""Connections that say nothing, or take nothing, end: they cost whoever makes them nothing, and would take the place of others.

uvicorn ends a connection that is silent between two requests. One that never sends its first request, sends half of one, or does
not read its answer it keeps for ever, and counts among those that it answers at once: a few hundred of them, from one stranger,
had everybody else told 503, a balancer that asks whether the proxy lives among them.

Laws:
- A request is whole, its body too, within `WHOLE` of its connection or of its first byte.
- What was written is taken within `TAKEN`, or the connection is cut. An answer of any length goes on while it is read at all.
- Of those who have not sent a whole request there are `most`; one more, and the one that waits longest ends. Who means to ask
  does so at once, and so is not among the oldest.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

WHOLE: Final = 20.0
"""Seconds; Apache's mod_reqtimeout gives a head and a body as many each."""
TAKEN: Final = 60.0
"""Seconds without the buffer (64 KiB) being emptied to its low mark (16 KiB): less than a kilobyte a second."""


class Silent:
    """The connections of one server that owe it a request, those that have for longest first."""

    def __init__(self, most: int, whole: float) -> None:
        self._most = most
        self._whole = whole
        self._timers: dict[Prompt, asyncio.TimerHandle] = {}

    def add(self, one: Prompt) -> None:
        """It owes a request from now on, where it did not before."""
        if one not in self._timers:
            self._timers[one] = one.loop.call_later(self._whole, self._end, one)
        while len(self._timers) > self._most:
            self._end(next(iter(self._timers)))

    def remove(self, one: Prompt) -> None:
        timer = self._timers.pop(one, None)
        if timer is not None:
            timer.cancel()

    def _end(self, one: Prompt) -> None:
        self.remove(one)
        one.transport.abort()


class Prompt(H11Protocol):
    """One connection. `prompt` makes the class for a server."""

    silent: Silent
    taken: float
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(self.taken, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._move_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self.silent.remove(self)
        self._move_on()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Whether a request is owed: none has begun and uvicorn does not watch over the silence itself, or one is not whole."""
        cycle: Any = self.cycle
        between = cycle is None or cycle.response_complete
        owed = self.timeout_keep_alive_task is None if between else cycle.more_body
        if owed and not self.transport.is_closing():
            self.silent.add(self)
        else:
            self.silent.remove(self)

    def _move_on(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None


def prompt(most: int, *, whole: float = WHOLE, taken: float = TAKEN) -> type[asyncio.Protocol]:
    """The protocol of one server, as `uvicorn.Config` takes it; times in seconds."""
    return type("PromptHere", (Prompt,), {"silent": Silent(most, whole), "taken": taken})
