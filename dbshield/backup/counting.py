"""Databases counted and fingerprinted at the moment of a base backup, for the record of the snapshot."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from threading import Event

import psycopg

from dbshield.backup import fingerprint, look
from dbshield.backup.engine import Task
from dbshield.backup.logical import NOW, SCHEMA, joined, schema_text
from dbshield.backup.record import BaseRecord, Canary, DatabaseRecord, Record, SequenceRecord, TableRecord
from dbshield.backup.source import Connection, told
from dbshield.backup.still import Moment, unlocked_sequences
from dbshield.errors import BackupError

UNLOGGED = "an unlogged table: recovery empties it"


def record(
    task: Task, connection: Connection, found: Moment, *, canary: Canary | None, no_canary: str, base: BaseRecord
) -> Record:
    """What was true at the moment, as the snapshot keeps it; `connection` is for what belongs to no database."""
    return Record(
        taken=str((connection.execute(NOW).fetchone() or ("",))[0]),
        settings=look.settings(connection),
        roles=look.roles(connection),
        members=look.members(connection),
        databases=tuple(database(task, name, found) for name in task.source.databases),
        canary=canary,
        no_canary=no_canary,
        base=base,
    )


def database(task: Task, name: str, found: Moment) -> DatabaseRecord:
    """One database at the moment; without one, what there is in it, and nothing counted."""
    if name not in found.views:
        with task.source.connect(name) as connection, told(f"the database {name}"):
            # Whoever kept us from counting may have their lock still: nothing waits for it.
            there = fingerprint.relations(connection, sized=False)
            try:
                now = unlocked_sequences(connection, unlogged=False)
            except psycopg.errors.LockNotAvailable:
                now = ()
            return DatabaseRecord(
                **look.database(connection),
                tables=tuple(_left_out(relation, "no moment was found to count it at") for relation in there),
                sequences=_sequences(found.sequences[name], now),
                schema_sha256="",
            )
    connection, snapshot = found.views[name]
    with told(f"the database {name}"):
        facts = look.database(connection)
        wanted = fingerprint.relations(connection)
        numbers = _sequences(found.sequences[name], fingerprint.sequences(connection, unlogged=False))
        counted = _counted(task, name, snapshot, [relation for relation in wanted if not relation.unlogged])
    target = task.work.make(f"schema-{facts['folder']}") / SCHEMA
    schema_text(task.programs, task.source, name, work=task.work, target=target, snapshot=snapshot)
    return DatabaseRecord(
        **facts,
        tables=(*counted, *(_left_out(relation, UNLOGGED) for relation in wanted if relation.unlogged)),
        sequences=numbers,
        schema_sha256=hashlib.sha256(target.read_bytes()).hexdigest(),
    )


def _counted(task: Task, name: str, snapshot: str, wanted: Sequence[fingerprint.Relation]) -> tuple[TableRecord, ...]:
    """Counts and fingerprints in the view that was exported."""
    task.progress.step(f"count {name}", sum(relation.bytes for relation in wanted))
    stop = Event()
    counted = fingerprint.measure_all(
        lambda: joined(task.source, name, snapshot),
        wanted,
        samples=lambda relation: fingerprint.sample_of(relation.bytes, task.fingerprint_max_bytes, has_key=bool(relation.key)),
        jobs=task.jobs,
        stop=stop,
        passed=lambda relation: task.progress.advance(relation.bytes),
    )
    if stop.is_set() or len(counted) != len(wanted):
        raise BackupError(f"not every table of {name} was counted", hint="Look at the server's log.")
    return counted


def _sequences(before: Sequence[SequenceRecord], after: Sequence[SequenceRecord]) -> tuple[SequenceRecord, ...]:
    """Those read before the moment, without what was dropped or set back since: that may have been before the moment too. And
    without those that are not logged, as serial columns of unlogged tables have since 15: recovery sets them back."""
    now = {(sequence.schema, sequence.name): sequence.last for sequence in after}
    return tuple(
        sequence
        for sequence in before
        if (key := (sequence.schema, sequence.name)) in now
        and (sequence.last is None or ((last := now[key]) is not None and abs(last) >= abs(sequence.last)))
    )


def _left_out(relation: fingerprint.Relation, why: str) -> TableRecord:
    return TableRecord(
        schema=relation.schema,
        name=relation.name,
        rows=None,
        fingerprint=None,
        sample=0,
        bytes=relation.bytes,
        unlogged=relation.unlogged,
        skipped=relation.reason or why,
    )
