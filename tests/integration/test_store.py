"""The control database on real servers: its migrations, its constraints, its notices."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateTable
from support.control import empty_database, registered, tables_database
from support.servers import Server

from dbshield.control.agents import register_environments
from dbshield.errors import StoreError
from dbshield.store.database import Database
from dbshield.store.resources import data_folder
from dbshield.store.schema import REVISION, SCHEMA, metadata


@pytest.fixture
def empty(server: Server) -> Iterator[str]:
    with empty_database(server) as dsn:
        yield dsn


@pytest.fixture
def dsn(server: Server) -> Iterator[str]:
    with tables_database(server) as dsn:
        yield dsn


@pytest.fixture
def control(dsn: str) -> Iterator[Database]:
    with registered(dsn) as database:
        yield database


def test_an_empty_database_is_named_so_until_it_is_migrated(empty: str) -> None:
    database = Database(empty)
    try:
        with pytest.raises(StoreError, match="is empty") as caught:
            database.require_current()
        assert "dbshield init" in caught.value.hint
        assert database.migrate().current is None
        assert database.revision().current == REVISION
        database.require_current()
        assert database.migrate().current == REVISION
    finally:
        database.close()


@pytest.mark.parametrize(("revision", "expected"), [("0000", "this dbshield needs"), ("9999", "it is older than the database")])
def test_another_revision_says_which_side_is_behind(control: Database, revision: str, expected: str) -> None:
    with control.transaction() as connection:
        connection.execute(text(f"update {SCHEMA}.alembic_version set version_num = :revision"), {"revision": revision})
    with pytest.raises(StoreError, match=expected):
        control.require_current()


def test_a_newer_database_is_not_migrated(control: Database) -> None:
    with control.transaction() as connection:
        connection.execute(text(f"update {SCHEMA}.alembic_version set version_num = '9999'"))
    with pytest.raises(StoreError, match="older than the database"):
        control.migrate()


def test_the_constant_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(data_folder("migrations")))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


def test_the_migrations_make_what_the_schema_says(control: Database) -> None:
    with control.transaction() as connection:
        options = {"include_schemas": True, "include_object": in_our_schema, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options | {"version_table_schema": SCHEMA})
        assert compare_metadata(context, metadata) == []
        found = connection.execute(
            text("select conname from pg_constraint where connamespace = 'dbshield'::regnamespace and contype = 'c' order by 1")
        )
        written = "".join(str(CreateTable(table).compile(connection)) for table in metadata.tables.values())
        assert {name for (name,) in found} == set(re.findall(r"CONSTRAINT (\w+) CHECK", written))


def in_our_schema(thing: object, name: str | None, kind: str, reflected: bool, compare_to: object) -> bool:
    return not (kind == "table" and reflected and getattr(thing, "schema", None) != SCHEMA)


@pytest.mark.one_server
def test_many_machines_migrate_at_once(empty: str) -> None:
    program = "import sys; from dbshield.store.database import Database; Database(sys.argv[1]).migrate()"
    machines = [subprocess.Popen([sys.executable, "-c", program, empty], stderr=subprocess.PIPE) for _ in range(3)]
    assert [machine.communicate(timeout=60)[1] for machine in machines] == [b"", b"", b""]
    assert [machine.returncode for machine in machines] == [0, 0, 0]


def test_a_downgrade_leaves_nothing(control: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(data_folder("migrations")))
    with control.transaction() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        left = connection.scalars(text("select relname::text from pg_class where relnamespace = 'dbshield'::regnamespace")).all()
    assert set(left) == {"alembic_version", "alembic_version_pkc"}


def test_an_older_database_keeps_what_is_in_it(empty: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(data_folder("migrations")))
    database = Database(empty)
    try:
        with database.transaction() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            connection.execute(text("insert into dbshield.environments (name) values ('staging')"))
        with pytest.raises(StoreError, match="has revision 0001"):
            database.require_current()
        assert database.migrate().current == "0001"
        database.require_current()
        with database.transaction() as connection:
            assert connection.scalars(text("select name from dbshield.environments")).all() == ["staging"]
    finally:
        database.close()


CHANGES = (
    ("environments", "insert into dbshield.environments (name) values ('fresh')"),
    ("environments", "update dbshield.environments set system_identifier = 7 where name = 'staging'"),
    ("environments", "delete from dbshield.environments where name = 'staging'"),
    ("tokens", "truncate dbshield.tokens"),
    ("freezes", "update dbshield.freezes set lifted_at = now(), lifted_by = 'ann'"),
)


def test_every_writer_tells_the_proxies(control: Database, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as listener, psycopg.connect(dsn) as writer:
        listener.execute("listen dbshield")
        for table, change in CHANGES:
            writer.execute(change)
            assert list(listener.notifies(timeout=0.2)) == [], change
            writer.commit()
            notices = list(listener.notifies(timeout=20, stop_after=1))
            assert [notice.payload for notice in notices] == [table], change


AGENT = {
    "environment": "staging",
    "name": "claude",
    "access": "read",
    "salt": b"s" * 16,
    "iterations": 4096,
    "role": None,
    "sealed": None,
}


NO_AGENTS: tuple[tuple[dict[str, object], str], ...] = (
    ({"name": "Claude"}, "agents_name_check"),
    ({"name": "a.b"}, "agents_name_check"),
    ({"name": "a" * 32}, "agents_name_check"),
    ({"access": "admin"}, "agents_access_check"),
    ({"salt": b"short"}, "agents_salt_check"),
    ({"iterations": 4095}, "agents_iterations_check"),
    ({"sealed": b"sealed"}, "agents_password_needs_role_check"),
    ({"environment": "nowhere"}, "agents_environment_fkey"),
)


def test_the_database_refuses_what_no_agent_is(control: Database) -> None:
    statement = text(
        "insert into dbshield.agents (id, environment, name, access, salt, iterations, role, sealed_password)"
        " values (:id, :environment, :name, :access, :salt, :iterations, :role, :sealed)"
    )
    for change, constraint in NO_AGENTS:
        with pytest.raises(IntegrityError, match=constraint), control.transaction() as connection:
            connection.execute(statement, AGENT | {"id": uuid4()} | change)
    with control.transaction() as connection:
        connection.execute(statement, AGENT | {"id": uuid4()})
    with pytest.raises(IntegrityError, match="agents_living_name_idx"), control.transaction() as connection:
        connection.execute(statement, AGENT | {"id": uuid4()})


def test_environments_are_registered_once(control: Database) -> None:
    assert register_environments(control, ["staging", "fresh"]) == ("fresh",)
    assert register_environments(control, []) == ()
    with pytest.raises(ValueError, match="is not a name"):
        register_environments(control, ["No"])


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    database = Database("postgresql://nobody:hunter2@127.0.0.1:1/none")
    try:
        with pytest.raises(StoreError, match="does not answer") as caught:
            database.revision()
    finally:
        database.close()
    assert "hunter2" not in str(caught.value)


def test_a_wrong_password_is_a_store_error(server: Server) -> None:
    database = Database(f"host={server.cluster.host} port={server.cluster.port} user=agent_read password=wrong dbname=postgres")
    try:
        with pytest.raises(StoreError, match="password authentication failed"):
            database.revision()
    finally:
        database.close()


def test_a_role_without_the_right_to_create_is_told(empty: str, server: Server) -> None:
    dsn = server.agent_dsn("read", str(psycopg.conninfo.conninfo_to_dict(empty)["dbname"]))
    database = Database(dsn)
    try:
        with pytest.raises(StoreError, match="permission denied") as caught:
            database.migrate()
    finally:
        database.close()
    assert "right to create a schema" in caught.value.hint
