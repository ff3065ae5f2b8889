"""Tokens as agents meet them at the proxy: scopes, the end of sessions on every proxy, guesses, an absent control database."""

from __future__ import annotations

import json
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo
from support import servers
from support.background import Background
from support.control import all_heard
from support.servers import Server
from support.shield import Shield, prepared_shield, started
from support.slow import running, slowly
from support.waiting import MachineClock, until

from dbshield.config import EnvironmentConfig
from dbshield.control.directory import APPLICATION_NAME as DIRECTORY
from dbshield.control.issuing import Tokens
from dbshield.control.scopes import ANYWHERE, make_scope
from dbshield.model import AccessLevel, TokenScope
from dbshield.proxy.throttle import SOURCE_LINES
from dbshield.store.database import Database

PROMISED = 1.0
"""Seconds within which every proxy ends the sessions of a token that is good no more."""
FAILURES = 40
OTHER_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(scope="module")
def shield(server18: Server, worker_id: str) -> Iterator[Shield]:
    folder = servers.here() / f"tokens-{worker_id}"
    with prepared_shield(server18, f"tokens_{worker_id}", folder, drain_timeout=5.0, login_failures=FAILURES) as first:
        first.write_config(listen=[f"127.0.0.1:{first.port}", f"unix:{folder}:6432"])
        with started(first):
            yield first


@pytest.fixture(scope="module")
def twin(shield: Shield) -> Iterator[Shield]:
    """A second proxy process of the same control database."""
    with started(shield.twin()) as second:
        yield second


@pytest.fixture
def control(shield: Shield) -> Iterator[Connection]:
    with psycopg.connect(shield.server.dsn(shield.control), autocommit=True) as connection:
        yield connection


def issue(
    shield: Shield, *, agent: str = "write", ttl: timedelta = timedelta(days=1), scope: TokenScope = ANYWHERE
) -> tuple[str, str]:
    """Another token that the proxy knows already: its connection string and its id."""
    database = Database(shield.server.dsn(shield.control))
    try:
        tokens = Tokens(database, {"test": EnvironmentConfig(upstream=shield.upstream())})
        issued = tokens.issue_token(name=agent, environment="test", now=datetime.now(UTC), by="ann", ttl=ttl, scope=scope)
    finally:
        database.close()
    # Who tried instead would be one of those who guess, and fill the audit's lines of refused logins.
    all_heard(shield.server.dsn(shield.control))
    return shield.dsn(agent, password=issued.token.text), issued.token.id


def refusal(dsn: str) -> str:
    """What a client reads that is not let in; empty where it is."""
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


def connect(dsn: str, proxy: Shield) -> Connection:
    return psycopg.connect(make_conninfo(dsn, port=proxy.port), autocommit=True)


def silent_until(connections: Sequence[Connection], deadline: float = 30.0) -> float:
    """When the last of these idle sessions heard something, by the system's clock."""
    waiting = {connection.fileno() for connection in connections}
    end = time.monotonic() + deadline
    while waiting:
        assert time.monotonic() < end, f"{len(waiting)} sessions still stand"
        readable, _, _ = select.select(list(waiting), [], [], 0.05)
        waiting.difference_update(readable)
    return time.time()


def late(connections: Sequence[Connection], ends: float) -> float:
    """How many seconds after `ends` the last of these idle sessions heard of it; none of them does before."""
    with MachineClock() as clock:
        left = ends - time.time()
        assert silent_until(connections) >= ends
        return clock.seconds - left


def last_words(connection: Connection) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        connection.execute("select 1")
    return str(caught.value)


@contextmanager
def standing(dsn: str, *proxies: Shield) -> Iterator[list[Connection]]:
    """A session through each proxy."""
    connections = [connect(dsn, proxy) for proxy in proxies]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


def audited(shield: Shield, event: str, **fields: str) -> list[dict[str, Any]]:
    # The last line may be under way.
    lines = (shield.folder / "state" / "audit.jsonl").read_text(encoding="ascii").rpartition("\n")[0].splitlines()
    found = [entry for entry in map(json.loads, lines) if entry["event"] == event]
    return [entry for entry in found if all(entry.get(name) == value for name, value in fields.items())]


# Scopes


def test_a_token_for_less_is_judged_as_less(shield: Shield) -> None:
    """The judge goes by the token, the server still sees the agent's own role."""
    insert = "insert into shop.settings (key, value) values (gen_random_uuid()::text, 'a')"
    dsn, _ = issue(shield, scope=make_scope(access=AccessLevel.READ))
    with connect(dsn, shield) as narrow, shield.connect("write") as wide:
        assert narrow.execute("select current_user").fetchone() == ("agent_write",)
        with pytest.raises(errors.InsufficientPrivilege, match="dbshield"):
            narrow.execute(insert)
        wide.execute(insert)


def test_a_token_from_another_network_reaches_no_server(shield: Shield) -> None:
    dsn, token = issue(shield, scope=make_scope(networks=["10.0.0.0/8", "192.0.2.7"]))
    # Those of the test before end a moment after it.
    assert until(lambda: shield.backends() == 0)
    said = refusal(dsn)
    assert f"token {token} may not be used from 127.0.0.1" in said
    assert shield.backends() == 0
    assert until(lambda: audited(shield, "refused", token=token, user="write.test"))
    assert refusal(issue(shield, scope=make_scope(networks=["127.0.0.0/8"]))[0]) == ""


def test_a_token_at_another_hour(shield: Shield, control: Connection) -> None:
    now = datetime.now(UTC)
    another = OTHER_DAYS[(now.weekday() + 3) % 7]
    dsn, token = issue(shield, scope=make_scope(hours=f"{another} 08:00-18:00 UTC"))
    assert f"token {token} does not work at this hour" in refusal(dsn)
    dsn, token = issue(shield, scope=make_scope(hours="daily 00:00-24:00 UTC"))
    with standing(dsn, shield) as connections:
        control.execute("update dbshield.tokens set hours = %s where id = %s", [f"{another} 08:00-18:00 UTC", token])
        silent_until(connections)
        assert "does not work at this hour" in last_words(connections[0])


# Ends


def revoked(shield: Shield, control: Connection, token: str) -> None:
    control.execute("update dbshield.tokens set revoked_at = now() where id = %s", [token])


def removed(shield: Shield, control: Connection, token: str) -> None:
    control.execute(
        "update dbshield.agents set removed_at = now() where id = (select agent from dbshield.tokens where id = %s)", [token]
    )


def lowered(shield: Shield, control: Connection, token: str) -> None:
    control.execute(
        "update dbshield.agents set access = 'read' where id = (select agent from dbshield.tokens where id = %s)", [token]
    )


@pytest.mark.parametrize(
    ("end", "says"),
    [(revoked, "was revoked"), (removed, "was removed"), (lowered, "may do less")],
    ids=["revoked", "removed", "lowered"],
)
def test_a_decision_ends_the_sessions_on_every_proxy_within_a_second(
    shield: Shield, twin: Shield, control: Connection, end: Callable[[Shield, Connection, str], None], says: str
) -> None:
    agent = f"gone-{end.__name__}"
    shield.agent(agent, "write")
    dsn, token = issue(shield, agent=agent)
    with standing(dsn, shield, shield, twin, twin) as connections, shield.connect("read") as bystander:
        end(shield, control, token)
        with MachineClock() as clock:
            silent_until(connections)
            took = clock.seconds
        assert took < PROMISED, f"{took:.3f} s"
        for connection in connections:
            assert says in last_words(connection)
        assert bystander.execute("select 1").fetchone() == (1,)
    assert until(lambda: len(audited(shield, "disconnected", agent=agent)) >= 2)


BEGINS_AND_WAITS = """
    select pid from pg_catalog.pg_locks left join pg_catalog.pg_stat_activity using (pid)
    where not granted and relation = 'pg_catalog.pg_namespace'::regclass and datname is null
    and database = (select oid from pg_catalog.pg_database where datname = current_database())
"""
"""Who waits for the lock and is still connecting: only then does the server show whose session it is."""


@pytest.mark.parametrize(("end", "says"), [(revoked, "was revoked"), (lowered, "may do less")], ids=["revoked", "lowered"])
def test_regression_a_decision_during_a_login_holds_for_it(
    shield: Shield, control: Connection, end: Callable[[Shield, Connection, str], None], says: str
) -> None:
    """A server may take seconds to let the role in; the token that was proved before stood for another half second after that."""
    agent = f"late-{end.__name__}"
    shield.agent(agent, "write")
    dsn, token = issue(shield, agent=agent)
    with standing(dsn, shield) as connections, shield.server.connect(shield.database) as admin:
        with admin.transaction():
            # What every new connection reads; this one alone can look who waits for it.
            admin.execute("lock table pg_catalog.pg_namespace in access exclusive mode")
            login = Background(lambda: refusal(dsn))
            assert until(lambda: admin.execute(BEGINS_AND_WAITS).fetchall())
            end(shield, control, token)
            silent_until(connections)
        assert says in login.result()
    assert until(lambda: bool(audited(shield, "refused", token=token)))


def expiring(control: Connection, token: str, *, seconds: float) -> float:
    """When a token ends that lives so many seconds from now on."""
    ends = time.time() + seconds
    control.execute("update dbshield.tokens set expires_at = to_timestamp(%s) where id = %s", [ends, token])
    return ends


def test_a_busy_session_ends_on_the_server_too(shield: Shield, twin: Shield, control: Connection) -> None:
    dsn, token = issue(shield)
    with connect(dsn, twin) as connection:
        query = slowly(connection)
        assert until(lambda: running(shield) == 1)
        revoked(shield, control, token)
        assert "was revoked" in str(query.error())
        assert until(lambda: running(shield) == 0)


def test_time_alone_ends_sessions_on_every_proxy(shield: Shield, twin: Shield, control: Connection) -> None:
    dsn, token = issue(shield)
    with standing(dsn, shield, twin) as connections:
        ends = expiring(control, token, seconds=2)
        assert late(connections, ends) < PROMISED
        assert all("expired" in last_words(connection) for connection in connections)


def test_a_rotated_token_works_until_its_overlap_is_over(shield: Shield, twin: Shield, control: Connection) -> None:
    old, token = issue(shield, scope=make_scope(networks=["127.0.0.0/8"]))
    rotated = json.loads(shield.cli("token", "rotate", token, "--overlap", "1h", "--json"))
    new = make_conninfo(rotated["dsn"], sslmode="disable")
    with standing(old, shield, twin) as before:
        assert refusal(new) == ""
        listed = {entry["token_id"]: entry for entry in json.loads(shield.cli("token", "list", "write", "--json"))}
        assert listed[rotated["token_id"]]["scope"] == {"networks": ["127.0.0.0/8"]}
        assert listed[rotated["token_id"]]["replaces"] == token
        left = datetime.fromisoformat(listed[token]["expires_at"]) - datetime.now(UTC)
        assert timedelta(minutes=58) < left <= timedelta(hours=1)
        assert all(connection.execute("select 1").fetchone() == (1,) for connection in before)
        shield.cli("token", "rotate", token, "--overlap", "0")
        silent_until(before)
    shield.cli("token", "rotate", token, fails=True)
    row = control.execute("select count(*) from dbshield.audit where kind = 'token-rotated'").fetchone()
    assert row is not None
    assert row[0] >= 2


def test_the_last_use_is_noted(shield: Shield) -> None:
    dsn, token = issue(shield)
    connect(dsn, shield).close()

    def use() -> dict[str, Any]:
        listed = json.loads(shield.cli("token", "list", "write", "--json"))
        return next(entry for entry in listed if entry["token_id"] == token)

    assert until(lambda: use()["last_used_from"] == "127.0.0.1")
    assert abs(datetime.fromisoformat(use()["last_used_at"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert use()["stale"] is False


# The control database goes away


def proxies(shield: Shield) -> int:
    """How many listen in the control database."""
    with shield.server.connect() as admin:
        query = "select from pg_stat_activity where application_name = %s and datname = %s"
        return len(admin.execute(query, [DIRECTORY, shield.control]).fetchall())


@contextmanager
def away(shield: Shield) -> Iterator[None]:
    """Nobody reaches the control database."""
    name = sql.Identifier(shield.control)
    with shield.server.connect() as admin:
        admin.execute(sql.SQL("alter database {} with allow_connections false").format(name))
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [shield.control])
        try:
            yield
        finally:
            admin.execute(sql.SQL("alter database {} with allow_connections true").format(name))


def test_tokens_in_memory_open_the_door_while_the_control_database_is_away_and_expire_all_the_same(shield: Shield) -> None:
    lasting, _ = issue(shield)
    brief, token = issue(shield)
    lost, there = shield.text().count("directory.lost"), proxies(shield)
    with standing(brief, shield) as connections:
        with psycopg.connect(shield.server.dsn(shield.control), autocommit=True) as control:
            ends = expiring(control, token, seconds=4)
        ended = Background(lambda: late(connections, ends))
        all_heard(shield.server.dsn(shield.control))
        with away(shield):
            assert until(lambda: shield.text().count("directory.lost") > lost)
            assert refusal(lasting) == ""
            assert ended.result() < PROMISED
            assert "expired" in last_words(connections[0])
            assert "has expired" in refusal(brief)
    assert until(lambda: proxies(shield) == there), "the next test begins with proxies that hear of what it does"
    assert refusal(lasting) == ""


# Guesses


def test_a_guesser_is_refused_at_once_and_the_audit_is_not_flooded(shield: Shield) -> None:
    shield.agent("victim", "read")
    right = shield.dsn("victim")
    assert until(lambda: refusal(right) == "", deadline=5), refusal(right)
    wrong = make_conninfo(right, password="dbs_test_aaaaaaaaaaaa_" + "a" * 32)
    said = [refusal(wrong) for _ in range(FAILURES + 30)]
    assert all("password authentication failed" in one for one in said[:FAILURES])
    assert all("too many wrong tokens for this agent from this address" in one for one in said[FAILURES:])
    assert "Try again in" in said[-1]
    assert "too many wrong tokens" in refusal(right), "from the same address"
    socket = make_conninfo(right, host=str(shield.folder), port=6432)
    assert refusal(socket) == "", "the right token from elsewhere"
    other = make_conninfo(wrong, user="nobody.test")
    assert "password authentication failed" in refusal(other)
    assert until(lambda: audited(shield, "refused", reason="throttled: too many wrong tokens for this agent from this address"))
    assert len(audited(shield, "refused", user="victim.test")) <= SOURCE_LINES + 1
    assert refusal(shield.dsn("read")) == "", "another agent from that address"
