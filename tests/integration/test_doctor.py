"""The doctor on real servers: what is set up badly is found, what is not is not, and what nobody may see is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from support import servers
from support.control import tables_database
from support.servers import Server

from dbshield.cli.main import run
from dbshield.config import conninfo
from dbshield.guard.doctor import Finding, Scope, Severity
from dbshield.guard.doctor_look import CHECKS, Examination, Patient, examine
from dbshield.guard.install import Options, install, uninstall
from dbshield.model import AccessLevel, Upstream

DATABASE = "postgres"
"""For what is the whole cluster's: a database of the test's own costs more than the test."""


@pytest.fixture
def role(server: Server) -> Iterator[str]:
    """A plain role of this test alone, which the doctor is told is an agent's."""
    name = f"doc_{uuid4().hex[:12]}"
    with server.connect() as admin:
        admin.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
    yield name
    with server.connect() as admin:
        admin.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def patient(server: Server, database: str, role: str, access: AccessLevel = AccessLevel.WRITE) -> Patient:
    """Looked at as the superuser."""
    return Patient(
        environment="shop",
        server=Upstream(host=server.cluster.host, port=server.cluster.port, user="proxy_itself"),
        databases=(database,),
        dsn=server.dsn(database),
        logins=((role, access),),
    )


def about(examination: Examination, check: str, role: str = "") -> list[Finding]:
    return [
        finding for finding in examination.findings if finding.check == check and (not role or role in "".join(finding.subjects))
    ]


DATABASE_SINS = {
    "agents.own-objects": ("create table shop.mine (id int); alter table shop.mine owner to {role}", "drop table shop.mine"),
    "agents.create-in-schema": ("grant create on schema shop to {role}", ""),
    "public.create-in-schema": ("grant create on schema shop to public", ""),
    "public.write-tables": ("grant delete on shop.orders to public", ""),
    "agents.readers-write": ("grant update on shop.orders to {role}", ""),
    "agents.truncate": ("grant truncate on shop.orders to {role}", ""),
    "agents.security-definer": (
        "create function shop.trap() returns int language sql security definer as 'select 1'; "
        "grant usage on schema shop to {role}",
        "",
    ),
    "agents.create-in-database": ("grant create on database {database} to {role}", ""),
    "public.execute": ("create function shop.anybody() returns int language sql volatile as 'select 1'", ""),
    "agents.reaching-functions": ("create extension dblink schema shop; grant usage on schema shop to {role}", ""),
    "agents.foreign-servers": (
        "create extension postgres_fdw; create server far foreign data wrapper postgres_fdw; "
        "create user mapping for public server far options (password 'x')",
        "",
    ),
    "guard.disabled": (
        "create schema if not exists dbshield; create function dbshield.stop() returns event_trigger language plpgsql "
        "as 'begin end'; create event trigger stop on sql_drop execute function dbshield.stop(); "
        "alter event trigger stop disable",
        "drop event trigger stop",
    ),
}


@pytest.mark.parametrize("check", DATABASE_SINS)
def test_what_is_wrong_in_a_database_is_found_and_mended(server: Server, database: str, role: str, check: str) -> None:
    """Not there before, there after, and gone again when somebody runs the command that the finding names."""
    sin, end = (text.format(role=role, database=database) for text in DATABASE_SINS[check])
    asked = patient(server, database, role, AccessLevel.READ)
    whose = "" if check.startswith(("public.", "guard.")) else role
    before = {subject for finding in about(examine([asked]), check, whose) for subject in finding.subjects}
    with server.connect(database) as admin:
        admin.execute(sin.encode())
    try:
        (finding,) = about(examine([asked]), check, whose)
        new = [(subject, mend) for subject, mend in zip(finding.subjects, finding.mends, strict=True) if subject not in before]
        assert new
        with server.connect(database) as admin:
            for _, mend in new:
                admin.execute(mend.replace("ROLE_THAT_IS_NO_AGENT", "postgres").encode())
        after = {subject for finding in about(examine([asked]), check, whose) for subject in finding.subjects}
        assert after <= before
    finally:
        with server.connect(database) as admin:
            admin.execute(end.encode())
            admin.execute(sql.SQL("drop owned by {}").format(sql.Identifier(role)))


@pytest.mark.parametrize("whom", ["{role}", "public"])
def test_a_right_to_write_one_column_is_a_right_to_write(server: Server, database: str, role: str, whom: str) -> None:
    asked = patient(server, database, role, AccessLevel.READ)
    with server.connect(database) as admin:
        admin.execute(f"grant update (total) on shop.orders to {whom.format(role=role)}".encode())
        examination = examine([asked])
        (finding,) = about(examination, "agents.readers-write", role)
        assert finding.subjects == (f"{role}: shop.orders",)
        assert bool(about(examination, "public.write-tables")) is (whom == "public")
        for found in [*about(examination, "public.write-tables"), finding]:
            admin.execute(found.mends[0].encode())
    assert not about(examine([asked]), "agents.readers-write", role)


def test_the_right_to_maintain_a_table_is_found(server: Server, database: str, role: str) -> None:
    with server.connect(database) as admin:
        if server.major < 17:
            with pytest.raises(psycopg.Error, match="unrecognized privilege type"):
                admin.execute(f"grant maintain on shop.orders to {role}".encode())
            return
        admin.execute(f"grant maintain on shop.orders to {role}".encode())
        (finding,) = about(examine([patient(server, database, role)]), "agents.maintain", role)
        admin.execute(finding.mends[0].encode())
    assert not about(examine([patient(server, database, role)]), "agents.maintain", role)


def test_a_role_to_become_or_to_give_away_is_found(server: Server, role: str) -> None:
    asked = patient(server, DATABASE, role)
    checks = ("agents.become-others", "agents.admin-option")
    with server.connect() as admin:
        admin.execute(f"create role {role}_app login; create role {role}_group; grant {role}_group to {role}".encode())
        try:
            assert not [finding for check in checks for finding in about(examine([asked]), check, role)]
            admin.execute(f"grant {role}_app to {role}; grant {role}_group to {role} with admin option".encode())
            examination = examine([asked])
            for check, subject in zip(checks, (f"{role} in {role}_app", f"{role}: {role}_group"), strict=True):
                (finding,) = about(examination, check, role)
                assert (finding.severity, finding.subjects) == (Severity.CRITICAL, (subject,))
                admin.execute(finding.mends[0].encode())
            assert not [finding for check in checks for finding in about(examine([asked]), check, role)]
            if server.major >= 16:
                admin.execute(f"grant {role}_app to {role} with set false, inherit true".encode())
                assert not about(examine([asked]), checks[0], role)
        finally:
            admin.execute(f"drop role {role}_app; drop role {role}_group".encode())


ROLE_SINS = {
    "agents.superuser": ("alter role {role} superuser", ""),
    "agents.createrole": ("alter role {role} createrole", ""),
    "agents.attributes": ("alter role {role} bypassrls replication", ""),
    "agents.predefined-roles": ("grant pg_execute_server_program to {role}", ""),
    "agents.parameters": ("grant set on parameter session_replication_role to {role}", ""),
    "roles.password-never-expires": ("alter role {role} password 'a'", ""),
    "roles.md5": (
        "set password_encryption = md5; alter role {role} password 'a'",
        "reset password_encryption; alter role {role} password 'b'",
    ),
    "roles.expired": ("alter role {role} valid until '2020-01-01'", ""),
    "server.silencing-settings": ("alter role {role} set session_replication_role = replica", ""),
}


@pytest.mark.parametrize("check", ROLE_SINS)
def test_what_is_wrong_with_a_role_is_found_and_mended(server: Server, role: str, check: str) -> None:
    sin, mended_by_hand = (text.format(role=role) for text in ROLE_SINS[check])
    asked = patient(server, DATABASE, role)
    assert about(examine([asked]), check, role) == []
    with server.connect() as admin:
        admin.execute(sin.encode())
        (finding,) = about(examine([asked]), check, role)
        mends = [mend for subject, mend in zip(finding.subjects, finding.mends, strict=True) if role in subject]
        admin.execute((mended_by_hand or mends[0]).encode())
        assert role in "".join(mends)
    assert about(examine([asked]), check, role) == []


def test_what_a_role_can_become_counts_as_what_it_is(server: Server, role: str) -> None:
    with server.connect() as admin:
        admin.execute(f"create role {role}_boss superuser; grant {role}_boss to {role}".encode())
        try:
            (finding,) = about(examine([patient(server, DATABASE, role)]), "agents.strong-memberships", role)
            assert finding.severity is Severity.CRITICAL
            admin.execute(finding.mends[0].encode())
            assert not about(examine([patient(server, DATABASE, role)]), "agents.strong-memberships", role)
        finally:
            admin.execute(f"drop role {role}_boss".encode())


def test_an_agent_that_owns_the_database_is_found(server: Server, database: str, role: str) -> None:
    with server.connect() as admin:
        admin.execute(f"alter database {database} owner to {role}".encode())
        (finding,) = about(examine([patient(server, database, role)]), "agents.own-databases", role)
        assert finding.severity is Severity.CRITICAL
        admin.execute(finding.mends[0].replace("ROLE_THAT_IS_NO_AGENT", "postgres").encode())
    assert not about(examine([patient(server, database, role)]), "agents.own-databases", role)


def test_a_plain_agent_is_accused_of_nothing(server: Server, database: str, role: str) -> None:
    """A role with the rights that agents get, and a search_path that ends with pg_temp."""
    with server.connect(database) as admin:
        admin.execute(f"grant usage on schema shop to {role}; grant select, insert on shop.orders to {role}".encode())
        admin.execute(f"alter role {role} set search_path = shop, pg_temp".encode())
        examination = examine([patient(server, database, role)])
        admin.execute(sql.SQL("drop owned by {}").format(sql.Identifier(role)))
    accused = {finding.check for finding in examination.findings if role in " ".join(finding.subjects)}
    # Whatever pg_hba.conf of the tests' servers lets in, it lets everybody in.
    assert accused - {"access.around-the-proxy"} <= {"agents.security-definer"}
    assert examination.unreached == []


def test_every_check_can_be_asked_by_an_administrator(server: Server, database: str, role: str) -> None:
    examination = examine([patient(server, database, role)])
    assert [finding for finding in examination.findings if finding.severity is Severity.NOT_LOOKED] == []
    applies = [check for check in CHECKS if server.major >= check.since]
    # The guard, pg_hba.conf and the identity are asked besides.
    assert examination.answered == len(applies) + 3


def test_what_a_plain_role_may_not_see_is_said(server: Server, database: str) -> None:
    """Silence means that somebody looked."""
    asked = replace(patient(server, database, "agent_read"), dsn=server.agent_dsn("read", database))
    examination = examine([asked])
    unseen = {finding.check for finding in examination.findings if finding.severity is Severity.NOT_LOOKED}
    assert unseen == {"roles.password-never-expires", "roles.md5", "access"}
    assert examination.unreached == []


def test_a_server_that_does_not_answer_is_said_and_leaks_nothing(server: Server) -> None:
    dsn = conninfo.with_password(server.agent_dsn("read", DATABASE), "wrong-and-secret")
    examination = examine([replace(patient(server, DATABASE, "agent_read"), dsn=dsn)])
    assert examination.unreached == ["shop"]
    (finding,) = about(examination, "look.connect")
    assert "password authentication failed" in finding.what
    assert "secret" not in repr(examination)


def test_the_doctor_changes_nothing(server: Server, role: str) -> None:
    """Its queries run where nothing can be written."""
    parameters: dict[str, Any] = {
        "agents": [role],
        "readers": [role],
        "not_migrators": [role],
        "left_behind": [],
        "upstream": "x",
    }
    with server.connect(DATABASE) as connection:
        connection.execute("set default_transaction_read_only = on")
        for check in CHECKS:
            if server.major >= check.since:
                assert all(len(row) == 2 for row in connection.execute(check.query, parameters)), check.name
    assert {check.scope for check in CHECKS} == set(Scope)


def test_two_environments_on_one_cluster_are_critical(server: Server, role: str) -> None:
    """By two addresses of one server, so that only the system identifier can tell."""
    one = replace(patient(server, DATABASE, role), environment="staging", password="one and the same")
    other = replace(
        one, environment="production", server=Upstream(host="db.example.com", port=5432, user="live"), databases=("other",)
    )
    examination = examine([replace(one, databases=(DATABASE,)), replace(other, databases=(DATABASE,))])
    checks = {finding.check for finding in examination.findings if finding.environment == "staging and production"}
    assert checks == {f"environments.same-{word}" for word in ("cluster", "database", "password", "role")}
    assert "one and the same" not in repr(examination)


def test_a_server_that_is_another_cluster_than_it_was_is_critical(server: Server, role: str) -> None:
    examination = examine([replace(patient(server, DATABASE, role), recorded=1)])
    (finding,) = about(examination, "environments.changed-identity")
    assert finding.severity is Severity.CRITICAL
    assert finding.subjects[0].startswith("was 1, is ")


def test_a_role_of_the_guards_group_that_no_agent_uses_is_left_behind(server18: Server, role18: str) -> None:
    group = f"{role18}_group"
    with server18.connect() as admin:
        admin.execute(f"create role {group} nologin; grant {group} to {role18}".encode())
        try:
            asked = replace(patient(server18, "postgres", "somebody_else"), group=group)
            (finding,) = about(examine([asked]), "roles.left-behind", role18)
            unknown = examine([replace(asked, logins=None)])
        finally:
            admin.execute(f"drop role {group}".encode())
    assert finding.mends == (f"alter role {role18} nologin",)
    assert not about(unknown, "roles.left-behind")
    assert about(unknown, "look.agents")


def test_the_guard_of_another_environment_or_cluster_is_critical(server: Server, database: str, role: str) -> None:
    with server.connect(database) as admin:
        admin.execute("create schema dbshield; create table dbshield.installation (environment text, system_identifier text)")
        admin.execute("insert into dbshield.installation select 'shop', system_identifier from pg_control_system()")
        asked = patient(server, database, role)
        assert not about(examine([asked]), "environments.recorded-name") + about(examine([asked]), "guard.missing")
        assert about(examine([asked]), "guard.incomplete")
        admin.execute("update dbshield.installation set environment = 'production', system_identifier = '1'")
        examination = examine([asked])
    assert about(examination, "environments.recorded-name")[0].subjects == ("production",)
    assert about(examination, "environments.recorded-identity")[0].severity is Severity.CRITICAL


@pytest.fixture
def role18(server18: Server) -> Iterator[str]:
    name = f"doc_{uuid4().hex[:12]}"
    with server18.connect() as admin:
        admin.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
    yield name
    with server18.connect() as admin:
        admin.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def guarded_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own: the guard's roles belong to the whole cluster."""
    with servers.own_server(request.param, f"doctor-{request.param}") as server:
        yield server


def test_a_guarded_database_is_left_with_what_the_guard_does_not_close(guarded_server: Server) -> None:
    """Members of the guard's group are agents; the guard itself gives no reason for a finding."""
    guarded_server.clone("examined")
    with guarded_server.connect("examined") as admin:
        admin.execute((Path(__file__).parents[2] / "sql" / "catalogue_notify.sql").read_bytes())
        asked = replace(patient(guarded_server, "examined", "agent_read", AccessLevel.READ), logins=None)
        unguarded = examine([asked])
        install(admin, Options(environment="shop"))
        admin.execute("grant dbshield_agents to agent_read, agent_write")
        examination = examine([asked])
        plain = examine([replace(asked, dsn=guarded_server.agent_dsn("migrate", "examined"))])
        elsewhere = examine([replace(asked, environment="production")])
        admin.execute("alter event trigger dbshield_dropped enable")
        weakened = examine([asked])
        uninstall(admin)
    assert about(unguarded, "guard.missing")
    assert not {finding.check for finding in examination.findings if finding.check.startswith(("guard.", "environments."))}
    assert not [subject for finding in examination.findings for subject in finding.subjects if " dbshield." in subject]
    assert any("agent_write" in subject for finding in examination.findings for subject in finding.subjects)
    assert (about(plain, "environments.recorded-name")[0].severity, about(plain, "guard.missing")) == (Severity.NOT_LOOKED, [])
    assert about(elsewhere, "environments.recorded-name")[0].subjects == ("shop",)
    assert about(weakened, "guard.disabled")[0].mends == ("alter event trigger dbshield_dropped enable always",)


def test_a_guard_that_does_not_hold_is_found(guarded_server: Server) -> None:
    """A role that it takes for a person's, what somebody changed, and what is older than what is shipped."""
    guarded_server.clone("examined")
    asked = patient(guarded_server, "examined", "agent_write")
    with guarded_server.connect("examined") as admin:
        install(admin, Options(environment="shop"))
        (finding,) = about(examine([asked]), "guard.not-held")
        assert (finding.severity, finding.subjects) == (Severity.CRITICAL, ("agent_write",))
        admin.execute(finding.mends[0].encode())
        examination = examine([asked])
        assert about(examination, "guard.not-held") + about(examination, "guard.changed") == []
        admin.execute("update dbshield.installation set version = 4")
        (finding,) = about(examine([asked]), "guard.changed")
        assert finding.severity is Severity.WARNING
        install(admin, Options(environment="shop"))
        admin.execute("drop event trigger dbshield_new_tables; alter table shop.orders disable trigger dbshield_rows")
        (finding,) = about(examine([asked]), "guard.changed")
        assert finding.severity is Severity.CRITICAL
        assert "the event trigger dbshield_new_tables is missing" in finding.subjects
        assert "the table shop.orders is not guarded, or its triggers were changed or disabled" in finding.subjects
        blind = examine([replace(asked, dsn=guarded_server.agent_dsn("migrate", "examined"))])
        assert about(blind, "guard.changed")[0].severity is Severity.NOT_LOOKED
        uninstall(admin)
    guarded_server.drop("examined")


CommandLine = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(
    server18: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[CommandLine]:
    """The command line with a control database and one environment whose role is the plain reader of the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("READER_PASSWORD", server18.passwords["read"])
    server = server18.cluster
    with tables_database(server18) as control:
        (tmp_path / "dbshield.toml").write_text(
            f"""
            state = "state"
            [control]
            url = "{control}"
            [environments.staging]
            upstream = "postgresql://agent_read@{server.host}:{server.port}/{DATABASE}"
            password_env = "READER_PASSWORD"
            """,
            encoding="utf-8",
        )

        def call(*words: str) -> tuple[int, str, str]:
            capfd.readouterr()
            code = run(words)
            said = capfd.readouterr()
            return code, said.out, said.err

        assert call("init")[0] == 0
        yield call


def test_the_command_shows_the_worst_first_and_no_password(cli: CommandLine, server18: Server) -> None:
    assert cli("agent", "create", "claude", "-e", "staging", "-a", "write")[0] == 0
    code, out, err = cli("doctor")
    seen = [line.split("  ")[0] for line in out.splitlines() if not line.startswith(" ")]
    ranks = [["critical", "warning", "not looked", "note"].index(word) for word in seen[:-1]]
    assert ranks == sorted(ranks)
    assert "agents.environment-role  staging" in out
    assert "mend: dbshield guard install --environment staging" in out
    assert code == (1 if "critical" in seen else 0)
    assert server18.passwords["read"] not in out + err


def test_the_command_as_an_administrator_in_json(cli: CommandLine, server18: Server) -> None:
    code, out, _ = cli("doctor", "-e", "staging", "--dsn", server18.dsn(DATABASE), "--json")
    told = json.loads(out)
    assert list(told) == ["environments", "unreached", "answered", "counts", "findings"]
    assert told["counts"]["not looked"] == 0
    assert sum(told["counts"].values()) == len(told["findings"])
    assert code == (1 if told["counts"]["critical"] else 0)
    assert {"check", "severity", "environment", "database", "what", "why", "subjects", "mends"} == set(told["findings"][0])


def test_no_verdict_where_no_server_answers(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n", encoding="utf-8")
    dsn = "host=127.0.0.1 port=1 dbname=shop user=admin"
    code, out, err = cli("doctor", "-e", "staging", "--dsn", dsn, "--password-file", str(tmp_path / "password"), "--json")
    assert code == 2
    assert json.loads(out)["unreached"] == ["staging"]
    assert "secret" not in out + err


def test_a_password_that_is_not_there_is_said_and_the_others_are_looked_at(
    cli: CommandLine, tmp_path: Path, server18: Server
) -> None:
    with (tmp_path / "dbshield.toml").open("a", encoding="utf-8") as stream:
        stream.write('[environments.other]\nupstream = "postgresql://x@127.0.0.1/y"\npassword_env = "NOT_THERE"\n')
    _, out, _ = cli("doctor", "--json")
    told = json.loads(out)
    assert told["unreached"] == ["other"]
    assert any(finding["environment"] == "staging" for finding in told["findings"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--dsn dbname=x", "without --environment"),
        ("-e staging --password-env X", "without --dsn"),
        ("-e staging --dsn dbname=x --password-env NOT_THERE", "NOT_THERE is not set"),
        ("-e staging --dsn dbname=x --password-env X --password-file x", "both given"),
        ("-e staging --dsn password=topsecret", "has a password in it"),
        ("-e staging --dsn topsecret", "libpq can read"),
        ("-e stagign", 'Did you mean "staging"?'),
    ],
)
def test_wrong_usage_is_said(cli: CommandLine, words: str, said: str) -> None:
    code, out, err = cli("doctor", *words.split())
    assert (code, out) == (2, "")
    assert said in err
    assert "topsecret" not in err
