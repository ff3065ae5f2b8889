"""The record of a snapshot: what a restore of it has to show. A member of the snapshot, and kept in the control database.

pg_verifybackup, pg_amcheck and pg_dump do not see rows that are gone from a page; counts and fingerprints taken with the snapshot
do. Everything here is plain JSON: numbers that may be beyond 2^53 are text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dbshield.backup.damage import Damaged

FORMAT = 1
OF_THE_DATABASE = ("owner", "encoding", "collation", "character_type")
"""Fields of `DatabaseRecord` that are of the database itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRecord:
    """One table. `sample` is n where the rows of one in n primary keys are in the fingerprint: 1 all, 0 none.

    `skipped` says why a relation was not counted; `rows` and `fingerprint` are nothing then. The fingerprint is a sum over rows,
    so their order does not matter. `bytes` is what it took on the source.
    """

    schema: str
    name: str
    rows: int | None
    fingerprint: str | None
    sample: int = 1
    bytes: int = 0
    unlogged: bool = False
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRecord:
    """A sequence; `last` is nothing before its first number."""

    schema: str
    name: str
    last: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseRecord:
    """One database. `folder` is the name of its members; `schema_sha256` is of pg_dump's text of the schema, normalised.

    `properties` are its own, which are in no schema: `rights`, `settings` by role, `connection_limit`, `locale`. Older snapshots
    have none.
    """

    name: str
    folder: str
    owner: str
    encoding: str
    collation: str
    character_type: str
    extensions: Mapping[str, str]
    tables: tuple[TableRecord, ...]
    sequences: tuple[SequenceRecord, ...]
    schema_sha256: str
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """The row written before the snapshot, which a restore has, and the one written after, which it must not have.

    Times are the server's own, in RFC 3339.
    """

    database: str
    before: str
    before_at: str
    after: str
    after_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRecord:
    """The base backup of a physical snapshot, and how far its WAL is replayed. LSNs as PostgreSQL writes them.

    `target` is where recovery stops, exclusive: what is there then is what was counted. `segment_size` in bytes. Where `inexact`
    says something, it is why no place in the WAL shows what could have been counted; no table was then. `manifest_sha256` is that
    of its backup_manifest, `tablespaces` are names by OID. `wal_sha1` are the SHA-1 (hexadecimal) of the segments that the backup
    itself needs, by name, where another tool keeps them.
    """

    label: str
    start: str
    end: str
    checkpoint: str
    timeline: int
    target: str
    segment_size: int
    inexact: str = ""
    manifest_sha256: str = ""
    tablespaces: Mapping[str, str] = field(default_factory=dict)
    wal_sha1: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`settings` are those that a restored server needs; `roles` are names with their attributes, `members` pairs of role and
    member. Without a canary, `no_canary` says why. `base` is that of a physical snapshot."""

    taken: str
    settings: Mapping[str, str]
    roles: Mapping[str, Mapping[str, Any]]
    members: tuple[tuple[str, str], ...]
    databases: tuple[DatabaseRecord, ...]
    canary: Canary | None
    no_canary: str = ""
    base: BaseRecord | None = None

    def tree(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    def text(self) -> bytes:
        return json.dumps(self.tree(), sort_keys=True, ensure_ascii=True).encode()


def parse(text: bytes | str) -> Record:
    """A record from its text. Raises Damaged."""
    return from_tree(json.loads(text))


def from_tree(tree: Any) -> Record:
    """A record from what JSON gives, such as the control database's. Raises Damaged."""
    try:
        if tree["format"] != FORMAT:
            raise Damaged(
                f"the record has format {tree['format']}, this dbshield reads {FORMAT}", hint="Install a newer dbshield."
            )
        canary, base = tree["canary"], tree.get("base")
        return Record(
            taken=tree["taken"],
            settings=dict(tree["settings"]),
            roles={name: dict(role) for name, role in tree["roles"].items()},
            members=tuple((role, member) for role, member in tree["members"]),
            databases=tuple(_database(database) for database in tree["databases"]),
            canary=Canary(**canary) if canary is not None else None,
            no_canary=tree["no_canary"],
            base=BaseRecord(**base) if base is not None else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged("the record of the snapshot cannot be read", hint="Use another snapshot.") from error


def _database(tree: Mapping[str, Any]) -> DatabaseRecord:
    tables = tuple(TableRecord(**table) for table in tree["tables"])
    sequences = tuple(SequenceRecord(**sequence) for sequence in tree["sequences"])
    return DatabaseRecord(**{**tree, "tables": tables, "sequences": sequences})


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that a restored database does not have as the record says it."""

    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.what}: {self.found}, expected {self.expected}"


def compare_tables(expected: DatabaseRecord, found: DatabaseRecord) -> tuple[Difference, ...]:
    """What differs in counts and fingerprints. Tables that were not counted on either side are left out."""
    there = {(table.schema, table.name): table for table in found.tables}
    differences = []
    for table in expected.tables:
        other = there.pop((table.schema, table.name), None)
        name = f"{expected.name}: {table.schema}.{table.name}"
        if table.skipped:
            continue
        if other is None or other.rows is None:
            differences.append(Difference(what=name, expected=f"{table.rows} rows", found="not there"))
        elif other.rows != table.rows:
            differences.append(Difference(what=name, expected=f"{table.rows} rows", found=f"{other.rows} rows"))
        elif table.sample != other.sample and table.sample and other.sample:
            differences.append(Difference(what=name, expected=f"a sample of 1 in {table.sample}", found=f"1 in {other.sample}"))
        elif table.fingerprint != other.fingerprint:
            differences.append(
                Difference(what=name, expected=f"the content {table.fingerprint}", found=f"{other.rows} rows of other content")
            )
    differences += [
        Difference(what=f"{expected.name}: {schema}.{name}", expected="no such table", found=f"{table.rows} rows")
        for (schema, name), table in there.items()
        if not table.skipped
    ]
    return tuple(differences)


def compare_properties(expected: DatabaseRecord, found: DatabaseRecord) -> tuple[Difference, ...]:
    """What a database has other than the record says, of what belongs to the database itself: owner, encoding, locale, rights,
    settings."""
    pairs = [(name.replace("_", " "), getattr(expected, name), getattr(found, name)) for name in OF_THE_DATABASE]
    pairs += [(name.replace("_", " "), value, found.properties.get(name)) for name, value in expected.properties.items()]
    return tuple(
        Difference(what=f"{expected.name}: the {name}", expected=f"{value}", found=f"{other}")
        for name, value, other in pairs
        if value != other
    )


def compare_sequences(expected: DatabaseRecord, found: DatabaseRecord) -> tuple[Difference, ...]:
    """Sequences that are missing or behind: numbers would be given out again. Ahead is fine, they are in no transaction."""
    there = {(sequence.schema, sequence.name): sequence for sequence in found.sequences}
    differences = []
    for sequence in expected.sequences:
        other = there.get((sequence.schema, sequence.name))
        name = f"{expected.name}: the sequence {sequence.schema}.{sequence.name}"
        if other is None:
            differences.append(Difference(what=name, expected=f"{sequence.last}", found="not there"))
        elif sequence.last is not None and (other.last is None or abs(other.last) < abs(sequence.last)):
            differences.append(Difference(what=name, expected=f"{sequence.last} or beyond", found=f"{other.last}"))
    return tuple(differences)
