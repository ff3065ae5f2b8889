"""Sessions that wait for a human, with real clients: asked, approved elsewhere, answered here."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest
import sqlalchemy as sa
from psycopg import ClientCursor, errors
from psycopg.pq import TransactionStatus
from support.asking import DELETE, ENVIRONMENT, asking_shield, configured, detail, enrolled, left, nothing_waiting, told_by
from support.background import Background
from support.humans import Humans, second_proxy
from support.raw import raw_session
from support.servers import Server
from support.shield import Shield, libpq_environment, started
from support.waiting import until

from dbshield.session.terms import CARRIED
from dbshield.wire.backend import CommandComplete, DataRow, NoticeResponse, ReadyForQuery
from dbshield.wire.frontend import Query

pytestmark = pytest.mark.one_server(by="module")


@pytest.fixture(scope="module")
def shield(server: Server, worker_id: str) -> Iterator[Shield]:
    with asking_shield(server, worker_id) as shield:
        yield shield


@pytest.fixture(scope="module")
def people(shield: Shield) -> Iterator[Humans]:
    with enrolled(shield) as people:
        yield people


@pytest.fixture
def humans(people: Humans, shield: Shield) -> Iterator[Humans]:
    with nothing_waiting(people, shield) as humans:
        yield humans


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
            conn.execute("set idle_session_timeout = '4s'")
            with pytest.raises(errors.InsufficientPrivilege, match="nobody has decided") as error:
                conn.execute(DELETE)
            assert detail(error.value, "approval") == humans.asked().id
            assert conn.execute("select 1").fetchone() == (1,)
