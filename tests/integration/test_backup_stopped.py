"""Backups that are killed, stopped, held up or cut off: what they leave is no snapshot."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.backups import Backups, backups_of, backups_of_clone, files, left_behind
from support.servers import Server
from support.waiting import until

pytestmark = pytest.mark.one_server


@pytest.fixture
def backups(server: Server, database: str, tmp_path: Path) -> Iterator[Backups]:
    with backups_of(server, database, tmp_path / "shield") as made:
        yield made


@pytest.fixture
def backups18(server18: Server, worker_id: str, tmp_path: Path) -> Iterator[Backups]:
    with backups_of_clone(server18, f"backup_{worker_id}", tmp_path / "shield") as made:
        yield made


@contextmanager
def held_up(backups: Backups) -> Iterator[subprocess.Popen[str]]:
    """A backup in the middle of its dump: a view that only pg_dump looks into is locked."""
    with backups.server.connect(backups.database) as holder, backups.server.connect() as looker:
        holder.execute("create view shop.held as select 1 as a")
        holder.execute("begin; lock table shop.held in access exclusive mode")
        process = backups.start("backup", "--json")
        try:
            waits = "select 1 from pg_stat_activity where datname = %s and wait_event_type = 'Lock' and query like '%%viewdef%%'"
            assert until(lambda: looker.execute(waits, [backups.database]).fetchone() or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            holder.execute("rollback")
            holder.execute("drop view shop.held")


def test_a_killed_backup_never_counts(backups: Backups) -> None:
    good = backups.backup()
    with held_up(backups) as process:
        assert [found["state"] for found in backups.listed()] == ["running", "complete"]
        assert len(left_behind(backups)) == 1
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert backups.let_go()
        killed, _ = backups.listed()
        assert killed["state"] == "interrupted"
        assert not [name for name in files(backups.destination) if name.startswith(f"test/{killed['snapshot']}/manifest")]
        done = backups.run("backup", "verify", killed["snapshot"])
        assert done.returncode == 2
        assert "is interrupted, so there is nothing to verify" in done.stderr
    next_one = backups.backup()
    assert next_one["interrupted"] == [killed["snapshot"]]
    states = {found["snapshot"]: (found["state"], found["error"]) for found in backups.listed()}
    assert not [name for name in files(backups.destination) if killed["snapshot"] in name]
    assert states[killed["snapshot"]] == ("failed", "interrupted: the process that made it is gone")
    assert states[next_one["snapshot"]][0] == states[good["snapshot"]][0] == "complete"
    assert left_behind(backups) == []


def test_a_stopped_backup_clears_up(backups18: Backups) -> None:
    with held_up(backups18) as process:
        process.terminate()
        process.wait(60)
        assert process.returncode == 128 + signal.SIGTERM
        (found,) = backups18.listed()
        assert (found["state"], found["error"]) == ("failed", "stopped by a signal")
        assert files(backups18.destination) == []
        assert left_behind(backups18) == []
        with backups18.server.connect() as looker:
            running = "select count(*) from pg_stat_activity where datname = %s and application_name ~ 'pg_dump|dbshield backup'"
            assert until(lambda: looker.execute(running, [backups18.database]).fetchone() == (0,))


def test_one_at_a_time(backups18: Backups) -> None:
    with held_up(backups18):
        done = backups18.run("backup")
        assert done.returncode == 1
        assert "a backup of test/nightly runs already" in done.stderr
        assert [found["state"] for found in backups18.listed()] == ["running"]


def test_a_server_that_goes_away_in_the_middle(backups18: Backups) -> None:
    with held_up(backups18) as process, backups18.server.connect() as admin:
        ended = (
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and application_name = 'dbshield backup'"
        )
        admin.execute(ended, [backups18.database])
        out, said = process.communicate(timeout=60)
        assert process.returncode == 2, out
        assert "dbshield: " in said
        assert "Traceback" not in said
    (found,) = backups18.listed()
    assert found["state"] == "failed"
    assert files(backups18.destination) == []


def test_a_full_disk(backups18: Backups) -> None:
    command = backups18.start("backup", "--json", file_blocks=100)
    out, said = command.communicate(timeout=60)
    assert command.returncode == 2, out
    assert "pg_dump failed" in said
    (found,) = backups18.listed()
    assert found["state"] == "failed"
    assert files(backups18.destination) == []
    assert left_behind(backups18) == []
