"""What the configuration schedules, and the command line of each job. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from dbshield.config import Config
from dbshield.config.cron import NEVER, Cron, parse

SNAPSHOT, WAL, DRILL, PRUNE, GUARD_VERIFY = "snapshot", "wal", "drill", "prune", "guard-verify"
DRILL_MOMENT = "drill-moment"
PHYSICAL = "physical"
"""The engine whose snapshots the WAL continues."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One thing that is done again and again. `target` is a plan of backups, for guard-verify an environment.

    `command` are the words after `dbshield`. Of the jobs in one `lane` one runs at a time: a snapshot is not pruned while it is
    restored.
    """

    kind: str
    target: str
    environment: str
    cron: Cron
    zone: ZoneInfo
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.target}"

    @property
    def lane(self) -> str:
        return f"plan {self.target}" if self.kind in {SNAPSHOT, DRILL, DRILL_MOMENT, PRUNE} else self.name

    @property
    def lasting(self) -> bool:
        """Whether it goes on until something ends it; it is then due only in order to be started again."""
        return self.kind == WAL


def jobs_of(config: Config) -> tuple[Job, ...]:
    """Every job, in the order in which those that are due together begin."""
    return tuple(_jobs(config))


def _jobs(config: Config) -> Iterator[Job]:
    schedule = config.schedule
    zone = ZoneInfo(schedule.timezone)

    def job(kind: str, target: str, environment: str, text: str, *command: str) -> Iterator[Job]:
        if text and text != NEVER:
            yield Job(kind=kind, target=target, environment=environment, cron=parse(text), zone=zone, command=command)

    for name, plan in config.backup.items():
        environment = plan.environment or name
        if plan.engine == PHYSICAL:
            yield from job(WAL, name, environment, schedule.wal, "backup", "wal", "--plan", name)
    for name, plan in config.backup.items():
        environment = plan.environment or name
        yield from job(SNAPSHOT, name, environment, plan.snapshot_at or schedule.snapshot, "backup", "--plan", name, "--json")
        yield from job(DRILL, name, environment, plan.drill_at or schedule.drill, "restore-drill", "--plan", name, "--json")
        if plan.engine == PHYSICAL and plan.drill_at != NEVER:
            words = ("restore-drill", "--plan", name, "--random-point", "--json")
            yield from job(DRILL_MOMENT, name, environment, schedule.drill_moment, *words)
        yield from job(PRUNE, name, environment, plan.prune_at or schedule.prune, "backup", "prune", "--plan", name, "--json")
    for environment in config.environments:
        yield from job(
            GUARD_VERIFY,
            environment,
            environment,
            schedule.guard_verify,
            "guard",
            "verify",
            "--environment",
            environment,
            "--json",
        )
