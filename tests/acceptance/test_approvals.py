"""Sessions that wait for a human, with real clients: asked, approved elsewhere, answered here; or denied, given up, too late."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest
import sqlalchemy as sa
from psycopg import ClientCursor, errors
from psycopg.pq import TransactionStatus
from support import servers
from support.background import Background
from support.humans import EXECUTOR, Humans, second_proxy
from support.raw import raw_session
from support.servers import Server
from support.shield import Shield, libpq_environment, prepared_shield, started
from support.waiting import until

from dbshield.control.approval import State
from dbshield.session.terms import CARRIED
from dbshield.wire.backend import CommandComplete, DataRow, ErrorResponse, NoticeResponse, ReadyForQuery
from dbshield.wire.frontend import Query, Terminate

pytestmark = pytest.mark.one_server(by="module")

DELETE = "delete from shop.settings"
WAIT = 45
ENVIRONMENT: dict[str, Any] = {"executor": EXECUTOR, "approval_wait": WAIT, "denial_memory_minutes": 0}


@pytest.fixture(scope="module")
def shield(server: Server, worker_id: str) -> Iterator[Shield]:
    """A proxy in an environment where humans can be asked."""
    folder = servers.here() / f"approvals-{worker_id}-{server.major}"
    with prepared_shield(server, f"approvals_{worker_id}", folder) as shield:
        shield.write_config(ENVIRONMENT)
        with started(shield):
            yield shield


@pytest.fixture(scope="module")
def people(shield: Shield) -> Iterator[Humans]:
    humans = Humans(shield)
    humans.enrol()
    yield humans
    humans.close()


@pytest.fixture
def humans(people: Humans, shield: Shield) -> Iterator[Humans]:
    """Nothing waits before, and nothing is left waiting."""
    assert people.waiting() == []
    shield.server.clone(shield.database)
    yield people
    people.end_all()
    assert until(lambda: shield.backends() == 0)


@contextmanager
def configured(shield: Shield, **settings: Any) -> Iterator[None]:
    """The environment with other settings, taken up by the running proxy."""
    reload(shield, ENVIRONMENT | settings)
    try:
        yield
    finally:
        reload(shield, ENVIRONMENT)


def reload(shield: Shield, environment: dict[str, Any]) -> None:
    before = shield.text().count("configuration reloaded")
    shield.write_config(environment)
    shield.signal(signal.SIGHUP)
    assert until(lambda: shield.text().count("configuration reloaded") > before)


def left(shield: Shield, table: str = "shop.settings") -> int:
    """The rows that the server still has."""
    with shield.server.connect(shield.database) as admin:
        row = admin.execute(f"select count(*) from {table}").fetchone()
    assert row is not None
    return int(str(row[0]))


def told_by(conn: psycopg.Connection[Any]) -> list[str]:
    """The notices that the connection gets, from now on."""
    notices: list[str] = []
    conn.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    return notices


def psql(shield: Shield, agent: str, *commands: str) -> subprocess.CompletedProcess[str]:
    program = shield.server.cluster.binaries.program("psql")
    return subprocess.run(
        [program, "-X", "-A", *(word for command in commands for word in ("-c", command))],
        env=libpq_environment(shield.dsn(agent)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def detail(error: psycopg.Error, word: str) -> str:
    """What stands behind `word=` in DETAIL."""
    words = dict(pair.partition("=")[::2] for pair in (error.diag.message_detail or "").split())
    return words[word]


class TestApproved:
    def test_psycopg_gets_the_answer_as_if_it_had_run_there(self, shield: Shield, humans: Humans, tls: bool) -> None:
        with shield.connect("write", tls=tls) as conn:
            notices = told_by(conn)
            waits = Background(lambda: conn.execute(DELETE))
            asked = humans.asked()
            assert (asked.statement, asked.agent, asked.parameters) == (DELETE, "write", None)
            assert left(shield) == 3
            humans.approve_and_run()
            cursor = waits.result()
            assert (cursor.statusmessage, cursor.rowcount) == ("DELETE 3", 3)
            assert conn.info.transaction_status is TransactionStatus.IDLE
            assert conn.execute("select count(*) from shop.settings").fetchone() == (0,)
        assert asked.id in notices[0]
        assert "dbshield approvals show" in notices[0]

    def test_with_values(self, shield: Shield, humans: Humans) -> None:
        with shield.connect("write") as conn:
            waits = Background(lambda: conn.execute("update shop.settings set value = %s || %s", ["new", "est"]))
            asked = humans.approve_and_run()
            assert waits.result().statusmessage == "UPDATE 3"
            assert [parameter.value for parameter in asked.parameters or ()] == [b"new", b"est"]
            assert conn.execute("select distinct value from shop.settings").fetchall() == [("newest",)]

    @pytest.mark.parametrize("cursor", [psycopg.Cursor, ClientCursor])
    def test_with_rows(self, shield: Shield, humans: Humans, cursor: type[psycopg.Cursor[Any]]) -> None:
        with shield.connect("write") as conn:
            waits = Background(lambda: cursor(conn).execute(f"{DELETE} returning key, length(value)"))
            humans.approve_and_run()
            assert sorted(waits.result().fetchall()) == [("currency", 3), ("theme", 5), ("vat", 4)]

    def test_a_prepared_statement(self, shield: Shield, humans: Humans) -> None:
        with shield.connect("write") as conn:
            for count in (3, 0):
                waits = Background(lambda: conn.execute(DELETE, prepare=True))
                humans.approve_and_run()
                assert waits.result().statusmessage == f"DELETE {count}"

    def test_psycopg2(self, shield: Shield, humans: Humans) -> None:
        with closing(psycopg2.connect(shield.dsn("write"))) as conn:
            conn.autocommit = True
            with conn.cursor() as cursor:
                waits = Background(lambda: cursor.execute("delete from shop.settings where value <> all(%s)", [["x"]]))
                assert until(lambda: humans.waiting() or waits.done)
                if not waits.done:
                    humans.approve_and_run()
                waits.result()
                waits = Background(lambda: cursor.execute("update shop.products set stock = %s", [1]))
                humans.approve_and_run()
                waits.result()
                assert cursor.statusmessage == "UPDATE 300"

    def test_asyncpg(self, shield: Shield, humans: Humans) -> None:
        """execute() is a simple query; fetch() prepares, describes and waits for both before it binds."""
        parts = shield.parameters("migrate")

        async def run() -> list[Any]:
            conn = await asyncpg.connect(
                host=parts["host"],
                port=int(parts["port"]),
                user=parts["user"],
                password=parts["password"],
                database=parts["dbname"],
            )
            try:
                said = [await conn.execute(DELETE), await conn.fetch("drop table shop.secrets")]
                with pytest.raises(asyncpg.InsufficientPrivilegeError) as error:
                    await conn.fetch("delete from shop.orders returning id")
                said += [error.value.hint, await conn.fetchval("select 1")]
                return said
            finally:
                await conn.close()

        waits = Background(lambda: asyncio.run(run()))
        assert humans.approve_and_run().statement == DELETE
        assert humans.approve_and_run().statement == "drop table shop.secrets"
        tag, rows, hint, one = waits.result()
        assert (tag, rows, one) == ("DELETE 3", [], 1)
        assert "simple Query" in hint
        assert left(shield, "shop.orders") == 6000

    def test_psql(self, shield: Shield, humans: Humans) -> None:
        waits = Background(lambda: psql(shield, "migrate", "drop table shop.secrets", "select 'after'"))
        asked = humans.approve_and_run()
        done = waits.result()
        assert done.stdout.splitlines()[0] == "DROP TABLE"
        assert "after" in done.stdout
        assert f"NOTICE:  dbshield: this statement waits for one person to approve {asked.id}" in done.stderr

    def test_sqlalchemy_in_autocommit(self, shield: Shield, humans: Humans) -> None:
        engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(shield.dsn("write")))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            waits = Background(lambda: conn.execute(sa.text("delete from shop.settings")))
            humans.approve_and_run()
            assert waits.result().rowcount == 3
        engine.dispose()

    def test_what_the_client_sent_behind_it_runs_behind_it(self, shield: Shield, humans: Humans) -> None:
        with raw_session(shield) as client:
            client.send(
                Query(query=b"select 1"), Query(query=DELETE.encode()), Query(query=b"select count(*) from shop.settings")
            )
            assert isinstance(client.until_ready()[-1], ReadyForQuery)
            humans.approve_and_run()
            second, third = client.until_ready(), client.until_ready()
        assert next(message for message in second if not isinstance(message, NoticeResponse)) == CommandComplete(tag="DELETE 3")
        assert DataRow(values=(b"0",)) in third

    def test_the_servers_own_error(self, shield: Shield, humans: Humans) -> None:
        with shield.connect("migrate") as conn:
            waits = Background(lambda: conn.execute("drop table shop.customers"))
            humans.approve_and_run()
            error = waits.error()
            assert isinstance(error, errors.DependentObjectsStillExist)
            assert conn.execute("select 1").fetchone() == (1,)

    def test_another_session_on_another_proxy_waits_for_the_same(self, shield: Shield, humans: Humans) -> None:
        with started(second_proxy(shield, ENVIRONMENT)) as second, shield.connect() as here, second.connect() as there:
            told: list[list[str]] = [told_by(here), told_by(there)]
            waits = [Background(lambda: here.execute(DELETE)), Background(lambda: there.execute(DELETE))]
            assert until(lambda: all(told))
            asked = humans.asked()
            assert [asked.id in each[0] for each in told] == [True, True]
            humans.approve_and_run()
            assert [each.result().statusmessage for each in waits] == ["DELETE 3", "DELETE 3"]
        assert left(shield) == 0


class TestOnTheSessionsTerms:
    """The text is run on another connection, where it must mean the same."""

    def test_what_the_session_has_set_goes_with_the_question(self, shield: Shield, humans: Humans) -> None:
        with shield.connect() as conn:
            conn.execute('set search_path = "$user", nowhere, shop')
            conn.execute("select set_config('DateStyle', 'SQL, DMY', false)")
            waits = Background(lambda: conn.execute("delete from settings"))
            asked = humans.asked()
            assert (asked.settings["search_path"], asked.settings["datestyle"]) == ("shop", "SQL, DMY")
            assert {"search_path", "datestyle", "timezone", "intervalstyle", "xmloption"} <= asked.settings.keys() <= CARRIED
            humans.deny(asked.id, "no")
            assert isinstance(waits.error(), errors.InsufficientPrivilege)
            assert conn.execute("show datestyle").fetchone() == ("SQL, DMY",)

    def test_the_same_text_on_other_terms_is_another_question(self, shield: Shield, humans: Humans) -> None:
        with configured(shield, approval_wait=0), shield.connect() as conn:
            for setting in ("set search_path = shop", "set search_path = public", "reset search_path"):
                conn.execute(setting)
                with pytest.raises(errors.InsufficientPrivilege):
                    conn.execute("delete from settings")
        # The last two mean the same.
        assert [asked.settings["search_path"] for asked in humans.waiting()] == ["shop", "public"]

    def test_names_that_may_be_those_of_temporary_tables(self, shield: Shield, humans: Humans) -> None:
        with configured(shield, approval_wait=0), shield.connect() as conn:
            conn.execute("create temporary table settings (key text)")
            with pytest.raises(errors.InsufficientPrivilege) as error:
                conn.execute("delete from settings")
            assert "DISCARD TEMP" in (error.value.diag.message_hint or "")
            assert humans.waiting() == []
            conn.execute("discard temp")
            with pytest.raises(errors.InsufficientPrivilege) as error:
                conn.execute("delete from settings")
            assert detail(error.value, "approval") == humans.asked().id

    def test_a_statement_that_says_who_runs_it(self, shield: Shield, humans: Humans) -> None:
        with shield.connect() as conn:
            with pytest.raises(errors.InsufficientPrivilege) as error:
                conn.execute("delete from shop.settings where current_user = 'agent_write'")
            assert "only this session" in (error.value.diag.message_hint or "")
        assert humans.waiting() == []
        assert left(shield) == 3

    def test_a_server_that_ends_idle_sessions(self, shield: Shield, humans: Humans) -> None:
        """The client is told in time, instead of losing its connection; the question stays."""
        with shield.connect() as conn:
            conn.execute("set idle_session_timeout = '2s'")
            with pytest.raises(errors.InsufficientPrivilege, match="nobody has decided") as error:
                conn.execute(DELETE)
            assert detail(error.value, "approval") == humans.asked().id
            assert conn.execute("select 1").fetchone() == (1,)


class TestNotApproved:
    def test_denied_with_the_humans_reason(self, shield: Shield, humans: Humans) -> None:
        with configured(shield, denial_memory_minutes=60), shield.connect("migrate") as conn:
            waits = Background(lambda: conn.execute("drop table shop.secrets"))
            asked = humans.asked()
            humans.deny(asked.id, "these are our keys")
            error = waits.error()
            assert isinstance(error, errors.InsufficientPrivilege)
            assert "ann: these are our keys" in str(error)
            assert (detail(error, "approval"), detail(error, "verdict")) == (asked.id, "deny")
            # In other words, and at once.
            with pytest.raises(errors.InsufficientPrivilege, match="these are our keys") as again:
                conn.execute("truncate shop.secrets")
            assert detail(again.value, "approval") == asked.id
            assert conn.info.transaction_status is TransactionStatus.IDLE
        assert humans.waiting() == []
        assert left(shield, "shop.secrets") == 200
        with psycopg.connect(shield.server.dsn(shield.control)) as control:
            control.execute("delete from dbshield.denials")

    def test_time_is_over_and_the_approval_stays(self, shield: Shield, humans: Humans) -> None:
        with configured(shield, approval_wait=0.3), shield.connect() as conn:
            found = []
            for _ in range(2):
                with pytest.raises(errors.InsufficientPrivilege, match="nobody has decided") as error:
                    conn.execute(DELETE)
                found.append(detail(error.value, "approval"))
            assert [approval.id for approval in humans.waiting()] == found[:1] == found[1:]
        assert left(shield) == 3

    def test_refused_at_once_with_the_id_and_used_once(self, shield: Shield, humans: Humans) -> None:
        def refused(conn: psycopg.Connection[Any]) -> str:
            with pytest.raises(errors.InsufficientPrivilege) as error:
                conn.execute(DELETE)
            assert detail(error.value, "state") == "waiting"
            return detail(error.value, "approval")

        with configured(shield, approval_wait=0), shield.connect() as conn:
            first = refused(conn)
            assert refused(conn) == first
            humans.approve_and_run()
            assert left(shield) == 0
            assert refused(conn) != first

    def test_expired_while_it_waits(self, shield: Shield, humans: Humans) -> None:
        with configured(shield, approval_ttl_minutes=0.01), shield.connect() as conn:
            with pytest.raises(errors.InsufficientPrivilege, match="expired") as error:
                conn.execute(DELETE)
            assert detail(error.value, "state") == "expired"
        assert left(shield) == 3

    def test_in_a_block_nobody_is_asked(self, shield: Shield, humans: Humans) -> None:
        with psycopg.connect(shield.dsn()) as conn:
            with pytest.raises(errors.InsufficientPrivilege) as error:
                conn.execute(DELETE)
            assert "COMMIT or ROLLBACK" in (error.value.diag.message_hint or "")
            assert conn.info.transaction_status is TransactionStatus.INERROR
        engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(shield.dsn()))
        with engine.connect() as conn, pytest.raises(sa.exc.ProgrammingError, match="COMMIT or ROLLBACK"):
            conn.execute(sa.text(DELETE))
        engine.dispose()
        assert humans.waiting() == []
        assert left(shield) == 3

    def test_where_nobody_is_enrolled_enough(self, shield: Shield, humans: Humans) -> None:
        refused = pytest.raises(errors.InsufficientPrivilege, match="2 must approve in test, 1 could")
        with configured(shield, approvals_needed=2), shield.connect() as conn, refused:
            conn.execute(DELETE)
        assert humans.waiting() == []

    def test_humans_are_not_flooded(self, shield: Shield, humans: Humans) -> None:
        with configured(shield, approval_wait=0, approvals_waiting_max=1), shield.connect("migrate") as conn:
            for _ in range(2):
                with pytest.raises(errors.InsufficientPrivilege) as error:
                    conn.execute(DELETE)
                assert detail(error.value, "approval") == humans.asked().id
            with pytest.raises(errors.InsufficientPrivilege, match="1 statements of migrate wait for a human already"):
                conn.execute("drop table shop.secrets")
        assert len(humans.waiting()) == 1

    def test_where_nothing_runs_what_is_approved(self, shield: Shield, humans: Humans) -> None:
        refused = pytest.raises(errors.InsufficientPrivilege, match="holds this statement for a human")
        with configured(shield, executor=""), shield.connect() as conn, refused:
            conn.execute(DELETE)
        assert humans.waiting() == []


class TestGivenUp:
    def test_a_cancel_request(self, shield: Shield, humans: Humans) -> None:
        with shield.connect() as conn:
            waits = Background(lambda: conn.execute(DELETE))
            asked = humans.asked()
            conn.cancel_safe(timeout=20)
            assert isinstance(waits.error(), errors.QueryCanceled)
            assert humans.state(asked.id) is State.WITHDRAWN
            assert conn.execute("select 1").fetchone() == (1,)
        assert left(shield) == 3

    def test_a_cancel_request_for_what_the_session_asked_before(self, shield: Shield, humans: Humans) -> None:
        with shield.connect() as conn:
            with configured(shield, approval_wait=0), pytest.raises(errors.InsufficientPrivilege):
                conn.execute(DELETE)
            asked = humans.asked()
            notices = told_by(conn)
            waits = Background(lambda: conn.execute(DELETE))
            assert until(lambda: notices)
            conn.cancel_safe(timeout=20)
            assert isinstance(waits.error(), errors.QueryCanceled)
            assert humans.state(asked.id) is State.WITHDRAWN

    def test_a_cancel_request_that_comes_too_late(self, shield: Shield, humans: Humans) -> None:
        with shield.connect() as conn:
            notices = told_by(conn)
            waits = Background(lambda: conn.execute(DELETE))
            asked = humans.asked()
            humans.approve(asked.id)
            running = humans.claim()
            conn.cancel_safe(timeout=20)
            assert until(lambda: any("too late to cancel" in notice for notice in notices))
            assert not waits.done
            humans.execute(running)
            assert waits.result().statusmessage == "DELETE 3"

    @pytest.mark.parametrize("polite", [True, False])
    def test_a_client_that_goes(self, shield: Shield, humans: Humans, *, polite: bool) -> None:
        with raw_session(shield) as client:
            client.send(Query(query=DELETE.encode()))
            asked = humans.asked()
            if polite:
                client.send(Terminate())
                assert until(lambda: humans.state(asked.id) is State.WITHDRAWN)
        assert until(lambda: humans.state(asked.id) is State.WITHDRAWN)
        assert left(shield) == 3

    def test_a_revoked_token(self, shield: Shield, humans: Humans) -> None:
        made = shield.agent("leaver", "write")
        with psycopg.connect(shield.dsn("leaver"), autocommit=True) as conn:
            waits = Background(lambda: conn.execute(DELETE))
            asked = humans.asked()
            shield.cli("token", "revoke", made["token_id"])
            # Whichever comes first: what it asked for is withdrawn with its token, and its session ends.
            error = waits.error()
            assert isinstance(error, psycopg.OperationalError | psycopg.errors.InsufficientPrivilege)
            assert "revoked" in str(error)
            with pytest.raises(psycopg.OperationalError):
                assert until(lambda: conn.execute("select") is None)
        assert until(lambda: humans.state(asked.id) is State.WITHDRAWN)

    def test_more_than_can_be_kept(self, shield: Shield, humans: Humans) -> None:
        with raw_session(shield) as client:
            client.send(Query(query=DELETE.encode()))
            asked = humans.asked()
            client.send(*[Query(query=b"select '" + b"x" * 100_000 + b"'")] * 15)
            told = client.until_ready()
            assert isinstance(told[-2], ErrorResponse)
            assert "too much came behind it" in told[-2].message
            for _ in range(15):
                assert CommandComplete(tag="SELECT 1") in client.until_ready()
        assert humans.state(asked.id) is State.WITHDRAWN

    def test_a_proxy_that_ends(self, shield: Shield, humans: Humans) -> None:
        with started(second_proxy(shield, ENVIRONMENT)) as second, second.connect() as conn:
            waits = Background(lambda: conn.execute(DELETE))
            asked = humans.asked()
            second.signal(signal.SIGTERM)
            error = waits.error()
            assert isinstance(error, errors.InsufficientPrivilege)
            assert "shutting down" in str(error)
            assert detail(error, "approval") == asked.id
            assert second.wait() == 0
        assert humans.state(asked.id) is State.WAITING

    def test_a_control_database_that_goes_away_meanwhile(self, shield: Shield, humans: Humans) -> None:
        """Its connections are cut while the agent waits: the answer comes all the same."""
        with shield.connect() as conn:
            waits = Background(lambda: conn.execute(DELETE))
            asked = humans.asked()
            with shield.server.connect() as admin:
                admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [shield.control])
            humans.database.close()
            assert humans.approve_and_run().id == asked.id
            assert waits.result().statusmessage == "DELETE 3"


Fingerprint = Callable[[], dict[str, str]]
ATTACKS: list[Callable[[psycopg.Connection[Any]], object]] = [
    lambda conn: conn.execute("select 1; delete from shop.orders"),
    lambda conn: conn.execute("begin; delete from shop.orders; commit"),
    lambda conn: conn.execute("prepare p as delete from shop.orders"),
    lambda conn: conn.execute("explain analyze execute p"),
    lambda conn: conn.pgconn.prepare(b"p", b"delete from shop.orders"),
    lambda conn: conn.pgconn.exec_prepared(b"p", []),
    lambda conn: conn.pgconn.describe_prepared(b"p"),
    lambda conn: conn.execute("execute p"),
    lambda conn: conn.execute("deallocate all"),
    lambda conn: conn.execute("declare c cursor with hold for with g as (delete from shop.orders returning id) select id from g"),
    lambda conn: conn.execute("copy (delete from shop.orders returning id) to stdout"),
    lambda conn: conn.execute("delete from shop.orders returning id", binary=True),
]


def test_no_form_reaches_the_server_without_a_human(shield: Shield, humans: Humans, fingerprint: Fingerprint) -> None:
    before = fingerprint()
    with configured(shield, approval_wait=0.05):
        for attack in ATTACKS:
            with shield.connect("write") as conn:
                with pytest.raises(psycopg.Error):
                    attack(conn)
                    conn.execute("do $$ begin delete from shop.orders; end $$")
                assert conn.execute("select 1").fetchone() == (1,)
        with shield.connect("write") as conn:
            with pytest.raises(errors.InsufficientPrivilege), conn.pipeline() as pipeline:
                conn.execute("insert into shop.settings values ('skipped', '1')")
                conn.execute("delete from shop.orders")
                conn.execute("delete from shop.orders")
                pipeline.sync()
            with pytest.raises(errors.InsufficientPrivilege), conn.pipeline() as pipeline:
                conn.execute("delete from shop.orders")
                pipeline.sync()
                conn.execute("delete from shop.order_items")
                pipeline.sync()
    assert fingerprint() == before
