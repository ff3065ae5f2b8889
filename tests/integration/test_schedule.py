"""Schedulers on a real control database, as they are run: one leads, nothing runs twice, nothing is forgotten."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psutil
import pytest
from sqlalchemy import text
from support.backups import Backups, backups_of
from support.commands import Command
from support.ports import free_port
from support.servers import Server
from support.waiting import until

from dbshield.config.cron import parse
from dbshield.schedule.due import dues
from dbshield.schedule.export import calendar
from dbshield.schedule.runs import LOCK_CLASS

TAKEOVER = 30.0
"""Seconds, as promised."""
SYSTEMD = Path("/usr/bin/systemd-analyze")
MONTHLY = "0 0 1 * *"
"""It does not come while a test runs, or at most once in a month."""


class Site:
    """A configured dbshield with a schedule, and its schedulers."""

    def __init__(self, backups: Backups) -> None:
        self.backups = backups
        self.started: list[subprocess.Popen[bytes]] = []
        self.log = backups.folder / "scheduler.log"

    def schedule(self, **settings: Any) -> None:
        self.backups.write_config()
        with self.backups.config.open("a") as file:
            file.write("[schedule]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))

    def start(self, command: str = "scheduler") -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = Command([command], cwd=self.backups.folder, env=self.backups.environment(), stdout=log, stderr=log)
        self.started.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    def sql(self, statement: str, **values: Any) -> list[Any]:
        with self.backups.store() as database, database.transaction() as connection:
            found = connection.execute(text(statement), values)
            return list(found.all()) if found.returns_rows else []

    def known(self, job: str) -> bool:
        return bool(self.sql("select from dbshield.schedule_jobs where name = :job", job=job))

    def past(self, job: str, days: int = 40) -> None:
        """As if it had been scheduled so many days ago: the times since then were missed."""
        kind, _, target = job.partition(" ")
        self.sql(
            "insert into dbshield.schedule_jobs (name, kind, target, environment, scheduled_by, cron, zone, since)"
            " values (:job, :kind, :target, 'test', 'main', :cron, 'UTC', now() - make_interval(days => :days))"
            " on conflict (name) do update set since = excluded.since",
            job=job, kind=kind, target=target, cron=MONTHLY, days=days,
        )  # fmt: skip

    def clock(self, ahead: str) -> None:
        """The control database's clock is so far ahead, for every scheduler that connects from now on."""
        self.sql("create schema if not exists shifted")
        self.sql(
            "create or replace function shifted.clock_timestamp() returns timestamptz language sql"
            f" as $$ select pg_catalog.clock_timestamp() + interval '{ahead}' $$"
        )
        name = self.sql("select quote_ident(current_database()) as name")[0].name
        self.sql(f"alter database {name} set search_path = shifted, pg_catalog")

    def runs(self, job: str = "snapshot nightly") -> list[Any]:
        return self.sql("select * from dbshield.schedule_runs where job = :job order by id", job=job)

    def states(self, job: str = "snapshot nightly") -> list[str]:
        return [run.state for run in self.runs(job)]

    def leader(self) -> int | None:
        """The process id of the scheduler that leads."""
        found = self.backups.json("schedule", "show")["leader"]
        return int(found["scheduler"].split("/")[1]) if found is not None else None

    def leads(self) -> bool:
        return self.leader() in {process.pid for process in self.started if process.poll() is None}

    def entries(self, kind: str) -> list[dict[str, Any]]:
        return [
            json.loads(row.entry)
            for row in self.sql("select entry from dbshield.audit where kind = :kind order by id", kind=kind)
        ]

    @contextlib.contextmanager
    def blocked(self) -> Iterator[None]:
        """Backups cannot end: a table that they read is locked."""
        with self.backups.server.connect(self.backups.database) as connection:
            connection.autocommit = False
            connection.execute("lock table shop.orders in access exclusive mode")
            yield
            connection.rollback()


@pytest.fixture
def site(server18: Server, worker_id: str, tmp_path: Path) -> Iterator[Site]:
    name = f"schedule_{worker_id}"
    server18.clone(name)
    try:
        with backups_of(server18, name, tmp_path / "shield") as backups:
            made = Site(backups)
            try:
                yield made
            finally:
                for process in made.started:
                    process.kill()
                    process.wait(30)
                # Jobs end with their scheduler; the databases are dropped behind them.
                until(lambda: not jobs_under_way(made), deadline=30)
    finally:
        server18.drop(name)


def jobs_under_way(site: Site) -> Sequence[int]:
    """Processes of jobs of this site's schedulers, by the folder that they work in."""
    found = {}
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = process.info["cmdline"] or []
        with contextlib.suppress(psutil.Error):
            if "dbshield.cli" in " ".join(line) and "backup" in line and process.cwd() == str(site.backups.folder):
                found[process.pid] = process.ppid()
    # A program that a job starts looks like the job itself until it is that program.
    return [number for number, parent in found.items() if parent not in found]


def test_what_was_missed_runs_once_and_is_recorded(site: Site) -> None:
    site.schedule(snapshot=MONTHLY)
    site.past("snapshot nightly", days=100)
    process = site.start()
    assert until(lambda: site.states() == ["done"], deadline=60), site.log.read_text()
    (run,) = site.runs()
    assert (run.attempt, run.exit_code, run.due.day, run.due.hour) == (1, 0, 1, 0)
    assert run.missed in {2, 3}
    assert json.loads(run.output)["snapshot"] == site.backups.listed()[0]["snapshot"]
    (late,) = site.entries("job-late")
    assert (late["job"], late["environment"], late["missed"]) == ("snapshot nightly", "test", run.missed)
    (ended,) = site.entries("job")
    assert (ended["job"], ended["outcome"], ended["exit_code"]) == ("snapshot nightly", "done", 0)
    # It had not been done in time, which is said once, and that it has been caught up with as well.
    assert until(lambda: site.entries("job-caught-up"))
    (overdue,) = site.entries("backup-overdue")
    assert (overdue["job"], overdue["environment"]) == ("snapshot nightly", "test")
    shown = site.backups.json("schedule", "show")
    (line,) = shown["jobs"]
    assert (line["last"]["state"], line["overdue"]) == ("done", None)
    assert line["next"] > line["last_done"]
    assert f"{MONTHLY} " in shown["crontab"]
    assert "OnCalendar=*-*-01 00:00:00 UTC" in shown["systemd"]["dbshield-snapshot-nightly.timer"]
    assert site.backups.json("schedule", "check")["kept"] is True
    assert site.stop(process) == 0
    # The server lets go of the lock of a connection that ended when it gets to it.
    assert until(lambda: site.leader() is None)
    assert "no scheduler leads" in site.backups.cli("schedule", "check", status=1)
    assert site.states() == ["done"]


def test_another_takes_over_from_a_killed_leader_and_nothing_runs_twice(site: Site) -> None:
    site.schedule(snapshot=MONTHLY)
    first = site.start()
    assert until(lambda: site.leader() == first.pid), site.log.read_text()
    second = site.start()
    site.past("snapshot nightly")
    first.send_signal(signal.SIGHUP)
    assert until(lambda: site.states() == ["done"], deadline=60), site.log.read_text()
    first.kill()
    began = datetime.now(UTC)
    assert until(lambda: site.leader() == second.pid, deadline=TAKEOVER), site.log.read_text()
    assert datetime.now(UTC) - began < timedelta(seconds=TAKEOVER)
    third = site.start()
    # The one that leads looks again at what is due, and finds nothing.
    second.send_signal(signal.SIGHUP)
    assert until(lambda: site.log.read_text().count("scheduler.reloaded") == 2)
    assert site.states() == ["done"]
    assert len(site.backups.listed()) == 1
    assert site.leader() == second.pid
    assert third.poll() is None


@pytest.mark.long
def test_another_takes_over_from_a_leader_that_hangs(site: Site) -> None:
    """A stopped process keeps its connection: its kernel answers for it. When it goes on, it leads no more."""
    site.schedule(snapshot=MONTHLY)
    first = site.start()
    assert until(lambda: site.leader() == first.pid), site.log.read_text()
    second = site.start()
    first.send_signal(signal.SIGSTOP)
    try:
        assert until(lambda: site.leader() == second.pid, deadline=3 * TAKEOVER), site.log.read_text()
        site.past("snapshot nightly")
        second.send_signal(signal.SIGHUP)
        assert until(lambda: site.states() == ["done"], deadline=60), site.log.read_text()
    finally:
        first.send_signal(signal.SIGCONT)
    assert until(lambda: "scheduler.control_away" in site.log.read_text())
    assert site.leader() == second.pid
    assert first.poll() is None
    assert site.states() == ["done"]


def test_a_clock_that_was_ahead_and_was_put_right_stops_no_job(site: Site) -> None:
    """What ran by the wrong clock stands in the future: nothing was due until then, and nothing overdue."""
    site.schedule(snapshot=MONTHLY, guard_verify=MONTHLY)
    site.clock(ahead="3 years")
    site.past("snapshot nightly")
    site.start()
    assert until(lambda: site.states() == ["done"], deadline=60), site.log.read_text()
    site.clock(ahead="0")
    assert until(lambda: site.states() == ["done", "done"], deadline=60), site.log.read_text()
    wrong, right = site.runs()
    assert wrong.due > right.due
    assert right.due <= datetime.now(UTC)
    assert not site.sql("select from dbshield.schedule_jobs where since > now()"), "what is due would wait for that"
    (line,) = (job for job in site.backups.json("schedule", "show")["jobs"] if job["job"] == "snapshot nightly")
    assert datetime.fromisoformat(line["last"]["due"]) == right.due


def test_what_a_killed_leader_ran_ends_with_it_and_is_tried_once_more(site: Site) -> None:
    site.schedule(snapshot=MONTHLY)
    site.past("snapshot nightly")
    with site.blocked():
        first = site.start()
        assert until(lambda: any(snapshot["state"] == "running" for snapshot in site.backups.listed())), site.log.read_text()
        second = site.start()
        first.kill()
        first.wait()
        assert until(lambda: not jobs_under_way(site), deadline=TAKEOVER), "a job outlived its scheduler"
        assert until(lambda: site.leader() == second.pid, deadline=TAKEOVER), site.log.read_text()
    assert until(lambda: site.states() == ["lost", "done"], deadline=60), site.log.read_text()
    lost, done = site.runs()
    assert lost.due == done.due
    assert done.attempt == 2
    assert done.began - lost.ended >= timedelta(seconds=9), "who was alone gets time to let go"
    assert done.began - lost.ended < timedelta(seconds=TAKEOVER)
    (failed,) = site.entries("backup-failed")
    assert (failed["outcome"], failed["job"]) == ("lost", "snapshot nightly")
    assert sorted(snapshot["state"] for snapshot in site.backups.listed()) == ["complete", "failed"]


def test_a_leader_that_loses_the_control_database_ends_its_jobs(site: Site) -> None:
    """Its connection is cut, and so is its lead: another takes it, and one snapshot is made."""
    site.schedule(snapshot=MONTHLY)
    site.past("snapshot nightly")
    with site.blocked():
        first = site.start()
        assert until(lambda: any(snapshot["state"] == "running" for snapshot in site.backups.listed())), site.log.read_text()
        (job,) = jobs_under_way(site)
        # The lock is held by a session of ours before the other is let go, so that the first one cannot get it again.
        with contextlib.ExitStack() as stack:
            database = stack.enter_context(site.backups.store())
            connection = stack.enter_context(database.engine.connect())
            connection.execute(
                text(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name like 'dbshield scheduler%' and datname = current_database()"
                )
            )
            connection.execute(text("select pg_advisory_lock(:lock, hashtext('main'))"), {"lock": LOCK_CLASS})
            assert until(lambda: not psutil.pid_exists(job), deadline=TAKEOVER), "a job went on without the lead"
            assert first.poll() is None
            assert site.states() == ["running"], "who has no lead records nothing"
    assert until(lambda: site.states() == ["stopped", "done"], deadline=60), site.log.read_text()
    assert len([snapshot for snapshot in site.backups.listed() if snapshot["state"] == "complete"]) == 1


def test_nothing_overlaps(site: Site) -> None:
    """While a snapshot runs, its own next time is skipped, and prune of the same plan waits."""
    site.schedule(snapshot=MONTHLY, prune=MONTHLY)
    site.past("snapshot nightly")
    with site.blocked():
        process = site.start()
        assert until(lambda: site.states() == ["running"]), site.log.read_text()
        assert until(lambda: site.known("prune nightly"))
        site.past("prune nightly")
        # A month earlier than it was: the newest time comes again, as the next one would.
        site.sql("update dbshield.schedule_runs set due = due - interval '1 month' where job = 'snapshot nightly'")
        process.send_signal(signal.SIGHUP)
        assert until(lambda: site.states() == ["running", "skipped"]), site.log.read_text()
        assert site.states("prune nightly") == [], "prune waits"
    assert until(lambda: site.states("prune nightly") == ["done"], deadline=60), site.log.read_text()
    assert site.states() == ["done", "skipped"]
    snapshot, prune = site.runs()[0], site.runs("prune nightly")[0]
    assert prune.began >= snapshot.ended
    assert [entry["why"] for entry in site.entries("job-skipped")] == ["the run before goes on still"]


def test_a_job_that_fails_or_dies_is_told(site: Site) -> None:
    site.schedule(snapshot=MONTHLY)
    site.past("snapshot nightly")
    (site.backups.state / "backup.key").rename(site.backups.folder / "hidden.key")
    process = site.start()
    assert until(lambda: site.states() == ["failed"], deadline=60), site.log.read_text()
    assert site.runs()[0].exit_code == 2
    (told,) = [entry for entry in site.entries("backup-failed") if entry.get("outcome") == "failed"]
    assert (told["environment"], told["job"]) == ("test", "snapshot nightly")
    assert told["error"]
    assert "newest run failed" in site.backups.cli("schedule", "check", status=1)
    (site.backups.folder / "hidden.key").rename(site.backups.state / "backup.key")
    site.sql("delete from dbshield.schedule_runs")
    with site.blocked():
        process.send_signal(signal.SIGHUP)
        assert until(lambda: jobs_under_way(site)), site.log.read_text()
        os.kill(jobs_under_way(site)[0], signal.SIGKILL)
        assert until(lambda: site.states() == ["failed"]), site.log.read_text()
    assert site.runs()[0].exit_code == -signal.SIGKILL
    assert [entry["exit_code"] for entry in site.entries("backup-failed") if "exit_code" in entry][-1] == -signal.SIGKILL
    assert process.poll() is None


def test_a_scheduler_that_is_stopped_ends_its_jobs_and_says_so(site: Site) -> None:
    site.schedule(snapshot=MONTHLY)
    site.past("snapshot nightly")
    with site.blocked():
        process = site.start()
        assert until(lambda: any(snapshot["state"] == "running" for snapshot in site.backups.listed())), site.log.read_text()
        assert site.stop(process) == 0
    assert site.states() == ["stopped"]
    assert not jobs_under_way(site)
    assert [snapshot["state"] for snapshot in site.backups.listed()] == ["failed"]


def test_another_expression_begins_anew(site: Site) -> None:
    site.schedule(snapshot=MONTHLY)
    site.past("snapshot nightly")
    site.schedule(snapshot="0 0 2 * *")
    process = site.start()
    assert until(site.leads), site.log.read_text()
    assert until(lambda: site.sql("select from dbshield.schedule_jobs where cron = '0 0 2 * *'"))
    assert site.runs() == []
    site.schedule(snapshot="0 0 2 * *", guard_verify=MONTHLY)
    process.send_signal(signal.SIGHUP)
    assert until(lambda: site.known("guard-verify test"))
    site.schedule(snapshot="0 25 2 * *")
    process.send_signal(signal.SIGHUP)
    assert until(lambda: "scheduler.configuration" in site.log.read_text())
    assert site.known("guard-verify test"), "a file that is not valid changes nothing"


def test_a_guard_that_is_not_as_it_was_installed_is_told(site: Site) -> None:
    site.schedule(guard_verify=MONTHLY)
    site.past("guard-verify test")
    site.start()
    assert until(lambda: site.states("guard-verify test") == ["failed"], deadline=60), site.log.read_text()
    assert site.runs("guard-verify test")[0].exit_code == 1
    (told,) = site.entries("guard-tampered")
    assert (told["environment"], told["job"]) == ("test", "guard-verify test")


def test_groups_lead_beside_each_other(site: Site) -> None:
    """The host that drills holds the identity, and makes no snapshots."""
    site.schedule(snapshot=MONTHLY)
    site.past("snapshot nightly")
    with site.blocked():
        main = site.start()
        # Its job has read the configuration, which is about to be another one.
        assert until(lambda: any(snapshot["state"] == "running" for snapshot in site.backups.listed()), deadline=60), (
            site.log.read_text()
        )
        assert site.leader() == main.pid
        site.schedule(group="drills", guard_verify=MONTHLY)
        other = site.start()
        assert until(lambda: site.leader() == other.pid), site.log.read_text()
        assert site.known("snapshot nightly"), "what is another group's stays"
        assert site.states() == ["running"], "and so does what it runs"
        site.schedule(snapshot=MONTHLY)
        assert site.leader() == main.pid
    assert until(lambda: site.states() == ["done"], deadline=60), site.log.read_text()


def test_a_drill_that_is_due_proves_the_newest_snapshot(site: Site) -> None:
    site.backups.write_config(identity_file=str(site.backups.identity))
    made = site.backups.backup()["snapshot"]
    site.schedule(drill=MONTHLY)
    site.past("drill nightly")
    site.start()
    assert until(lambda: site.states("drill nightly") == ["done"], deadline=120), (
        site.log.read_text(),
        site.runs("drill nightly"),
    )
    assert [(found["snapshot"], found["drilled"]) for found in site.backups.listed()] == [(made, "passed")]


def test_up_schedules_too_and_takes_the_scheduler_along(site: Site) -> None:
    site.backups.variables["DBSHIELD_PROXY__LISTEN"] = f"127.0.0.1:{free_port()}"
    site.schedule(snapshot=MONTHLY)
    up = site.start("up")
    assert until(lambda: site.leader() is not None, deadline=60), site.log.read_text()
    leader = site.leader()
    assert leader is not None
    assert psutil.Process(leader).ppid() == up.pid
    up.kill()
    assert until(lambda: not psutil.pid_exists(leader)), "the scheduler outlived dbshield up"
    assert until(lambda: site.leader() is None)


def test_without_a_schedule_there_is_nothing_to_run(site: Site) -> None:
    done = site.backups.run("scheduler")
    assert done.returncode == 2
    assert "nothing is scheduled" in done.stderr
    assert site.backups.json("schedule", "show")["jobs"] == []


@pytest.mark.parametrize(
    "expression", ["0 2 * * *", "*/15 * * * *", "0 2 * * 1-5", "30 3 * * 0,2,4", "0 0 1,15 1-3 *", "10-12 0-6/3 * * 7"]
)
def test_systemd_reads_a_timer_as_we_do(expression: str) -> None:
    said = subprocess.run(
        [SYSTEMD, "calendar", "--iterations=5", "--base-time=2026-11-20 12:00:00 UTC", f"{calendar(parse(expression))} UTC"],
        capture_output=True, text=True, check=True, env={"TZ": "UTC", "LC_ALL": "C"},
    ).stdout  # fmt: skip
    found = [line.partition(": ")[2].strip() for line in said.splitlines() if line.strip().startswith(("Next elapse", "Iter"))]
    ours = islice(dues(parse(expression), ZoneInfo("UTC"), datetime(2026, 11, 20, 12, tzinfo=UTC)), 5)
    assert found == [f"{due:%a %Y-%m-%d %H:%M:%S} UTC" for due in ours]
