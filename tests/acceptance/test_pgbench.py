"""pgbench through the proxy in all three of its modes."""

from __future__ import annotations

import re
import subprocess

import pytest
from support.shield import Shield, libpq_environment


def pgbench(dsn: str, shield: Shield, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shield.server.cluster.binaries.program("pgbench"), *words],
        env=libpq_environment(dsn),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def bench(app: Shield) -> Shield:
    """pgbench's tables, made by a superuser: an agent may not drop and truncate as `pgbench -i` does."""
    done = pgbench(app.server.dsn(app.database), app, "-i", "-s", "1", "--quiet")
    assert done.returncode == 0, done.stderr
    with app.server.connect(app.database) as conn:
        conn.execute("grant select, insert, update, delete on all tables in schema public to agent_write")
    return app


@pytest.mark.one_server
@pytest.mark.one_server
@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
@pytest.mark.parametrize("script", ["select-only", "tpcb-like", "simple-update"])
def test_transactions_pass(bench: Shield, mode: str, script: str) -> None:
    dsn = bench.dsn("write", tls=bench.server.tls)
    done = pgbench(dsn, bench, "-n", "-b", script, "-M", mode, "-c", "4", "-j", "2", "-t", "50")
    assert done.returncode == 0, done.stderr
    assert re.search(r"number of transactions actually processed: 200/200", done.stdout), done.stdout
    assert "number of failed transactions: 0" in done.stdout
    if script == "tpcb-like":
        with bench.server.connect(bench.database) as conn:
            assert conn.execute("select count(*) from pgbench_history").fetchone() == (200,)


def test_connections_one_after_another(bench: Shield) -> None:
    done = pgbench(bench.dsn("write"), bench, "-n", "-S", "-C", "-c", "4", "-t", "10")
    assert done.returncode == 0, done.stderr


def test_making_the_tables_again_is_stopped(bench: Shield) -> None:
    done = pgbench(bench.dsn("migrate"), bench, "-i", "-s", "1")
    assert done.returncode != 0
    assert "dbshield" in done.stderr
    with bench.server.connect(bench.database) as conn:
        assert conn.execute("select count(*) from pgbench_accounts").fetchone() == (100000,)
