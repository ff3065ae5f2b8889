"""Which place in the WAL shows exactly what a snapshot of the database showed. Pure: nothing here reads a server.

Recovery stops between two commit records, so what it shows are the transactions whose records lie before that place. A snapshot
shows those that had ended when it was taken, and a transaction ends a little after its record was written: after the flush,
and in an order of its own. So a place that shows the same need not exist. It does where every commit that the snapshot shows
lies before every commit that it does not show; then it is the first of the latter.

Source: src/backend/access/transam/xact.c (CommitTransaction), xlogrecovery.c (recoveryStopsBefore); pg_waldump.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

COMMIT = re.compile(
    r"^rmgr: Transaction .* tx: +(?P<xid>\d+), lsn: (?P<lsn>[0-9A-F]+/[0-9A-F]+), .* desc: (?P<what>COMMIT|ABORT)"
    r"(?:_PREPARED (?P<prepared>\d+))?\b"
)
XIDS = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """pg_current_snapshot(): transactions at or beyond `end` had not begun, those in `running` had not ended."""

    end: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> View:
        """From `xmin:xmax:xip,…`. Raises ValueError."""
        _, end, running = text.split(":")
        return cls(end=int(end), running=frozenset(int(xid) for xid in running.split(",") if xid))

    def shows(self, xid: int) -> bool:
        """Whether it shows a transaction that did commit."""
        return xid < self.end and xid not in self.running


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The record of a transaction's end: where it begins, and the transaction, in 32 bits as the WAL has it."""

    lsn: int
    xid: int
    committed: bool


def ends(lines: Iterable[str]) -> tuple[End, ...]:
    """The ends in pg_waldump's output, in the WAL's order."""
    return tuple(
        End(lsn=lsn(found["lsn"]), xid=int(found["prepared"] or found["xid"]), committed=found["what"] == "COMMIT")
        for line in lines
        if (found := COMMIT.match(line)) is not None
    )


def target(views: Sequence[View], found: Sequence[End]) -> int | None:
    """The LSN before which recovery has to stop to show what all `views` show; nothing where there is no such place.

    `found` are all ends from before the views were taken, up to a commit that none of them shows.
    """
    newest = max(view.end for view in views)
    before = after = None
    for end in found:
        if not end.committed:
            continue
        xid = wide(end.xid, newest)
        shown = {view.shows(xid) for view in views}
        if len(shown) > 1:
            return None
        if True in shown:
            before = end.lsn
        elif after is None:
            after = end.lsn
    if after is None or (before is not None and before >= after):
        return None
    return after


def undecided(views: Sequence[View], earlier: View, found: Sequence[End]) -> frozenset[int]:
    """Transactions that run since before `found` begins, and whose end is not in it: they may have written it before that."""
    over = {end.xid for end in found}
    running = frozenset().union(*(view.running for view in views)) & earlier.running
    return frozenset(xid for xid in running if xid % XIDS not in over)


def wide(xid: int, near: int) -> int:
    """The transaction of these 32 bits that is nearest to one that is known in full."""
    ahead = (xid - near) % XIDS
    return near + (ahead if ahead < XIDS // 2 else ahead - XIDS)


def lsn(text: str) -> int:
    """`16/B374D848` as a number. Raises ValueError."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def lsn_text(number: int) -> str:
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


def segment_name(timeline: int, number: int, size: int) -> str:
    """The file of the segment of this number, `size` bytes long."""
    per = (1 << 32) // size
    return f"{timeline:08X}{number // per:08X}{number % per:08X}"
