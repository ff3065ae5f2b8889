"""The manifest of a snapshot: what belongs to it, byte by byte, signed.

It lies in clear beside the sealed members, so it says nothing about the data but its size: names, counts and fingerprints of
tables stand in the record, which is a member. The text is canonical JSON (sorted keys, no spaces, only whole numbers), so that
the copy in the control database makes the same bytes again.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from dbshield.backup.damage import Damaged

FORMAT = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
CLAIM = "claim"
RECORD = "record.json"
"""The member that holds what was counted and fingerprinted."""
MAX_BYTES = 64 << 20
"""Of a manifest; a million members are 200 MB, and no dump has as many."""

SNAPSHOT_ID = re.compile(r"[0-9]{8}t[0-9]{6}z-[a-z2-7]{8}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of a snapshot. `bytes` as it was read, `stored` and `sha256` (hexadecimal) as it lies at the destination."""

    name: str
    bytes: int
    stored: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The protected server at the moment of the snapshot. `system` is its system identifier, in digits."""

    version: int
    system: str
    timeline: int
    lsn: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What another tool keeps of a snapshot in a repository of its own: its name there, and the SHA-256 (hexadecimal) of the list
    with the checksums of its files. `bytes` as they were read, `stored` as they lie there."""

    stanza: str
    repository: int
    label: str
    sha256: str
    bytes: int
    stored: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All about a snapshot that needs no key. `recipients` is empty where it is not encrypted. Times are UTC, in seconds."""

    snapshot: str
    environment: str
    plan: str
    engine: str
    kind: str
    parent: str | None
    began: str
    ended: str
    server: Server
    recipients: tuple[str, ...]
    programs: str
    dbshield: str
    members: tuple[Member, ...]
    outside: Outside | None = None

    @property
    def encrypted(self) -> bool:
        return bool(self.recipients)

    @property
    def size(self) -> int:
        """Bytes before compression."""
        return sum(member.bytes for member in self.members)

    @property
    def stored(self) -> int:
        return sum(member.stored for member in self.members)

    @property
    def size_everywhere(self) -> int:
        """With what another tool keeps of it."""
        return self.size + (self.outside.bytes if self.outside is not None else 0)

    @property
    def stored_everywhere(self) -> int:
        return self.stored + (self.outside.stored if self.outside is not None else 0)

    def member(self, name: str) -> Member:
        """Raises Damaged where there is none of this name."""
        for member in self.members:
            if member.name == name:
                return member
        raise Damaged(f"the snapshot {self.snapshot} has no {name}", hint="It was not made by this engine; use another one.")

    def tree(self) -> dict[str, Any]:
        """As JSON knows it. What is not there is not named: a text that was signed before the name existed stays the same."""
        tree = {"format": FORMAT, **asdict(self)}
        if self.outside is None:
            del tree["outside"]
        return tree

    def text(self) -> bytes:
        """The canonical text that is signed."""
        return json.dumps(self.tree(), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    def sha256(self) -> bytes:
        return hashlib.sha256(self.text()).digest()


def parse(text: bytes) -> Manifest:
    """A manifest from its text. Raises Damaged where it is none, or none that this dbshield reads."""
    try:
        tree = json.loads(text)
        if tree["format"] != FORMAT:
            raise Damaged(
                f"the manifest has format {tree['format']}, this dbshield reads {FORMAT}",
                hint="Install the dbshield that wrote it.",
            )
        del tree["format"]
        tree["members"] = tuple(Member(**member) for member in tree["members"])
        tree["server"] = Server(**tree["server"])
        tree["recipients"] = tuple(tree["recipients"])
        if "outside" in tree:
            tree["outside"] = Outside(**tree["outside"])
        found = Manifest(**tree)
        sane = (
            SNAPSHOT_ID.fullmatch(found.snapshot) is not None
            and all(_NAME.fullmatch(member.name) and member.bytes >= 0 and member.stored >= 0 for member in found.members)
            and len({member.name for member in found.members}) == len(found.members)
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged("the manifest cannot be read", hint="Use another snapshot.") from error
    if not sane:
        raise Damaged("the manifest names something that is no member of a snapshot", hint="Use another snapshot.")
    return found


def check_name(name: str) -> str:
    """The name of a member: letters, digits, `_.+-` and `/`. Raises ValueError."""
    if _NAME.fullmatch(name) is None or name in {MANIFEST, SIGNATURE, CLAIM}:
        raise ValueError(f"{name!r} is no name of a member")
    return name


def moment(when: datetime) -> str:
    """A time as a manifest writes it."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def snapshot_id(when: datetime, random: str) -> str:
    """`20260501t120000z-abcdefgh`: sorts by time, fits every store's names. `random` are 8 of a-z2-7."""
    return f"{when.astimezone(UTC):%Y%m%dt%H%M%Sz}-{random}"
