"""Entries of one worker on their way out, by number, and who waits for them to be kept. In memory, without I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from dbshield.control.audit_store import takeable
from dbshield.errors import DbshieldError

BATCH: Final = 2_000
"""Entries that go out at a time: some twenty milliseconds of the database's work."""

Told = Callable[[DbshieldError | None], None]


class Outbox:
    """`first` is the number of the oldest entry in it; numbers begin at 1 and have no gaps. `kept` is the number of the newest
    entry that is kept for good."""

    __slots__ = ("_entries", "_unnumbered", "_waiting", "first", "kept")

    def __init__(self) -> None:
        self._entries: deque[str] = deque()
        self._waiting: deque[tuple[int, Told]] = deque()
        self._unnumbered: list[Told] = []
        self.first = 1
        self.kept = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def all_kept(self) -> bool:
        """Whether everything that was ever put in is kept for good."""
        return self.first + len(self._entries) - 1 <= self.kept

    def put(self, lines: list[str]) -> None:
        """JSON objects of one line each, in order."""
        self._entries += map(takeable, lines)

    def batch(self) -> list[str]:
        """The oldest entries; they stay in here until `gone`."""
        return list(islice(self._entries, BATCH))

    def gone(self, count: int) -> None:
        """The oldest so many are somewhere else."""
        for _ in range(count):
            self._entries.popleft()
        self.first += count

    def wait(self, told: Told) -> None:
        """Tell when all that is in here is kept, once `number` was called: what it waits for is still to be put in."""
        self._unnumbered.append(told)

    def number(self) -> None:
        """All that they wait for who do is in here now."""
        if self._unnumbered:
            newest = self.first + len(self._entries) - 1
            self._waiting.extend((newest, told) for told in self._unnumbered)
            self._unnumbered.clear()
            self.tell(self.kept)

    def tell(self, kept: int) -> None:
        """Everything up to this number is kept for good."""
        self.kept = max(self.kept, kept)
        while self._waiting and self._waiting[0][0] <= self.kept:
            self._waiting.popleft()[1](None)

    def fail(self, error: DbshieldError) -> None:
        """Nobody needs to wait any longer."""
        waiting, self._waiting = self._waiting, deque()
        unnumbered, self._unnumbered = self._unnumbered, []
        for _, told in waiting:
            told(error)
        for told in unnumbered:
            told(error)
