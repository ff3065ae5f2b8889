"""The audit of a proxy at work: nothing lost, nothing twice, no write without its entry, whatever the control database does.

The control database goes away as it does for a proxy: every connection is cut and none is let in.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import psycopg
import pytest
from support import servers
from support.servers import Server
from support.shield import Shield, prepared_shield, started
from support.waiting import until

from dbshield.control import audit_read
from dbshield.control.audit_chain import Link
from dbshield.control.audit_read import Filter
from dbshield.store.database import Database

WORKERS = 2
WRITERS = 4
RULE = "DS701"
Refusal = psycopg.errors.InsufficientPrivilege


@pytest.fixture
def shield(server18: Server, worker_id: str) -> Iterator[Shield]:
    """Set up, with a table to write to; each test starts it with settings of its own."""
    folder = servers.here() / f"audited-{worker_id}"
    with prepared_shield(
        server18, f"audited_{worker_id}", folder, agents=("read", "write"), workers=WORKERS, drain_timeout=5.0
    ) as prepared:
        with server18.connect(prepared.database) as admin:
            admin.execute("create table shop.journal (who integer, number integer)")
            admin.execute("grant select, insert on shop.journal to agent_read, agent_write")
        yield prepared
        for left in (folder / "state" / "audit").glob("*"):
            left.unlink()


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
    with shield.server.connect() as admin:
        admin.execute(f'alter database "{shield.control}" with allow_connections false')
        try:
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [shield.control])
            assert until(lambda: shield.text().count("audit.away") >= before + noticed), shield.text()
            yield
        finally:
            admin.execute(f'alter database "{shield.control}" with allow_connections true')


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


def test_workers_share_one_chain_and_no_literal_is_in_it(shield: Shield) -> None:
    with running(shield):
        for number in range(12):
            with shield.connect() as connection:
                connection.execute(f"insert into shop.journal values (7, {4711 + number})")
                assert connection.execute("select count(*) from shop.journal where who = %s", [7]).fetchone() == (number + 1,)
                with suppress(psycopg.Error):
                    connection.execute("delete from shop.journal where 'hunter2' = 'hunter2'")
        with pytest.raises(psycopg.OperationalError):
            shield.connect(password="wrong")
    links = chain(shield)
    kinds = Counter(link.kind for link in links)
    assert (kinds["connected"], kinds["disconnected"], kinds["refused"]) == (12, 12, 1)
    assert len({link.writer for link in links} - {None}) == WORKERS
    assert without_gaps(links)
    assert statements(links)["insert into shop.journal values ($1, $2)"] == 12
    assert [link.rules for link in links if link.verdict == "hold"] == [("DS201",)] * 12
    text = "".join(link.entry for link in links)
    assert "hunter2" not in text
    assert "4711" not in text
    assert {(link.environment, link.agent, link.database) for link in links if link.kind == "statement"} == {
        ("test", "write", shield.database)
    }


@pytest.mark.parametrize(("choice", "expected"), [("none", None), ("full", "insert into shop.journal values (7, 4711)")])
def test_a_team_may_keep_less_or_more_of_statements(shield: Shield, choice: str, expected: str | None) -> None:
    with running(shield, statements=choice), shield.connect() as connection:
        connection.execute("insert into shop.journal values (7, 4711)")
        connection.execute("insert into shop.journal values (7, %s)", [4712])
    written, bound = [link for link in chain(shield, kind="statement") if "insert table shop.journal" in said(link)["effects"]]
    assert said(written)["statement"] == expected
    assert said(bound)["statement"] == (expected and "insert into shop.journal values (7, $1)")
    assert (shield.folder / "state" / "audit.jsonl").read_text().count("4711") == (choice == "full")


def test_a_loop_of_reads_is_one_entry_that_counts(shield: Shield) -> None:
    with running(shield), shield.connect("read") as connection:
        for _ in range(500):
            connection.execute("select 1 as one")
    links = chain(shield, kind="statement")
    assert statements(links)["select $1 as one"] == 500
    assert len(links) < 250
    assert all(said(link)["until"] > said(link)["ts"] for link in links if "repeats" in said(link))


def test_a_write_is_not_forwarded_before_its_entry_is_committed(shield: Shield) -> None:
    """Somebody holds the head of the chain, so nothing can be committed."""
    written = threading.Event()

    def write() -> None:
        with shield.connect() as connection:
            connection.execute("insert into shop.journal values (1, 1)")
            written.set()

    def rows() -> int:
        with shield.server.connect(shield.database) as admin:
            return len(admin.execute("select from shop.journal").fetchall())

    with running(shield), shield.connect("read") as reader, shield.server.connect(shield.control) as holder:
        writer = threading.Thread(target=write)
        with holder.transaction():
            holder.execute("select from dbshield.audit_head for update")
            writer.start()
            waiting = "select from pg_stat_activity where application_name = 'dbshield audit' and wait_event_type = 'Lock'"
            with shield.server.connect() as admin:
                assert until(lambda: admin.execute(waiting).fetchall())
            for _ in range(20):
                assert reader.execute("select count(*) from shop.journal").fetchone() == (0,)
            assert not written.is_set()
            assert rows() == 0
        writer.join(30)
        assert written.is_set()
        assert rows() == 1


def test_while_it_is_away_writes_are_refused_and_reads_go_on(shield: Shield) -> None:
    with running(shield), shield.connect("read") as reader, shield.connect() as writer:
        writer.execute("insert into shop.journal values (1, 0)")
        writer.execute("prepare put as insert into shop.journal values (2, $1)")
        assert settled(shield)
        with away(shield, noticed=WORKERS):
            # A write that is on its way at this very moment ends its session: nobody can say any more that it was not sent.
            assert stopped(writer, "insert into shop.journal values (1, 1)")
            assert stopped(writer, "execute put(1)")
            assert stopped(writer, "begin; insert into shop.journal values (1, 2); commit")
            for _ in range(50):
                assert reader.execute("select 42 as answer").fetchone() == (42,)
                assert writer.execute("select 43 as answer").fetchone() == (43,)
        assert until(lambda: not stopped(writer, "insert into shop.journal values (1, 3)"))
        writer.execute("execute put(2)")
    links = chain(shield)
    assert without_gaps(links)
    counted = statements(links)
    assert counted["select $1 as answer"] == 100
    denied = [link for link in links if link.rules == (RULE,)]
    assert len(denied) >= 3
    assert {link.verdict for link in denied} == {"deny"}


@contextmanager
def taking_nothing(shield: Shield) -> Iterator[None]:
    """While the control database answers, lets everybody in, and has a full disk."""
    append = "dbshield.audit_append(uuid, bigint, text[])"
    with psycopg.connect(shield.server.dsn(shield.control), autocommit=True) as admin:
        with admin.transaction():
            admin.execute(f"alter function {append} rename to audit_append_whole".encode())
            admin.execute(
                "create function dbshield.audit_append(uuid, bigint, text[]) returns bigint language plpgsql as"
                " $$ begin raise exception 'could not extend file' using errcode = 'disk_full'; end $$"
            )
        try:
            yield
        finally:
            with admin.transaction():
                admin.execute(f"drop function {append}".encode())
                admin.execute("alter function dbshield.audit_append_whole(uuid, bigint, text[]) rename to audit_append")


def test_regression_writes_do_not_wait_for_ever_for_a_database_whose_disk_is_full(shield: Shield) -> None:
    """It let every new connection in at once, so the entry was tried over and over, and the session hung with its write."""
    with running(shield):
        with shield.connect() as writer, shield.connect("read") as reader:
            writer.execute("insert into shop.journal values (1, 0)")
            assert settled(shield)
            with taking_nothing(shield):
                with pytest.raises(psycopg.OperationalError, match="the audit's database is away"):
                    writer.execute("insert into shop.journal values (1, 1)")
                with psycopg.connect(shield.server.dsn(shield.database)) as admin:
                    assert admin.execute("select number from shop.journal").fetchall() == [(0,)]
                assert reader.execute("select 42 as answer").fetchone() == (42,)
            assert until(lambda: shield.text().count("audit.back") >= 1)
        with shield.connect() as writer:
            assert until(lambda: not stopped(writer, "insert into shop.journal values (1, 2)"))
        # Each worker has tried a few times, not as fast as it could.
        assert shield.text().count("audit.away") < 40
    assert without_gaps(chain(shield))


class Load:
    """Threads that insert numbers through the proxy, each its own, and come back whenever their session ends."""

    def __init__(self, shield: Shield) -> None:
        self.shield = shield
        self.done = threading.Event()
        self.committed: dict[int, list[int]] = {who: [] for who in range(WRITERS)}
        self.refused = 0
        self.ended = 0
        self.faults: list[str] = []
        self._threads = [threading.Thread(target=self._write, args=[who]) for who in range(WRITERS)]

    @property
    def count(self) -> int:
        return sum(map(len, self.committed.values()))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for thread in self._threads:
            thread.join(60)
        assert not self.faults, self.faults

    def more(self, count: int) -> bool:
        """Whether so many more are committed in time."""
        goal = self.count + count
        return until(lambda: self.count >= goal)

    def _write(self, who: int) -> None:
        number = 0
        while not self.done.is_set():
            try:
                with self.shield.connect() as connection:
                    while not self.done.is_set():
                        number += 1
                        try:
                            connection.execute(f"insert into shop.journal values ({who}, {number})".encode())
                            self.committed[who].append(number)
                        except Refusal as error:
                            if f"rule={RULE}" not in (error.diag.message_detail or ""):
                                self.faults.append(str(error))
                            self.refused += 1
                            self.done.wait(0.01)
            except psycopg.Error:
                self.ended += 1
                self.done.wait(0.05)


def check(shield: Shield, load: Load) -> None:
    """Everything that was written has its one entry, in its order, whatever the client was told."""
    links = chain(shield)
    assert without_gaps(links)
    entries = statements(links)
    with shield.server.connect(shield.database) as admin:
        there = admin.execute("select who, number from shop.journal").fetchall()
    assert len(there) == len(set(there))
    assert {(who, number) for who, numbers in load.committed.items() for number in numbers} <= set(there)
    assert {entries[f"insert into shop.journal values ({who}, {number})"] for who, number in there} == {1}
    for who in range(WRITERS):
        begin = f"insert into shop.journal values ({who}, "
        texts = [said(link)["statement"] for link in links if link.kind == "statement"]
        numbers = [int(text[len(begin) : -1]) for text in texts if text.startswith(begin)]
        assert len(numbers) == len(set(numbers))
        # A session that comes back may be another worker's, which may write sooner than the one that has to find the database.
        order = {number: place for place, number in enumerate(numbers)}
        sessions: dict[object, list[int]] = {}
        for link in links:
            text = said(link).get("statement") or ""
            if text.startswith(begin):
                sessions.setdefault((link.writer, link.session), []).append(order[int(text[len(begin) : -1])])
        assert all(places == sorted(places) for places in sessions.values())


def test_nothing_is_lost_when_it_goes_away_under_load(shield: Shield) -> None:
    with running(shield, statements="full"), Load(shield) as load:
        for _ in range(3):
            assert load.more(100)
            with away(shield):
                refused = load.refused
                assert until(lambda before=refused: load.refused > before + 20 or load.ended > 8)  # type: ignore[misc]
        assert load.more(100)
    assert load.refused
    check(shield, load)


def kill_a_worker(shield: Shield, chance: random.Random) -> None:
    assert shield._process is not None
    children = psutil.Process(shield._process.pid).children()
    if children:
        with suppress(psutil.NoSuchProcess):
            chance.choice(children).kill()


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_or_doubled_when_workers_are_killed(shield: Shield, seed: int) -> None:
    """On the disk counts as kept here, so what was acknowledged while the database was away must come out of a dead worker's
    file. Killed at any moment: at work, while it is away, while the file is brought over."""
    chance = random.Random(seed)
    with running(shield, statements="full", when_away="spool"), Load(shield) as load:
        for _ in range(3):
            assert load.more(50)
            kill_a_worker(shield, chance)
            assert load.more(50)
            with away(shield):
                before = load.count
                assert until(lambda before=before: load.count > before + 200)  # type: ignore[misc]
                if chance.random() < 0.5:
                    kill_a_worker(shield, chance)
            until(chance_of(chance, 0.1), deadline=1.0)
            kill_a_worker(shield, chance)
        assert load.more(50)
        assert settled(shield)
    folder = shield.folder / "state" / "audit"
    with running(shield):
        assert until(lambda: not [path for path in folder.iterdir() if path.stat().st_size])
        assert settled(shield)
    check(shield, load)


def chance_of(chance: random.Random, seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + chance.random() * seconds
    return lambda: time.monotonic() > end


def test_sessions_end_where_the_team_wants_nothing_without_an_audit(shield: Shield) -> None:
    with running(shield, when_away="stop"), shield.connect("read") as reader:
        assert reader.execute("select 1").fetchone() == (1,)
        with away(shield), pytest.raises(psycopg.OperationalError, match="audit"):
            assert until(lambda: reader.execute("select 1").fetchone() != (1,))
        assert until(lambda: works(shield))
    assert without_gaps(chain(shield))


def test_a_full_spool_ends_the_sessions(shield: Shield) -> None:
    with running(shield, when_away="spool", spool_max_bytes=1 << 16), shield.connect() as writer:
        written = 0
        with away(shield), pytest.raises(psycopg.OperationalError, match="audit"):
            while written < 5_000:
                writer.execute(f"insert into shop.journal values (1, {written})".encode())
                written += 1
        assert 10 < written < 5_000
        assert until(lambda: works(shield))
        assert settled(shield)
    assert "audit.nowhere" in shield.text()
    links = chain(shield)
    assert statements(links)["insert into shop.journal values ($1, $2)"] >= written
    assert without_gaps(links)


def works(shield: Shield) -> bool:
    with suppress(psycopg.Error), shield.connect() as connection:
        return not stopped(connection, "insert into shop.journal values (9, 9)")
    return False


def test_a_proxy_does_not_start_where_entries_cannot_be_spooled(shield: Shield) -> None:
    folder = shield.folder / "state" / "audit"
    if folder.exists():
        folder.rmdir()
    folder.write_text("in the way")
    try:
        shield.write_config(workers=1)
        shield.cli("proxy", fails=True)
    finally:
        folder.unlink()


def test_a_stop_leaves_nothing_on_the_disk(shield: Shield) -> None:
    with running(shield), shield.connect() as writer:
        writer.execute("insert into shop.journal values (1, 1)")
        shield.signal(signal.SIGHUP)
    assert [*(shield.folder / "state" / "audit").iterdir()] == []
    assert statements(chain(shield))["insert into shop.journal values ($1, $2)"] == 1


def test_what_lies_on_the_disk_at_a_stop_is_brought_over_by_the_next_start(shield: Shield) -> None:
    with running(shield, when_away="spool"), shield.connect() as writer:
        assert settled(shield)
        with away(shield, noticed=WORKERS):
            for number in range(20):
                writer.execute(f"insert into shop.journal values (1, {number})".encode())
            shield.stop()
    folder = shield.folder / "state" / "audit"
    assert list(folder.glob("*.spool"))
    with running(shield):
        assert until(lambda: not [path for path in folder.iterdir() if path.stat().st_size])
    links = chain(shield)
    assert without_gaps(links)
    assert statements(links)["insert into shop.journal values ($1, $2)"] == 20
