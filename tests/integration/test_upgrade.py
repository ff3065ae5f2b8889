"""Another version's control database: what goes up from a revision and down to it again keeps what it had; a proxy of this
version that meets another revision says so and does not begin."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from support.commands import run_command
from support.control import empty_database
from support.ports import free_port
from support.servers import Server
from support.shield import COMMAND

from dbshield.control.vault import Vault
from dbshield.store.database import Database
from dbshield.store.resources import data_folder
from dbshield.store.schema import REVISION

pytestmark = pytest.mark.one_server
ROWS = {
    "0001": [
        "insert into dbshield.environments (name) values ('staging'), ('production')",
        "insert into dbshield.agents (id, environment, name, access, salt, iterations) values"
        " ('11111111-1111-1111-1111-111111111111', 'staging', 'claude', 'write', repeat('s', 16)::bytea, 4096)",
        "insert into dbshield.tokens (id, agent, stored_key, server_key, created_by, expires_at) values ('{token}',"
        " '11111111-1111-1111-1111-111111111111', repeat('k', 32)::bytea, repeat('k', 32)::bytea, 'ann', now() + '1 day')",
    ],
    "0002": [
        "insert into dbshield.freezes (environment, reason, frozen_by, frozen_at) values ('production', 'release', 'ann', now())",
    ],
    "0005": [
        "insert into dbshield.people (name, sealed_totp, created_by, enrolled_at) values ('ann', 'sealed', 'root', now())",
    ],
    "0007": [
        """select dbshield.audit_append(null, null, array['{"ts":"2026-05-01T00:00:00+00:00","event":"login"}'])""",
    ],
    "0010": [
        "insert into dbshield.schedule_jobs (name, kind, target, environment, scheduled_by, cron, zone, since)"
        " values ('guard-verify staging', 'guard-verify', 'staging', 'staging', 'main', '@daily', 'UTC', now())",
    ],
    "0015": [
        "insert into dbshield.served_configurations values ('one', '/etc/dbshield/dbshield.toml', '/var/lib/dbshield', 'proxy',"
        " 'key', '{\"policies\":{},\"settings\":{}}', now())",
    ],
}
"""What a database has from a revision on, for every revision after it."""
TABLES = "select tablename::text from pg_tables where schemaname = 'dbshield' and tablename <> 'alembic_version' order by 1"


@pytest.fixture
def control(server: Server) -> Iterator[str]:
    with empty_database(server) as dsn:
        yield dsn


def scripts() -> Config:
    config = Config()
    config.set_main_option("script_location", str(data_folder("migrations")))
    return config


REVISIONS = [script.revision for script in ScriptDirectory.from_config(scripts()).walk_revisions()][::-1]
"""From the oldest to the newest."""


def move(dsn: str, revision: str, *, down: bool = False) -> None:
    database, config = Database(dsn), scripts()
    try:
        with database.transaction() as connection:
            config.attributes["connection"] = connection
            (command.downgrade if down else command.upgrade)(config, revision)
    finally:
        database.close()


def contents(dsn: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table, by the names of their columns."""
    found = {}
    with psycopg.connect(dsn) as conn:
        for (table,) in conn.execute(TABLES).fetchall():
            rows = conn.execute(sql.SQL("select to_jsonb(t) from {} t").format(sql.Identifier("dbshield", table)))
            found[str(table)] = sorted((row for (row,) in rows), key=repr)
    return found


def test_every_revision_comes_up_and_goes_down_again_with_what_it_had(control: str) -> None:
    """One database: at each revision it gets rows, goes up to the newest one and back, and is as it was."""
    kept = []
    for revision in REVISIONS:
        move(control, revision)
        with psycopg.connect(control) as conn:
            for row in ROWS.get(revision, ()):
                conn.execute(row.replace("{token}", "abcdefghijkl").encode())
        before = contents(control)
        move(control, REVISION)
        newest = contents(control)
        for table, rows in before.items():
            columns = rows[0].keys() if rows else ()
            assert sorted(({name: row[name] for name in columns} for row in newest[table]), key=repr) == rows, table
        if revision != REVISION:
            move(control, revision, down=True)
        assert contents(control) == before, f"down to {revision}"
        kept.append(sum(map(len, before.values())))
    assert kept[0] > 0
    assert kept == sorted(kept)


def configured(control: str, tmp_path: Path) -> Path:
    Vault.create(tmp_path / "secret.key")
    config = tmp_path / "dbshield.toml"
    config.write_text(
        f'state = "{tmp_path}"\n[control]\nurl = "{control}"\nkey_file = "{tmp_path}/secret.key"\n'
        f'[proxy]\nlisten = ["127.0.0.1:{free_port()}"]\n[metrics]\nlisten = "127.0.0.1:{free_port()}"\n'
        '[environments.staging]\nupstream = "postgresql://nobody@127.0.0.1:1/none"\n'
    )
    return config


def test_init_takes_the_tables_back_and_loses_nothing_unasked(control: str, tmp_path: Path) -> None:
    config = configured(control, tmp_path)

    def init(*words: str) -> subprocess.CompletedProcess[str]:
        return run_command(["init", *words, "--config", str(config)], env=dict(os.environ))

    assert init().returncode == 0
    assert init("--downgrade-to", REVISIONS[-2], "--json").returncode == 0
    assert init().returncode == 0
    with psycopg.connect(control) as conn:
        for rows in (ROWS["0001"], ROWS["0005"], ROWS["0010"], ROWS["0015"]):
            for row in rows:
                conn.execute(row.replace("{token}", "abcdefghijkl").replace("('staging'), ", "").encode())
    before = contents(control)
    refused = init("--downgrade-to", "0004")
    assert refused.returncode == 2
    assert "1 rows of people" in refused.stderr
    assert "1 rows of schedule_jobs" in refused.stderr
    assert "rows of agents" not in refused.stderr
    assert "served_configurations" not in refused.stderr, "the next start makes them again"
    assert contents(control) == before
    assert init("--downgrade-to", "0004", "--yes").returncode == 0
    assert "people" not in contents(control)
    assert [agent["name"] for agent in contents(control)["agents"]] == ["claude"]
    assert init("--downgrade-to", "0003").returncode == 2, "it is another version's by now"
    assert init("--downgrade-to", "9998", "--yes").returncode == 2
    assert init().returncode == 0


@pytest.mark.parametrize(
    ("revision", "says"),
    [("0001", "dbshield needs"), ("9999", "it is older than the database")],
    ids=["older", "newer"],
)
def test_a_proxy_of_another_version_says_so_and_does_not_begin(control: str, tmp_path: Path, revision: str, says: str) -> None:
    """With metrics on, whose process must not keep it from ending."""
    move(control, REVISION)
    with psycopg.connect(control) as conn:
        conn.execute("update dbshield.alembic_version set version_num = %s", [revision])
    config = configured(control, tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DBSHIELD_", "PG"))}
    done = subprocess.run(
        [*COMMAND, "proxy", "--config", str(config)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"dbshield: the control database has revision {revision}" in done.stderr
    assert says in done.stderr
