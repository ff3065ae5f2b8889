"""One scheduler of any number: it waits until it leads, and then starts what is due.

Laws:
- One leads (see `runs`). Who dies, vanishes with its machine or loses the control database gives the lead back within 11 s, who
  hangs after `HANGS`; another takes it within 2 s more, and starts what that one left after `LET_GO`. Nothing is started by two.
- Jobs are processes of their own. They end with their scheduler, and with its lead: a job is never under way twice. What a
  scheduler that hangs left running goes on until that one does; the plan's lock refuses a second snapshot beside it.
- However many times passed while nobody led, a job runs once, and it is recorded that it is late.
- Of the jobs in one lane one runs at a time; the others wait. A time that comes while its own job still runs is skipped, and
  recorded as such.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event
from typing import Final

import psycopg
import structlog

from dbshield.config import Config
from dbshield.errors import DbshieldError
from dbshield.schedule.due import Due, next_due, overdue, what_is_due
from dbshield.schedule.jobs import Job, jobs_of
from dbshield.schedule.process import Process
from dbshield.schedule.runs import Known, Runs

TICK: Final = 0.5
"""Seconds between two looks of a leader; a job is late by this at the most."""
STANDBY: Final = 2.0
"""Seconds between two attempts to take the lead."""
PATIENCE: Final = 3.0
"""Seconds in which a leader that lost the control database may come back before its jobs are ended."""
LET_GO: Final = 10.0
"""Seconds that jobs of a dead leader have to end before the next one starts theirs; those that are told to end have as many."""
STOP: Final = 20.0
"""Seconds that jobs have at the end of their scheduler. systemd itself waits 90."""
LATE: Final = timedelta(minutes=1)
"""Beyond which a time that was not met is recorded as late."""
LOOK: Final = 30.0
"""Seconds between two looks at what is overdue."""

log = structlog.get_logger("dbshield.scheduler")


@dataclass(slots=True, kw_only=True)
class Running:
    """A run under way. `told` is when it was asked to end, on the monotonic clock."""

    number: int
    job: Job
    due: Due
    process: Process
    told: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of a run, as it is recorded as soon as somebody can."""

    number: int
    job: Job
    due: Due
    state: str
    exit_code: int
    output: str


class Scheduler:
    """One of a group. `load` reads the configuration anew; `options` follow the words of every job, such as `--config FILE`."""

    def __init__(self, dsn: str, load: Callable[[], Config], options: Sequence[str] = ()) -> None:
        self.name = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(3)}"
        self._dsn = dsn
        self._load = load
        self._options = tuple(options)
        self._jobs: tuple[Job, ...] = ()
        self._grace = timedelta()
        self._group = ""
        self._read(load())
        self._runs: Runs | None = None
        self._leads = False
        self._away_since: float | None = None
        self._running: dict[str, Running] = {}
        self._waiting: dict[str, tuple[Job, Due]] = {}
        self._ended: list[Ended] = []
        self._known: dict[str, Known] = {}
        self._next: dict[str, datetime] = {}
        self._now: datetime | None = None
        self._lane_from: dict[str, float] = {}
        self._late: dict[str, datetime] = {}
        self._look_at = 0.0

    def run(self, stop: Event, reload: Event) -> None:
        """Works until `stop` is set, then ends its jobs. `reload` asks for the configuration to be read again."""
        try:
            while not stop.is_set():
                if reload.is_set():
                    reload.clear()
                    self._reload()
                self._step()
                stop.wait(TICK if self._leads or self._running else STANDBY)
        finally:
            self._end()

    def _step(self) -> None:
        try:
            if self._lead():
                self._work()
        except (psycopg.Error, OSError) as error:
            self._lost(error)
        self._mind()

    # The lead ---------------------------------------------------------------------------------------------------------------

    def _lead(self) -> bool:
        """Whether this one leads, after trying to."""
        if self._leads:
            return True
        if self._runs is None:
            self._runs = Runs(self._dsn, self._group, self.name)
            if not self._running:
                self._away_since = None
        if not self._runs.lead():
            return False
        for name in self._runs.lost():
            lane = next((job.lane for job in self._jobs if job.name == name), name)
            self._lane_from[lane] = time.monotonic() + LET_GO
        self._leads, self._away_since = True, None
        self._runs.register(self._jobs)
        self._runs.forget()
        self._next.clear()
        self._waiting.clear()
        self._look_at = 0.0
        log.info("scheduler.leads", group=self._group, scheduler=self.name, jobs=len(self._jobs))
        return True

    def _lost(self, error: BaseException) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            log.error("scheduler.control_away", why=" ".join(str(error).split())[:300], led=self._leads)
        self._leads = False
        runs, self._runs = self._runs, None
        if runs is not None:
            runs.close()

    def _mind(self) -> None:
        """Without the lead, what runs is ended: whoever leads now may start it again."""
        if self._leads or (self._away_since is not None and time.monotonic() - self._away_since < PATIENCE):
            return
        for running in self._running.values():
            self._ask_to_end(running)
        self._reap()

    def _reload(self) -> None:
        try:
            self._read(self._load())
        except DbshieldError as error:
            log.error("scheduler.configuration", why=error.message, hint=error.hint)
            return
        log.info("scheduler.reloaded", jobs=len(self._jobs))
        self._waiting.clear()
        self._next.clear()
        if self._leads and self._runs is not None:
            try:
                self._runs.register(self._jobs)
            except (psycopg.Error, OSError) as error:
                self._lost(error)

    def _read(self, config: Config) -> None:
        self._jobs = jobs_of(config)
        self._grace = timedelta(minutes=config.schedule.overdue_minutes)
        # Who leads one group does not become another one's while it runs.
        self._group = self._group or config.schedule.group

    # Leading ----------------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        runs = self._runs
        assert runs is not None, "who leads is connected"
        now = runs.now()
        if self._now is not None and now < self._now:
            # The clock went back: what was found for a later time is found again, for this one.
            runs.register(self._jobs)
            self._next.clear()
            self._waiting.clear()
            self._look_at = 0.0
        self._now = now
        self._reap()
        self._record(runs)
        if any(now >= self._next.get(job.name, now) for job in self._jobs) or time.monotonic() >= self._look_at:
            self._known = dict(runs.known())
            self._find(runs, now)
            self._look(runs, now)
        self._start(runs)

    def _find(self, runs: Runs, now: datetime) -> None:
        """What is due begins to wait for its lane."""
        for job in self._jobs:
            if now < self._next.get(job.name, now):
                continue
            known = self._known[job.name]
            due = what_is_due(job.cron, job.zone, since=known.since, ran=known.ran, now=now)
            # The calendar's end is far; a job that never comes again is asked once a day.
            self._next[job.name] = next_due(job.cron, job.zone, now) or now + timedelta(days=1)
            if due is None:
                continue
            if job.name not in self._running:
                if now - due.due > LATE and due.attempt == 1 and not job.lasting and self._late.get(job.name) != due.due:
                    self._late[job.name] = due.due
                    runs.late(job, due)
                    log.warning("scheduler.late", job=job.name, due=due.due.isoformat(), missed=due.missed)
                self._waiting[job.name] = (job, Due(due=due.due) if job.lasting else due)
            elif not job.lasting:
                runs.skip(job, due, "the run before goes on still")
                log.warning("scheduler.skipped", job=job.name, due=due.due.isoformat())

    def _start(self, runs: Runs) -> None:
        busy = {running.job.lane for running in self._running.values()}
        for name, (job, due) in list(self._waiting.items()):
            if job.lane in busy or name in self._running or time.monotonic() < self._lane_from.get(job.lane, 0.0):
                continue
            del self._waiting[name]
            number = runs.begin(job, due)
            if number is None:
                log.warning("scheduler.taken", job=name, due=due.due.isoformat())
                continue
            busy.add(job.lane)
            try:
                process = Process([*job.command, *self._options], keep=not job.lasting)
            except OSError as error:
                self._ended.append(
                    Ended(number=number, job=job, due=due, state="failed", exit_code=127, output=f"it cannot be started: {error}")
                )
                continue
            self._running[name] = Running(number=number, job=job, due=due, process=process)
            log.info(
                "scheduler.began", job=name, due=due.due.isoformat(), attempt=due.attempt, missed=due.missed, pid=process.pid
            )

    def _look(self, runs: Runs, now: datetime) -> None:
        """Find what is overdue, and what no longer is."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK
        for job in self._jobs:
            if job.lasting:
                continue
            known, running = self._known[job.name], self._running.get(job.name)
            late = overdue(
                job.cron,
                job.zone,
                since=known.since,
                done=known.done,
                running=running.due.due if running is not None else None,
                now=now,
                grace=self._grace,
            )
            if late != known.overdue:
                runs.overdue(job, late)
                if late is not None:
                    log.error("scheduler.overdue", job=job.name, due=late.isoformat())

    # Ends -------------------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """See which jobs have ended, and kill those that were asked to and do not."""
        for name, running in list(self._running.items()):
            code = running.process.ended()
            if code is None:
                if running.told is not None and time.monotonic() - running.told > LET_GO:
                    running.process.kill()
                continue
            del self._running[name]
            state = "done" if code == 0 else "stopped" if running.told is not None else "failed"
            output = running.process.output()
            log.info("scheduler.ended", job=name, state=state, exit_code=code)
            self._ended.append(
                Ended(number=running.number, job=running.job, due=running.due, state=state, exit_code=code, output=output)
            )

    def _record(self, runs: Runs) -> None:
        while self._ended:
            one = self._ended[0]
            runs.end(one.number, one.job, one.due, state=one.state, exit_code=one.exit_code, output=one.output)
            del self._ended[0]
            self._next.pop(one.job.name, None)
            self._look_at = 0.0

    @staticmethod
    def _ask_to_end(running: Running) -> None:
        if running.told is None:
            running.told = time.monotonic()
            running.process.ask_to_end()

    def _end(self) -> None:
        """End every job, and say what became of it if that can be said still."""
        for running in self._running.values():
            self._ask_to_end(running)
        until = time.monotonic() + STOP
        while self._running and time.monotonic() < until:
            self._reap()
            time.sleep(TICK / 10)
        for running in self._running.values():
            running.process.kill()
        self._reap()
        if self._runs is not None:
            try:
                if self._leads:
                    self._record(self._runs)
            except (psycopg.Error, OSError) as error:
                log.error("scheduler.not_recorded", why=" ".join(str(error).split())[:300])
            self._runs.close()
