"""The demo's acts: the stage is set, the agent works, it destroys, the data is looked at, a human decides, the volume goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from dbshield.cli.demo.human import Decided, decide
from dbshield.cli.demo.proof import Contents, Refusal, contents
from dbshield.cli.demo.rescue import Rescued, rescue
from dbshield.cli.demo.show import Show
from dbshield.cli.demo.stage import COPY, DATABASE, Connection, Stage
from dbshield.cli.demo.story import ATTACKS, TABLES, WORK, Attack, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One piece of work, and what went wrong with it, if anything did."""

    work: Work
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One attack: what the agent read (None when nothing stopped it), and how many rows it costs where nothing protects."""

    attack: Attack
    refusal: Refusal | None
    cost: int
    usable: bool
    """Whether the session went on working afterwards."""

    @property
    def held(self) -> bool:
        return self.refusal is not None and self.refusal.by_dbshield and self.usable and self.cost > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that was seen."""

    done: tuple[Done, ...]
    tried: tuple[Tried, ...]
    before: Contents
    after: Contents
    decided: Decided
    rescued: Rescued

    @property
    def lost(self) -> int:
        return self.before.lost(self.after)

    @property
    def held(self) -> bool:
        return (
            all(not done.problem for done in self.done)
            and all(tried.held for tried in self.tried)
            and self.lost == 0
            and self.decided.held
            and self.rescued.held
            and all(self.before.fingerprint(table) == self.after.fingerprint(table) for table in TABLES)
        )

    def report(self) -> dict[str, Any]:
        """For machines."""
        return {
            "held": self.held,
            "work": [{"title": done.work.title, "sql": done.work.shown, "problem": done.problem} for done in self.done],
            "stopped": [
                {
                    "title": tried.attack.title,
                    "sql": tried.attack.text,
                    "held": tried.held,
                    "message": tried.refusal.message if tried.refusal else "",
                    "detail": tried.refusal.detail if tried.refusal else "",
                    "hint": tried.refusal.hint if tried.refusal else "",
                    "rows_lost_without": tried.cost,
                }
                for tried in self.tried
            ],
            "tables": [
                {
                    "name": table,
                    "rows_before": self.before.count(table),
                    "rows_after": self.after.count(table),
                    "fingerprint_before": self.before.fingerprint(table),
                    "fingerprint_after": self.after.fingerprint(table),
                }
                for table in TABLES
            ],
            "decided": self.decided.report(),
            "rescued": self.rescued.report(),
        }


def play(stage: Stage, show: Show) -> Outcome:
    """Everything from the empty stage to the proof."""
    show.title()
    with show.step(f"PostgreSQL {stage.version} starts, with nothing in it yet"):
        stage.start_server()
    with show.step("A shop moves in") as finish:
        finish(f"A shop moves in: {stage.fill():,} rows of customers, products and orders")
    with show.step("dbshield stands in front of it"):
        commands = stage.protect()
    show.commands(commands, stage.agent_dsn)
    show.act("The agent works", "through the proxy, with psycopg, on a role that may do everything in this database")
    with stage.agent() as agent:
        done = tuple(_work(agent, work, show) for work in WORK)
    with stage.admin(DATABASE) as admin:
        before = contents(admin)
    stage.keep_copy()
    show.act("The agent destroys", "each attempt was first made on an unprotected copy, to know what it costs")
    with stage.agent() as agent:
        tried = tuple(_attack(stage, agent, attack, before, show) for attack in ATTACKS)
    with stage.admin(DATABASE) as admin:
        after = contents(admin)
    show.proof(before, after)
    decided = decide(stage, show, after)
    return Outcome(done=done, tried=tried, before=before, after=after, decided=decided, rescued=rescue(stage, show))


def _work(agent: Connection, work: Work, show: Show) -> Done:
    try:
        found = _copied(agent, work) if work.copy else _selected(agent, work)
        problem = "" if found == work.expect else f"expected {work.expect}, got {found}"
    except psycopg.Error as error:
        problem = str(error)
    show.worked(work, problem)
    return Done(work=work, problem=problem)


def _selected(agent: Connection, work: Work) -> str:
    value: object = ""
    for statement in work.statements:
        cursor = agent.execute(statement.encode(), work.parameters or None)
        if cursor.description:
            value = (cursor.fetchone() or ("nothing",))[0]
    return str(value)


def _copied(agent: Connection, work: Work) -> str:
    with agent.cursor().copy(work.statements[0].encode()) as copy:
        return str(sum(bytes(block).count(b"\n") for block in copy))


def _attack(stage: Stage, agent: Connection, attack: Attack, before: Contents, show: Show) -> Tried:
    stage.fresh_copy()
    with stage.unprotected() as direct:
        direct.execute(attack.text.encode(), attack.parameters or None)
    with stage.admin(COPY) as admin:
        cost = before.lost(contents(admin))
    refusal = None
    try:
        agent.execute(attack.text.encode(), attack.parameters or None, prepare=attack.prepared)
    except psycopg.Error as error:
        refusal = Refusal.of(error)
    tried = Tried(attack=attack, refusal=refusal, cost=cost, usable=_usable(agent))
    show.tried(attack, refusal, cost, held=tried.held)
    return tried


def _usable(agent: Connection) -> bool:
    try:
        return agent.execute("select 1").fetchone() == (1,)
    except psycopg.Error:
        return False
