"""A proxy at work whose audit is looked at: run with settings of [audit], its control database away, and its chain read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import sql

from dbshield.control import audit_read
from dbshield.control.audit_chain import Link
from dbshield.control.audit_read import Filter
from dbshield.store.database import Database
from support import servers
from support.control import away as control_away
from support.servers import Server
from support.shield import Shield, prepared_shield, started
from support.waiting import until

WORKERS = 2
RULE = "DS701"
Refusal = psycopg.errors.InsufficientPrivilege


@contextmanager
def audited_shield(server: Server, worker_id: str) -> Iterator[Shield]:
    """Set up, with a table to write to; each test takes it `anew` and starts it with settings of its own."""
    folder = servers.here() / f"audited-{worker_id}"
    with prepared_shield(
        server, f"audited_{worker_id}", folder, agents=("read", "write"), workers=WORKERS, drain_timeout=5.0
    ) as prepared:
        with server.connect(prepared.database) as admin:
            admin.execute("create table shop.journal (who integer, number integer)")
            admin.execute("grant select, insert on shop.journal to agent_read, agent_write")
        _copy(server, prepared.control, _kept(prepared))
        try:
            yield prepared
        finally:
            server.drop(_kept(prepared))


@contextmanager
def anew(shield: Shield) -> Iterator[Shield]:
    """With an empty table, an audit that tells of nothing but how it was set up, and nothing of one on the disk."""
    _copy(shield.server, _kept(shield), shield.control)
    with shield.server.connect(shield.database) as admin:
        admin.execute("truncate shop.journal")
    state = shield.folder / "state"
    for left in [*(state / "audit").glob("*"), state / "audit.jsonl"]:
        left.unlink(missing_ok=True)
    yield shield


def _kept(shield: Shield) -> str:
    return f"kept_{shield.control}"


def _copy(server: Server, database: str, to: str) -> None:
    """A copy takes a tenth of the time that setting up takes."""
    server.drop(to)
    with server.connect() as admin:
        admin.execute(sql.SQL("create database {} template {}").format(sql.Identifier(to), sql.Identifier(database)))


@contextmanager
def running(shield: Shield, **audit: Any) -> Iterator[Shield]:
    """With these settings of [audit]."""
    shield.write_config()
    settings = "\n".join(f"{name} = {json.dumps(value)}" for name, value in audit.items())
    shield.config.write_text(f"{shield.config.read_text()}[audit]\n{settings}\n")
    with started(shield):
        yield shield


@contextmanager
def away(shield: Shield, *, noticed: int = 0) -> Iterator[None]:
    """While the control database lets nobody in, from when so many workers have noticed."""
    before = shield.text().count("audit.away")
    with control_away(shield.server.dsn(shield.control)):
        assert until(lambda: shield.text().count("audit.away") >= before + noticed), shield.text()
        yield


@contextmanager
def control(shield: Shield) -> Iterator[Database]:
    database = Database(shield.server.dsn(shield.control))
    try:
        yield database
    finally:
        database.close()


def chain(shield: Shield, **which: Any) -> list[Link]:
    """The entries, oldest first, of a chain that is whole."""
    with control(shield) as database:
        assert audit_read.verify(database).faults == ()
        return list(audit_read.stream(database, Filter(**which)))


def said(link: Link) -> dict[str, Any]:
    return dict(json.loads(link.entry))


def statements(links: list[Link]) -> Counter[str]:
    """How often each statement was let through."""
    counted: Counter[str] = Counter()
    for link in links:
        entry = said(link)
        if link.kind == "statement" and link.verdict == "allow":
            counted[entry["statement"]] += entry.get("repeats", 1)
    return counted


def writers(shield: Shield) -> int:
    """How many workers have written anything."""
    with psycopg.connect(shield.server.dsn(shield.control)) as connection:
        [found] = connection.execute("select count(distinct writer) from dbshield.audit").fetchone() or (0,)
    return int(found)


def without_gaps(links: list[Link]) -> bool:
    """Whether every worker's entries are there, each once and in its order."""
    numbers: dict[object, list[int]] = {}
    for link in links:
        if link.writer is not None and link.sequence is not None:
            numbers.setdefault(link.writer, []).append(link.sequence)
    return all(found == [*range(1, len(found) + 1)] for found in numbers.values())


def stopped(connection: psycopg.Connection[tuple[Any, ...]], text: str) -> bool:
    """Whether the statement is refused for want of an audit; fails where it is for anything else."""
    try:
        connection.execute(text.encode())
    except Refusal as error:
        if f"rule={RULE}" in (error.diag.message_detail or ""):
            return True
        raise
    return False


def settled(shield: Shield) -> bool:
    """Whether every worker has its connection to the audit's database."""
    with shield.server.connect() as admin:
        query = "select from pg_stat_activity where application_name = 'dbshield audit' and datname = %s"
        return until(lambda: len(admin.execute(query, [shield.control]).fetchall()) == WORKERS)


def works(shield: Shield) -> bool:
    with suppress(psycopg.Error), shield.connect() as connection:
        return not stopped(connection, "insert into shop.journal values (9, 9)")
    return False
