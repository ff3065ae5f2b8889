"""Who gets in: the token and nothing else, into its own environment and database, and only while it lives."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from support.shield import BRIEF_ENVIRONMENT, OTHER_ENVIRONMENT, Shield
from support.waiting import until

pytestmark = pytest.mark.one_server


def refused(dsn: str, **changed: Any) -> str:
    """What a client that is not let in reads."""
    with pytest.raises(psycopg.OperationalError) as error:
        psycopg.connect(dsn, **changed)
    return str(error.value)


def test_a_wrong_token(shield: Shield, tls: bool) -> None:
    assert "FATAL" in refused(shield.dsn("write", tls=tls), password="dbs_test_none_nothing")


def test_the_roles_own_password_is_no_token(shield: Shield) -> None:
    assert "FATAL" in refused(shield.dsn("write"), password=shield.server.passwords["write"])


@pytest.mark.parametrize("user", ["write", "agent_write", "nobody.test", "write.other", "postgres", "write.test.test", "é.test"])
def test_another_user_name(shield: Shield, user: str) -> None:
    """Whether a user exists cannot be told from the answer."""
    assert refused(shield.dsn("write"), user=user).split("FATAL:")[1] == refused(shield.dsn("write"), password="x").split(
        "FATAL:"
    )[1].replace("write.test", user)


def test_a_token_of_another_environment(shield: Shield) -> None:
    made = shield.agent("wanderer", "write", environment=OTHER_ENVIRONMENT)
    other = psycopg.conninfo.conninfo_to_dict(made["dsn"])
    with psycopg.connect(made["dsn"], sslmode="disable") as conn:
        assert conn.execute("select 1").fetchone() == (1,)
    assert "FATAL" in refused(shield.dsn("write"), password=other["password"])
    assert "FATAL" in refused(made["dsn"], sslmode="disable", user="wanderer.test")


def test_a_revoked_token_is_refused_within_a_second(shield: Shield) -> None:
    made = shield.agent("short", "read")
    shield.connect("short").close()
    shield.cli("token", "revoke", made["token_id"])
    assert until(lambda: not _gets_in(shield, "short"), deadline=2)
    assert "FATAL" in refused(shield.dsn("short"))


def test_an_expired_token(shield: Shield) -> None:
    """Its owner is told, having proved that it knows the token."""
    dsn = psycopg.conninfo.make_conninfo(shield.agent("brief", "read", environment=BRIEF_ENVIRONMENT)["dsn"], sslmode="disable")
    assert until(lambda: "expired" in _said(dsn))
    assert "expired" in refused(dsn)


def test_a_new_token_works_beside_the_old(shield: Shield) -> None:
    shield.agent("two", "read")
    issued = json.loads(shield.cli("token", "issue", "two", "--environment", "test", "--json"))
    assert until(lambda: _gets_in(shield, "two"))
    with psycopg.connect(issued["dsn"], sslmode="disable") as conn:
        assert conn.execute("select current_user").fetchone() == ("agent_read",)


def test_an_agent_that_was_removed(shield: Shield) -> None:
    shield.agent("former", "read")
    assert _gets_in(shield, "former")
    shield.cli("agent", "remove", "former", "--environment", "test", "--yes")
    assert until(lambda: not _gets_in(shield, "former"), deadline=5)


@pytest.mark.parametrize("database", ["postgres", "template1", "seeded_tmpl", "nothing"])
def test_a_database_that_is_not_the_agents(shield: Shield, database: str) -> None:
    assert "FATAL" in refused(shield.dsn("write"), dbname=database)


def test_no_database_name_means_the_users_name(shield: Shield) -> None:
    assert "FATAL" in refused(shield.dsn("write"), dbname="")


@pytest.mark.parametrize("replication", ["true", "database", "on", "1"])
def test_replication(shield: Shield, replication: str) -> None:
    assert "FATAL" in refused(shield.dsn("migrate"), replication=replication)


@pytest.mark.parametrize(
    "options",
    [
        "-c standard_conforming_strings=off",
        "-c client_encoding=SJIS",
        "-c session_replication_role=replica",
        "-c role=app_owner",
        "--standard-conforming-strings=off",
    ],
)
def test_startup_options_that_change_what_a_text_means(shield: Shield, options: str) -> None:
    assert "FATAL" in refused(shield.dsn("migrate"), options=options)


@pytest.mark.parametrize(
    "options, shows", [("-c statement_timeout=7s", "7s"), ("-c work_mem=2MB --statement_timeout=8s", "8s"), ("", "2min")]
)
def test_startup_options_that_an_agent_may_set(shield: Shield, options: str, shows: str) -> None:
    with shield.connect("read", options=options) as conn:
        assert conn.execute("show statement_timeout").fetchone() == (shows,)


def test_another_client_encoding(shield: Shield) -> None:
    assert "client_encoding" in refused(shield.dsn("read"), client_encoding="LATIN1")


def test_direct_tls(shield: Shield) -> None:
    """No SSLRequest: a ClientHello at once, with the protocol named by ALPN (libpq 17)."""
    if psycopg.pq.version() < 170000:
        pytest.fail("psycopg's libpq is too old for direct TLS; install psycopg[binary]")
    with shield.connect("read", tls=True, sslnegotiation="direct") as conn:
        assert conn.pgconn.ssl_in_use
        assert conn.execute("select 1").fetchone() == (1,)


def test_a_certificate_of_another_authority_is_noticed(shield: Shield) -> None:
    assert "certificate verify failed" in refused(shield.dsn("read", tls=True), sslrootcert="system")


def test_channel_binding_cannot_be_had_and_is_not_pretended(shield: Shield) -> None:
    assert "channel binding" in refused(shield.dsn("read", tls=True), channel_binding="require")


def test_no_secret_is_logged(shield: Shield) -> None:
    shield.connect("write").close()
    secrets = [shield.parameters(access)["password"] for access in ("read", "write", "migrate")]
    written = shield.text() + "".join(path.read_text(errors="replace") for path in shield.folder.rglob("*.jsonl"))
    assert written
    assert [secret for secret in secrets if secret in written] == []
    assert [secret for secret in shield.server.passwords.values() if secret in written] == []


def _said(dsn: str) -> str:
    """What somebody reads who is not let in; empty where they are."""
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


def _gets_in(shield: Shield, agent: str) -> bool:
    try:
        shield.connect(agent).close()
    except psycopg.OperationalError:
        return False
    return True
