"""The WAL archive of one plan at its destination: what is there, putting pieces there, and reading them back.

Laws:
- Nothing is written over. A piece that is there already with the same content is fine; with another content it is an error.
- What is read is believed only after its signature, its place, its size and its SHA-256 were checked.
- A piece is in memory while it is put or read: no more than a segment, 16 MiB where nobody chose otherwise.
- Where the store can keep objects from being deleted, a piece counts as put when it is locked. What was then written over it or
  hides it is looked below, and noted with the store (`versions.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from dbshield.backup import sealing, versions, wal
from dbshield.backup.damage import Absent, Damaged, Taken
from dbshield.backup.keys import SigningKey
from dbshield.backup.store import Holding, Source, Store
from dbshield.backup.wal import MAGIC, PURPOSE_WAL, Held, Kind, Piece
from dbshield.errors import BackupError

HEAD_BYTES = 64 << 10
"""Of the first three lines; recipients are most of it."""
PARTIAL_DAYS = 1
"""For which the beginning of a segment is locked. It is put anew as long as the segment grows, and each stays until then."""

T = TypeVar("T")


class Archive:
    """The WAL of the environment's clusters, as one plan keeps it."""

    def __init__(self, store: Store, environment: str, plan: str) -> None:
        self.store = store
        self.environment = environment
        self.plan = plan

    def held(self, system: str = "") -> tuple[Held, ...]:
        """What is there of one cluster, or of all, by name. Nothing of it is checked."""
        where = wal.prefix(self.environment, self.plan) + (f"{system}/" if system else "")
        found = (
            wal.held(item.key, item.size, environment=self.environment, plan=self.plan)
            for item in versions.there(self.store, where)
        )
        return tuple(sorted((each for each in found if each is not None), key=lambda each: each.key))

    def put(
        self,
        piece: Piece,
        data: bytes,
        *,
        to: Sequence[sealing.Recipient],
        level: int,
        key: SigningKey,
        trusted: Mapping[str, bytes],
    ) -> tuple[Piece, bool]:
        """Seal and put a piece, whose sizes and hashes are filled in here; and whether it was not there before.

        Raises BackupError where another content is there under its name, or the destination fails.
        """
        sink = io.BytesIO()
        sealing.seal(io.BytesIO(data), sink, to=to, level=level)
        body = sink.getvalue()
        whole = replace(piece, size=len(data), stored=len(body), sha256=hashlib.sha256(body).hexdigest(), plain=wal.digest(data))
        signed = key.sign(PURPOSE_WAL, whole.text())
        signature = json.dumps({"key": signed.key, "signature": signed.value.hex()}).encode()
        try:
            self.store.put_new(whole.key, b"".join((MAGIC, whole.text(), b"\n", signature, b"\n", body)))
        except Taken as error:
            there = self.head(whole.key, trusted)
            if there.plain != whole.plain:
                raise BackupError(
                    f"the archive has another {whole.object_name} at {self.store.place}, and nothing is written over",
                    hint="Another server was archived there, or this one went back. Give the plan a destination of its own.",
                ) from error
            self._hold(whole)
            return there, False
        self._hold(whole)
        return whole, True

    def _hold(self, piece: Piece) -> None:
        if isinstance(self.store, Holding):
            self.store.hold([piece.key], days=PARTIAL_DAYS if piece.kind == Kind.PARTIAL else None)

    def head(self, key: str, trusted: Mapping[str, bytes]) -> Piece:
        """What a piece is, without its body. Raises Absent, Damaged."""
        return self._original(key, lambda source: _opened(source, key, trusted)[0])

    def read(self, key: str, trusted: Mapping[str, bytes], identities: Sequence[sealing.Identity]) -> tuple[Piece, bytes]:
        """A piece and what is in it. Raises Absent, Damaged, WrongKey."""
        piece, body = self._original(key, lambda source: _whole(source, key, trusted))
        plain = io.BytesIO()
        sealing.unseal(
            io.BytesIO(body),
            plain,
            encrypted=bool(piece.recipients),
            keys=identities,
            expected=piece.size,
            name=f"{piece.object_name} of the WAL archive",
        )
        return piece, plain.getvalue()

    def remove(self, found: Held) -> None:
        self.store.delete(found.key)

    def held_until(self, found: Held) -> datetime | None:
        """Until when the store keeps a piece from being removed; nothing where it does not. Raises BackupError."""
        if not isinstance(self.store, Holding):
            return None
        kept = self.store.versions(found.key).get(found.key)
        holds = [self.store.held(found.key, each.id) for each in (kept.kept[: versions.TRIED] if kept is not None else ())]
        return max((hold.until for hold in holds if hold is not None), default=None)

    def newest_mark(self, found: Sequence[Held], trusted: Mapping[str, bytes]) -> Piece | None:
        """The piece of a timeline, among these, up to whose mark any moment can be restored; nothing where there is none."""
        for each in sorted(found, key=lambda each: (each.name, each.kind is Kind.SEGMENT, each.length), reverse=True):
            if each.kind is not Kind.HISTORY:
                return self.head(each.key, trusted)
        return None

    def _original(self, key: str, look: Callable[[Source], T]) -> T:
        """What `look` makes of an object; where that is not what was written, of the oldest version that is."""
        try:
            with self.store.open(key) as source:
                return look(source)
        except (Absent, Damaged):
            if not isinstance(self.store, Holding):
                raise
            found = self.store.versions(key).get(key)
            for each in found.kept[: versions.TRIED] if found is not None else ():
                with contextlib.suppress(Absent, Damaged), self.store.open_version(key, each) as source:
                    seen = look(source)
                    self.store.cover(f"{key.rpartition('/')[2]} of the WAL archive was written over or hidden")
                    return seen
            raise


def _opened(source: Source, key: str, trusted: Mapping[str, bytes]) -> tuple[Piece, bytes]:
    """The piece, and the beginning of its body. Raises Damaged."""
    head = b""
    while head.count(b"\n") < 3 and len(head) < HEAD_BYTES and (data := source.read(HEAD_BYTES)):
        head += data
    lines = head.split(b"\n", 3)
    if len(lines) != 4 or lines[0] + b"\n" != MAGIC:
        raise Damaged(f"{key.rpartition('/')[2]} of the WAL archive cannot be read", hint="It was changed there.")
    return wal.parse(lines[1], lines[2], trusted, key=key), lines[3]


def _whole(source: Source, key: str, trusted: Mapping[str, bytes]) -> tuple[Piece, bytes]:
    """The piece and its body, as it lies there. Raises Damaged."""
    piece, body = _opened(source, key, trusted)
    while len(body) <= piece.stored and (data := source.read(sealing.CHUNK)):
        body += data
    if len(body) != piece.stored or hashlib.sha256(body).hexdigest() != piece.sha256:
        raise Damaged(
            f"{piece.object_name} of the WAL archive is not what was written",
            hint="It was changed at the destination; restore to a moment before it, or from another destination.",
        )
    return piece, body
