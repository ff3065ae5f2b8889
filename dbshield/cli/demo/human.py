"""The demo's second act: the agent asks again, a human lets it happen, and takes it back."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import psycopg

from dbshield.cli.demo.proof import Contents, contents
from dbshield.cli.demo.show import Show
from dbshield.cli.demo.stage import DATABASE, HUMAN, Stage

STATEMENT = "DROP TABLE orders CASCADE"
ANSWER_TIMEOUT = 60.0
"""Seconds within which an agent whose statement was run reads so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What became of the statement: `asked` and `done` as `dbshield approvals` tells them, `answer` what the agent read, the rows
    that were gone and those that are still missing after the undo, and what `dbshield audit verify` said."""

    asked: dict[str, Any]
    done: dict[str, Any]
    answer: str
    gone: int
    missing: int
    same: bool
    audit: dict[str, Any]

    @property
    def held(self) -> bool:
        return (
            self.done["state"] == "done"
            and self.answer == self.done["tag"]
            and self.gone > 0
            and self.missing == 0
            and self.same
            and self.audit["verdict"] == "whole"
        )

    def report(self) -> dict[str, Any]:
        """For machines."""
        return {
            "held": self.held,
            "sql": STATEMENT,
            "approval": self.asked["id"],
            "answer": self.answer,
            "rows_gone": self.gone,
            "rows_missing_after_undo": self.missing,
            "audit": {"verdict": self.audit["verdict"], "entries": self.audit["entries"]},
        }


@dataclass(slots=True)
class Asker:
    """The agent, which sends its statement and waits for the answer beside the story."""

    stage: Stage
    notices: list[str] = field(default_factory=list)
    answer: str = ""
    _thread: threading.Thread | None = None

    def ask(self) -> None:
        self._thread = threading.Thread(target=self._wait, name="agent", daemon=True)
        self._thread.start()

    def answered(self) -> str:
        """The command tag that it read, or the error."""
        assert self._thread is not None, "nobody asked"
        self._thread.join(ANSWER_TIMEOUT)
        return self.answer

    def _wait(self) -> None:
        try:
            with self.stage.agent() as agent:
                agent.add_notice_handler(lambda notice: self.notices.append(notice.message_primary or ""))
                self.answer = agent.execute(STATEMENT).statusmessage or ""
        except psycopg.Error as error:
            self.answer = str(error)


def decide(stage: Stage, show: Show, before: Contents) -> Decided:
    """Everything from the question to the proof that it was taken back."""
    show.act("A human decides", "the first of them again, and this time somebody is there who may say yes")
    with show.step(f"{HUMAN} enrols with an authenticator app, and what runs approved statements starts"):
        commands = stage.bring_in_a_human()
    show.typed(*commands)
    agent = Asker(stage)
    agent.ask()
    with show.step("The agent asks, and waits"):
        asked = stage.asked()
    show.waits(STATEMENT, next(iter(agent.notices), ""), asked["preview"])
    identifier = str(asked["id"])
    with show.step(f"{HUMAN} says yes, with a code") as finish:
        done = stage.decide("approvals", "approve", identifier, "--digest", asked["digest"], "--wait")
        answer = agent.answered()
        with stage.admin(DATABASE) as admin:
            gone = before.lost(contents(admin))
        finish(f"{HUMAN} says yes, with a code; dbshield runs it, the agent reads {answer}, and {gone:,} rows are gone")
    show.typed(f"dbshield approvals show {identifier}", f"dbshield approvals approve {identifier}")
    with show.step(f"{HUMAN} takes it back") as finish:
        stage.decide("undo", identifier)
        with stage.admin(DATABASE) as admin:
            after = contents(admin)
        missing = before.lost(after)
        finish(f"{HUMAN} takes it back: {missing:,} rows are missing")
    show.typed(f"dbshield undo {identifier}")
    with show.step("The audit is read") as finish:
        audit = stage.verify_audit()
        finish(f"The audit of all that happened here is {audit['verdict']}: {audit['entries']} entries in one chain of hashes")
    show.typed("dbshield audit verify")
    same = all(before.fingerprint(table) == after.fingerprint(table) for table in before.rows)
    return Decided(asked=asked, done=done, answer=answer, gone=gone, missing=missing, same=same, audit=audit)
