"""What the WAL archive holds: segments, what there is of the newest one, and timeline histories; how each is named and signed.

An object is a text of three lines and a body: what it is, as canonical JSON; the signature over that; then zstandard and age, as
members of snapshots are. So the archive needs no catalogue to be believed, and one request puts a segment there whole.

`<environment>/wal/<plan>/<system identifier>/<timeline>/<name>`; what there is of a segment that is not full yet is called
`<segment>.<bytes>.partial`, and gone when the segment is there.

Source: PostgreSQL manual, "Continuous Archiving"; src/include/access/xlog_internal.h for the names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum, unique
from typing import Any

from dbshield.backup import keys
from dbshield.backup.damage import Damaged
from dbshield.backup.keys import Signature
from dbshield.backup.moment import segment_name

FORMAT = 1
MAGIC = b"dbshield-wal-1\n"
PURPOSE_WAL = b"dbshield wal 1\n"
FOLDER = "wal"
SEGMENT = re.compile(r"[0-9A-F]{24}")
HISTORY = re.compile(r"[0-9A-F]{8}\.history")
_NAME = re.compile(r"(?P<segment>[0-9A-F]{24})(?:\.(?P<length>[0-9A-F]{8})\.partial)?|(?P<history>[0-9A-F]{8}\.history)")


@unique
class Kind(StrEnum):
    SEGMENT = "segment"
    PARTIAL = "partial"
    HISTORY = "history"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One object of the archive. `start` and `end` are LSNs as numbers, 0 for a history; `size` in bytes as it was read,
    `stored` and `sha256` of the body as it lies there, `plain` the SHA-256 of what was read.

    Everything that was committed before `marked_at` (the server's clock, RFC 3339) lies before the LSN `mark`, and that in this
    object or in one before it: up to there any moment can be restored. Nothing was marked yet where `marked_at` is empty.
    """

    environment: str
    plan: str
    system: str
    timeline: int
    kind: str
    name: str
    segment_size: int
    start: int
    end: int
    size: int
    stored: int
    sha256: str
    plain: str
    recipients: tuple[str, ...]
    mark: int
    marked_at: str
    shipped_at: str

    @property
    def key(self) -> str:
        return f"{prefix(self.environment, self.plan)}{self.system}/{self.timeline:08X}/{self.object_name}"

    @property
    def object_name(self) -> str:
        return f"{self.name}.{self.end - self.start:08X}.partial" if self.kind == Kind.PARTIAL else self.name

    @property
    def marked(self) -> datetime | None:
        return datetime.fromisoformat(self.marked_at) if self.marked_at else None

    def text(self) -> bytes:
        """What is signed."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An object of the archive as its name tells; nothing of it was checked. `length` is that of a partial one, in bytes."""

    key: str
    system: str
    timeline: int
    kind: Kind
    name: str
    length: int
    stored: int


def prefix(environment: str, plan: str) -> str:
    return f"{environment}/{FOLDER}/{plan}/"


def held(key: str, stored: int, *, environment: str, plan: str) -> Held | None:
    """What the key of an object says; nothing for what is none of the archive's."""
    parts = key.removeprefix(prefix(environment, plan)).split("/")
    if len(parts) != 3 or not parts[0].isdigit() or not re.fullmatch("[0-9A-F]{8}", parts[1]):
        return None
    found = _NAME.fullmatch(parts[2])
    if found is None:
        return None
    name = found["history"] or found["segment"]
    kind = Kind.HISTORY if found["history"] else Kind.PARTIAL if found["length"] else Kind.SEGMENT
    if not name.startswith(parts[1]):
        return None
    return Held(
        key=key,
        system=parts[0],
        timeline=int(parts[1], 16),
        kind=kind,
        name=name,
        length=int(found["length"] or "0", 16),
        stored=stored,
    )


def parse(text: bytes, signature: bytes, trusted: Mapping[str, bytes], *, key: str) -> Piece:
    """The piece that the first lines of an object tell of. Raises Damaged unless a known key signed it, for this place."""
    name = key.rpartition("/")[2]
    try:
        tree: dict[str, Any] = json.loads(text)
        signed = json.loads(signature)
        kept = Signature(key=str(signed["key"]), value=bytes.fromhex(signed["signature"]))
        if tree.pop("format") != FORMAT:
            raise Damaged(f"{name} of the WAL archive is of a newer dbshield", hint="Install the dbshield that wrote it.")
        piece = Piece(**{**tree, "recipients": tuple(tree["recipients"])})
        Kind(piece.kind)
        datetime.fromisoformat(piece.marked_at or piece.shipped_at)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(f"{name} of the WAL archive cannot be read", hint="It was changed at the destination.") from error
    keys.check(kept, PURPOSE_WAL, piece.text(), trusted, what=f"{name} of the WAL archive")
    if piece.key != key:
        raise Damaged(f"{key} holds {piece.key}", hint="Somebody moved objects at the destination.")
    return piece


def number_of(name: str, size: int) -> int:
    """The number of a segment of `size` bytes, from its file's name: its first LSN is that many segments from the beginning."""
    return int(name[8:16], 16) * ((1 << 32) // size) + int(name[16:24], 16)


def timeline_of(name: str) -> int:
    return int(name[:8], 16)


def segment_at(timeline: int, lsn: int, size: int) -> str:
    """The segment that has the byte at an LSN."""
    return segment_name(timeline, lsn // size, size)


def slot_name(plan: str) -> str:
    return "dbshield_" + plan.replace("-", "_")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
