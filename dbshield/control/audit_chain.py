"""The chain of the audit: what each entry's hash is made of, and what a chain that was tampered with looks like.

    hash = SHA-256( hash of the entry before ‖ "<id> <recorded> <writer> <sequence> <entry>" in UTF-8 )

`recorded` is the time at which the entry was taken in, in microseconds since 1970; writer and sequence are `-` where there is
none; in front of the first entry stand 32 zero bytes. Each entry's hash so depends on all that came before it. Whoever changes an
entry has to make every later hash anew, and the checkpoint that somebody else has kept then fits no more. Pure: no I/O.

The same stands in SQL in migration 0007, where the chain is made; a test holds the two together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

GENESIS: Final = bytes(32)
"""What stands in front of the first entry."""
RETENTION_KIND: Final = "audit-retention"
"""The entry that says up to where retention has dropped the chain."""
MICROSECOND: Final = timedelta(microseconds=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
TEXTS: Final = ("environment", "agent", "database", "person", "verdict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One row of the audit."""

    id: int
    recorded_at: datetime
    at: datetime
    kind: str
    environment: str | None
    agent: str | None
    database: str | None
    session: int | None
    person: str | None
    verdict: str | None
    rules: tuple[str, ...] | None
    writer: UUID | None
    sequence: int | None
    entry: str
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where the chain ends, and where it begins: `dropped` is the newest entry that retention took, 0 for none."""

    position: int
    hash: bytes
    recorded_at: datetime | None
    dropped: int
    dropped_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that is wrong with the chain, at the entry `id`. `kind` is missing, repeated, changed, column, cut or begin."""

    id: int
    kind: str
    message: str


def link_hash(before: bytes, link: Link) -> bytes:
    """The hash of an entry behind one with the hash `before`."""
    recorded = (link.recorded_at - EPOCH) // MICROSECOND
    writer = link.writer if link.writer is not None else "-"
    sequence = link.sequence if link.sequence is not None else "-"
    return hashlib.sha256(before + f"{link.id} {recorded} {writer} {sequence} {link.entry}".encode()).digest()


class Verifier:
    """Walks a chain from its beginning: `take` each entry in the order of the ids, `finish` at the end."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._before = head.dropped_hash if head.dropped else GENESIS
        self._expected = head.dropped + 1
        self._excused = not head.dropped and head.dropped_hash == GENESIS
        """Whether it is known why the chain begins where it does."""
        self._recorded_at: datetime | None = None
        self.entries = 0

    def take(self, link: Link) -> Iterator[Fault]:
        """What is wrong with this entry, and between it and the one before."""
        self.entries += 1
        if link.id < self._expected:
            yield Fault(id=link.id, kind="repeated", message=f"entry {link.id} stands behind entry {self._expected - 1}")
            return
        if link.id > self._expected:
            last = link.id - 1
            which = f"entry {last} is" if last == self._expected else f"entries {self._expected} to {last} are"
            yield Fault(id=self._expected, kind="missing", message=f"{which} missing")
        elif link_hash(self._before, link) != link.hash:
            yield Fault(
                id=link.id, kind="changed", message=f"entry {link.id} was changed: its hash does not follow from the one before"
            )
        elif self._recorded_at is not None and link.recorded_at < self._recorded_at:
            yield Fault(id=link.id, kind="changed", message=f"entry {link.id} was taken in before the one in front of it")
        yield from _columns(link)
        # After a fault the walk goes on from what stands here, so that each fault is told once.
        self._before, self._expected, self._recorded_at = link.hash, link.id + 1, link.recorded_at
        self._excused = self._excused or self._is_excuse(link)

    def finish(self) -> Iterator[Fault]:
        """What is wrong with the end and the beginning."""
        head, newest = self._head, self._expected - 1
        if newest < head.position:
            which = f"entry {head.position} is" if head.position == newest + 1 else f"entries {newest + 1} to {head.position} are"
            yield Fault(id=newest + 1, kind="cut", message=f"the end was cut off: {which} missing")
        elif newest > head.position:
            yield Fault(id=head.position + 1, kind="cut", message=f"entry {newest} stands behind the end, {head.position}")
        elif self._before != head.hash:
            yield Fault(id=newest, kind="cut", message=f"the chain ends in another hash than entry {newest} has")
        elif self._recorded_at != head.recorded_at:
            # Entries to come are never before it: so it decides which month they are kept with.
            yield Fault(id=newest, kind="cut", message=f"the chain ends at another time than entry {newest} was taken in")
        if not self._excused:
            yield Fault(
                id=head.dropped + 1,
                kind="begin",
                message=f"the chain begins behind entry {head.dropped}, and no entry of retention says why",
            )

    def _is_excuse(self, link: Link) -> bool:
        if link.kind != RETENTION_KIND:
            return False
        said = _object(link.entry)
        return said.get("to") == self._head.dropped and said.get("hash") == self._head.dropped_hash.hex()


def _columns(link: Link) -> Iterator[Fault]:
    """The columns are for searching and are not hashed, so they have to say what the entry says."""
    said = _object(link.entry)
    wrong = [name for name in TEXTS if getattr(link, name) != said.get(name)]
    wrong += ["kind"] if link.kind != said.get("event") else []
    wrong += ["session"] if link.session != said.get("session") else []
    wrong += ["rules"] if link.rules != (tuple(said["rules"]) if "rules" in said else None) else []
    try:
        wrong += ["at"] if link.at != datetime.fromisoformat(str(said.get("ts"))) else []
    except ValueError:
        wrong.append("at")
    if wrong:
        message = f"entry {link.id} was changed: column {', '.join(wrong)} does not say what the entry says"
        yield Fault(id=link.id, kind="column", message=message)


def _object(entry: str) -> dict[str, Any]:
    try:
        said = json.loads(entry)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
