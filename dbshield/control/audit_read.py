"""Reads the audit from the control database: searching, following, exporting, verifying, and checkpoints for others to keep.

Everything that walks the whole chain does so row by row, in one snapshot that no writer disturbs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import ColumnElement, Connection, and_, not_, select, text, true

from dbshield.control.audit_chain import Fault, Head, Link, Verifier
from dbshield.control.audit_store import stamp
from dbshield.control.vault import Vault
from dbshield.errors import ConfigError, StoreError
from dbshield.rule_ids import members
from dbshield.store.database import Database
from dbshield.store.schema import audit, audit_head

PURPOSE: Final = "audit checkpoints"
"""What the signing key is derived for, from the key that every machine of an installation has."""
SIGNED: Final = "dbshield audit checkpoint 1\n{position}\n{hash}\n{recorded_at}\n"
ROWS: Final = 1_000
"""Rows that are fetched at a time."""
MAX_FAULTS: Final = 100
"""Faults that are told of one chain; a chain that has more is no chain."""

FIELDS: Final = [audit.c[name] for name in Link.__slots__]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which entries: those that all of this holds for. `rule` is an id or a family, `text` stands anywhere in the entry, in
    whatever case, `after` is the id that they stand behind, `before` the one that they stand in front of. `observed` leaves those
    that a policy would not have allowed, had it not only observed."""

    environment: str | None = None
    agent: str | None = None
    kind: str | None = None
    verdict: str | None = None
    rule: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None
    observed: bool = False
    after: int | None = None
    before: int | None = None

    def condition(self) -> ColumnElement[bool]:
        """ConfigError where `rule` is none."""
        parts: list[ColumnElement[bool]] = [true()]
        for name in ("environment", "agent", "kind", "verdict"):
            value = getattr(self, name)
            if value is not None:
                parts.append(audit.c[name] == value)
        if self.rule is not None:
            rules = members(self.rule)
            if not rules:
                raise ConfigError(f'"{self.rule}" is no rule', hint="Rules have ids such as DS201, families such as DS2xx.")
            parts.append(audit.c.rules.overlap(rules))
        if self.since is not None:
            parts.append(audit.c.at >= self.since)
        if self.until is not None:
            parts.append(audit.c.at < self.until)
        if self.text is not None:
            # An entry is ASCII: whatever else is in a text stands there as JSON escapes it.
            parts.append(audit.c.entry.icontains(json.dumps(self.text)[1:-1], autoescape=True))
        if self.observed:
            # As a field's name alone: within a text its quotation marks are escaped. What would have been allowed has it, too.
            parts.append(audit.c.entry.contains('"observed":"', autoescape=True))
            parts.append(not_(audit.c.entry.contains('"observed":"allow"', autoescape=True)))
        if self.after is not None:
            parts.append(audit.c.id > self.after)
        if self.before is not None:
            parts.append(audit.c.id < self.before)
        return and_(*parts)


def newest(database: Database, which: Filter, limit: int) -> list[Link]:
    """The newest entries that the filter lets through, at most so many, in the order of the chain."""
    query = select(*FIELDS).where(which.condition()).order_by(audit.c.id.desc()).limit(limit)
    with database.transaction() as connection:
        return [link_of(row) for row in connection.execute(query)][::-1]


def position(database: Database) -> int:
    """The id of the newest entry, 0 where there is none."""
    with database.transaction() as connection:
        return connection.scalar(select(audit_head.c.position)) or 0


def following(database: Database, which: Filter, after: int) -> tuple[list[Link], int]:
    """The entries behind an id, oldest first, and the id to go on from."""
    query = select(*FIELDS).where(which.condition(), audit.c.id > after).order_by(audit.c.id).limit(ROWS)
    with one_snapshot(database) as connection:
        position: int = connection.scalar(select(audit_head.c.position)) or 0
        found = [link_of(row) for row in connection.execute(query)]
    return found, found[-1].id if len(found) == ROWS else max(position, after)


def stream(database: Database, which: Filter) -> Iterator[Link]:
    """All entries that the filter lets through, in the order of the chain."""
    with one_snapshot(database) as connection:
        yield from _rows(connection, which)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where the chain stood: kept by somebody else, it proves that nothing in front of it was changed. `hash` and `signature` are
    hexadecimal, `public_key` is the Ed25519 key that the signature is checked with."""

    position: int
    hash: str
    recorded_at: str
    public_key: str
    signature: str

    @classmethod
    def parse(cls, written: str) -> Checkpoint:
        """From the JSON object that `dbshield audit checkpoint` prints. ConfigError where it is none."""
        try:
            said = json.loads(written)
            made = cls(**{name: said[name] for name in cls.__slots__})
            bytes.fromhex(made.hash + made.public_key + made.signature)
            int(made.position)
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError("this is no checkpoint", hint="`dbshield audit checkpoint --json` prints one.") from error
        return made

    def is_signed_by(self, public_key: str) -> bool:
        """Whether who has the private half of this key has made it."""
        said = SIGNED.format(position=self.position, hash=self.hash, recorded_at=self.recorded_at)
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(self.signature), said.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


def public_key(vault: Vault) -> str:
    """The key that checkpoints of this installation are checked with."""
    return _public(_key(vault))


def public_keys(vault: Vault) -> tuple[str, ...]:
    """That one, and those of keys that were in use before it and stand in the key file still."""
    return tuple(_public(Ed25519PrivateKey.from_private_bytes(seed)) for seed in vault.derived(PURPOSE))


def checkpoint(database: Database, vault: Vault) -> Checkpoint:
    """Where the chain stands now, signed. StoreError where there is no entry yet."""
    with database.transaction() as connection:
        head = head_in(connection)
    if head.recorded_at is None:
        raise StoreError("the audit has no entry yet", hint="There is nothing to make a checkpoint of.")
    digest, recorded_at = head.hash.hex(), stamp(head.recorded_at)
    said = SIGNED.format(position=head.position, hash=digest, recorded_at=recorded_at)
    return Checkpoint(
        position=head.position,
        hash=digest,
        recorded_at=recorded_at,
        public_key=public_key(vault),
        signature=_key(vault).sign(said.encode()).hex(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of a verification: `first` and `last` are the ids between which the chain was walked."""

    entries: int
    first: int
    last: int
    hash: str
    faults: tuple[Fault, ...]


def verify(database: Database, kept: Checkpoint | None = None) -> Report:
    """Walks the whole chain. With a checkpoint, whose signature the caller has checked, the chain must have had that hash there.

    StoreError where the checkpoint is of a place that retention has dropped: then nothing can be said.
    """
    faults: list[Fault] = []
    with one_snapshot(database) as connection:
        head = head_in(connection)
        if kept is not None and kept.position <= head.dropped:
            raise StoreError(
                f"the checkpoint is of entry {kept.position}, and retention has dropped all up to {head.dropped}",
                hint="Compare with a newer checkpoint.",
            )
        verifier = Verifier(head)
        for link in _rows(connection, Filter()):
            faults += verifier.take(link)
            if kept is not None and link.id == kept.position and link.hash.hex() != kept.hash:
                faults.append(Fault(id=link.id, kind="checkpoint", message=f"entry {link.id} is not the one of the checkpoint"))
            if len(faults) >= MAX_FAULTS:
                break
        else:
            faults += verifier.finish()
            if kept is not None and kept.position > head.position:
                message = f"the end was cut off: the chain reached entry {kept.position} at the checkpoint, {head.position} now"
                faults.append(Fault(id=head.position + 1, kind="checkpoint", message=message))
    return Report(
        entries=verifier.entries, first=head.dropped + 1, last=head.position, hash=head.hash.hex(), faults=tuple(faults)
    )


def exported(link: Link) -> str:
    """An entry as a line of JSON: all that its hash is made of, with the entry's own letters at the end."""
    recorded = stamp(link.recorded_at)
    writer = f'"{link.writer}"' if link.writer is not None else "null"
    sequence = "null" if link.sequence is None else link.sequence
    return (
        f'{{"id":{link.id},"recorded_at":"{recorded}","writer":{writer},"sequence":{sequence},'
        f'"hash":"{link.hash.hex()}","entry":{link.entry}}}'
    )


@contextmanager
def one_snapshot(database: Database) -> Iterator[Connection]:
    """A transaction that only reads, and sees one moment."""
    with database.transaction() as connection:
        connection.execute(text("set transaction isolation level repeatable read, read only"))
        yield connection


def _rows(connection: Connection, which: Filter) -> Iterator[Link]:
    query = select(*FIELDS).where(which.condition()).order_by(audit.c.id)
    # Closed also where somebody stops in the middle.
    with connection.execute(query, execution_options={"yield_per": ROWS}) as rows:
        for row in rows:
            yield link_of(row)


def link_of(row: Any) -> Link:
    """An entry from a row of `FIELDS`."""
    values = row._mapping
    rules = values["rules"]
    return Link(**{**values, "rules": tuple(rules) if rules is not None else None})


def head_in(connection: Connection) -> Head:
    """Where the chain ends and begins. StoreError where somebody has taken that away."""
    # Before the first entry the time is -infinity, which Python has no word for.
    columns = [column for column in audit_head.c if column.name not in {"one", "recorded_at"}]
    row = connection.execute(select(*columns)).one_or_none()
    if row is None:
        raise StoreError("the audit has lost its head", hint="Somebody has emptied dbshield.audit_head; verify against a backup.")
    recorded_at = connection.scalar(select(audit_head.c.recorded_at)) if row.position else None
    return Head(**row._mapping, recorded_at=recorded_at)


def _public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def _key(vault: Vault) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(vault.derive(PURPOSE))
