"""Sessions that wait for a human in vain, with real clients: denied, given up, too late, or in a form that cannot be asked."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors
from psycopg.pq import TransactionStatus
from support.asking import DELETE, ENVIRONMENT, asking_shield, configured, detail, enrolled, left, nothing_waiting, told_by
from support.background import Background
from support.humans import Humans, second_proxy
from support.raw import raw_session
from support.servers import Server
from support.shield import Shield, started
from support.waiting import until

from dbshield.control.approval import State
from dbshield.wire.backend import CommandComplete, ErrorResponse
from dbshield.wire.frontend import Query, Terminate

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
