"""The audit of a proxy at work: no write without its entry, and what goes on while the control database takes none.

The control database goes away as it does for a proxy: every connection is cut and none is let in.
"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest
from support.audited import (
    RULE,
    WORKERS,
    anew,
    audited_shield,
    away,
    chain,
    running,
    said,
    settled,
    statements,
    stopped,
    without_gaps,
    works,
    writers,
)
from support.servers import Server
from support.shield import Shield
from support.waiting import until


@pytest.fixture(scope="module")
def audited(server18: Server, worker_id: str) -> Iterator[Shield]:
    with audited_shield(server18, worker_id) as shield:
        yield shield


@pytest.fixture
def shield(audited: Shield) -> Iterator[Shield]:
    with anew(audited) as shield:
        yield shield


def test_workers_share_one_chain_and_no_literal_is_in_it(shield: Shield) -> None:
    with running(shield):
        for number in range(12):
            with shield.connect() as connection:
                connection.execute(f"insert into shop.journal values (7, {1_471_100_000 + number})")
                assert connection.execute("select count(*) from shop.journal where who = %s", [7]).fetchone() == (number + 1,)
                with suppress(psycopg.Error):
                    connection.execute("delete from shop.journal where 'hunter2' = 'hunter2'")
        # Which worker takes a connection is chance, and the same one may have taken all of them.
        others = 0

        def both() -> bool:
            nonlocal others
            if writers(shield) == WORKERS:
                return True
            with shield.connect() as connection:
                connection.execute("insert into shop.journal values (8, 8)")
                others += 1
            return False

        assert until(both)
        with pytest.raises(psycopg.OperationalError):
            shield.connect(password="wrong")
    links = chain(shield)
    kinds = Counter(link.kind for link in links)
    assert (kinds["connected"], kinds["disconnected"], kinds["refused"]) == (12 + others, 12 + others, 1)
    assert len({link.writer for link in links} - {None}) == WORKERS
    assert without_gaps(links)
    assert statements(links)["insert into shop.journal values ($1, $2)"] == 12 + others
    assert [link.rules for link in links if link.verdict == "hold"] == [("DS201",)] * 12
    text = "".join(link.entry for link in links)
    assert "hunter2" not in text
    assert "14711000" not in text, "fewer digits would be in a time or an id by chance"
    assert {(link.environment, link.agent, link.database) for link in links if link.kind == "statement"} == {
        ("test", "write", shield.database)
    }


@pytest.mark.parametrize(("choice", "expected"), [("none", None), ("full", "insert into shop.journal values (7, 1471100000)")])
def test_a_team_may_keep_less_or_more_of_statements(shield: Shield, choice: str, expected: str | None) -> None:
    with running(shield, statements=choice), shield.connect() as connection:
        connection.execute("insert into shop.journal values (7, 1471100000)")
        connection.execute("insert into shop.journal values (7, %s)", [4712])
    written, bound = [link for link in chain(shield, kind="statement") if "insert table shop.journal" in said(link)["effects"]]
    assert said(written)["statement"] == expected
    assert said(bound)["statement"] == (expected and "insert into shop.journal values (7, $1)")
    assert (shield.folder / "state" / "audit.jsonl").read_text().count("1471100000") == (choice == "full")


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
            waiting = (
                "select from pg_stat_activity where application_name = 'dbshield audit' and wait_event_type = 'Lock'"
                " and datname = current_database()"
            )
            with shield.server.connect(shield.control) as admin:
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
