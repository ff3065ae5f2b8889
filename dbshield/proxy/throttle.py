"""Wrong tokens and what follows them: logins that wait, logins that are refused at once, lines that the audit leaves out.

Everything is counted in this worker's memory: a proxy of N workers lets N times as many guesses through, which is nothing against
160 random bits. Times are seconds of a clock that only goes forward, and come in as arguments.

Laws:
- What is counted goes by the name that the client claims, whether there is such an agent or not: nothing is told by it.
- Nobody locks an agent out from elsewhere. Only (source, agent) and a source that nobody has logged in from are refused; an agent
  that is guessed at from many places is slowed down, and not for a source that it has logged in from.
- Memory is bounded: of each kind the newest KEPT are remembered.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

KEPT: Final = 10_000
"""Sources, agents and pairs of them that are remembered: a megabyte or two each."""
SOURCE_FACTOR: Final = 10
"""A source fails for so many agents as one that is guessed at, before it is refused: many agents share a machine."""
AGENT_FACTOR: Final = 2
"""Failures of an agent from anywhere, in limits of one source, before its logins wait."""
STEP: Final = 0.1
LONGEST_WAIT: Final = 2.0
"""Seconds: each failure beyond the limit makes a login wait STEP longer, and at most so long. A login has 15 seconds."""
GOOD_FOR: Final = 86_400.0
"""Seconds for which a source that an agent has logged in from is known to be good."""
NAME_MAX: Final = 128
"""Characters of a claimed name that are told apart."""
SOURCE_LINES: Final = 20
ALL_LINES: Final = 200
"""Lines of refused logins that the audit gets in a window, from one source and from all."""

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proceed:
    """The login goes on, after so many seconds."""

    wait: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TooMany:
    """The login is refused; it may be tried again after so many seconds."""

    retry_after: float
    why: str


class Throttle:
    """Failures of the last `window` seconds; `limit` is how many one source may have for one agent."""

    def __init__(self, *, limit: int, window: float, kept: int = KEPT) -> None:
        self.limit = limit
        self.window = window
        self._pairs = _Counts[tuple[str, str]](kept)
        self._sources = _Counts[str](kept)
        self._agents = _Counts[str](kept)
        self._good: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._kept = kept

    def judge(self, source: str, agent: str, now: float) -> Proceed | TooMany:
        """What becomes of a login of `agent`, the name that the client claims, from `source`."""
        pair = (place(source), agent[:NAME_MAX])
        count, left = self._pairs.count(pair, now, self.window)
        if count >= self.limit:
            return TooMany(retry_after=left, why="too many wrong tokens for this agent from this address")
        if self._is_good(pair, now):
            return Proceed()
        count, left = self._sources.count(pair[0], now, self.window)
        if count >= self.limit * SOURCE_FACTOR:
            return TooMany(retry_after=left, why="too many wrong tokens from this address")
        count, _ = self._agents.count(pair[1], now, self.window)
        beyond = count - self.limit * AGENT_FACTOR
        return Proceed(wait=min(LONGEST_WAIT, STEP * beyond) if beyond > 0 else 0.0)

    def failed(self, source: str, agent: str, now: float) -> None:
        """A client proved no token."""
        pair = (place(source), agent[:NAME_MAX])
        self._pairs.add(pair, now, self.window)
        self._sources.add(pair[0], now, self.window)
        self._agents.add(pair[1], now, self.window)

    def succeeded(self, source: str, agent: str, now: float) -> None:
        """A client proved a token: what this agent got wrong from here is forgotten."""
        pair = (place(source), agent[:NAME_MAX])
        self._pairs.forget(pair)
        self._good[pair] = now
        self._good.move_to_end(pair)
        if len(self._good) > self._kept:
            self._good.popitem(last=False)

    def _is_good(self, pair: tuple[str, str], now: float) -> bool:
        seen = self._good.get(pair)
        return seen is not None and now - seen < GOOD_FOR

    def __len__(self) -> int:
        """The entries that are remembered."""
        return len(self._pairs) + len(self._sources) + len(self._agents) + len(self._good)


class RefusedLines:
    """Which refused logins get a line in the audit, and how many did not. A window begins with its first line."""

    def __init__(self, *, window: float, per_source: int = SOURCE_LINES, together: int = ALL_LINES, kept: int = KEPT) -> None:
        self._window = window
        self._per_source = per_source
        self._together = together
        self._written = _Counts[str](kept)
        self._begun = float("-inf")
        self._lines = 0
        self._left_out: dict[str, int] = {}

    def take(self, source: str, now: float) -> bool:
        """Whether this one is written down. One that is not is counted."""
        if now - self._begun >= self._window:
            self._begun, self._lines = now, 0
        key = place(source)
        count, _ = self._written.count(key, now, self._window)
        if count < self._per_source and self._lines < self._together:
            self._written.add(key, now, self._window)
            self._lines += 1
            return True
        # As many names as lines, so that a summary is no longer than what it stands for; the rest have one line together.
        name = key if key in self._left_out or len(self._left_out) < self._together else ""
        self._left_out[name] = self._left_out.get(name, 0) + 1
        return False

    def left_out(self, now: float) -> Iterator[tuple[str, int]]:
        """Once a window is over: each source with its refusals that got no line; the empty source stands for all the others."""
        if self._left_out and now - self._begun >= self._window:
            yield from self.drain()

    def drain(self) -> Iterator[tuple[str, int]]:
        """As `left_out`, at once."""
        left, self._left_out = self._left_out, {}
        yield from left.items()


def place(source: str) -> str:
    """What counts as one source: an IPv4 address, the /64 of an IPv6 address (a host has as many as it likes), any other word."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return source[:NAME_MAX]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)


class _Counts(Generic[K]):
    """Counters that begin anew `window` seconds after their first count; the ones counted longest ago are forgotten first."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._counts: OrderedDict[K, tuple[float, int]] = OrderedDict()

    def count(self, key: K, now: float, window: float) -> tuple[int, float]:
        """The count, and the seconds until it begins anew."""
        begun, count = self._counts.get(key, (now, 0))
        left = begun + window - now
        return (count, left) if left > 0 else (0, 0.0)

    def add(self, key: K, now: float, window: float) -> None:
        begun, count = self._counts.get(key, (now, 0))
        self._counts[key] = (begun, count + 1) if begun + window > now else (now, 1)
        self._counts.move_to_end(key)
        if len(self._counts) > self._kept:
            self._counts.popitem(last=False)

    def forget(self, key: K) -> None:
        self._counts.pop(key, None)

    def __len__(self) -> int:
        return len(self._counts)
