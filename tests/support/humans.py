"""Humans who decide on what agents ask for, and an executor that a test plays, on the control database of a live shield."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from dbshield.config import load_config
from dbshield.control.approval import Approval, State
from dbshield.control.approvals import Approvals
from dbshield.control.deciding import Deciding
from dbshield.control.people import People
from dbshield.control.second_factor import STEP_SECONDS
from dbshield.control.vault import Vault
from dbshield.store.database import Database
from support.people import Phone, enrol
from support.shield import ENVIRONMENT, Shield
from support.waiting import until

EXECUTOR = "postgresql://executor@localhost/none"
"""Named, so that a human is asked at all; the test runs what was approved."""


class Humans:
    """One person with a phone, and the executor. A code works once, so each decision is made half a minute after the last one."""

    def __init__(self, shield: Shield) -> None:
        self.shield = shield
        self.database = Database(shield.server.dsn(shield.control))
        self.approvals = Approvals(self.database)
        self._vault = Vault.load(shield.folder / "state" / "secret.key")
        self._people = People(self.database, self._vault)
        self._later = timedelta()
        self.phone: Phone | None = None

    def enrol(self) -> None:
        self.phone = enrol(self._people, "ann", datetime.now(UTC))

    def close(self) -> None:
        self.database.close()

    def waiting(self) -> list[Approval]:
        return self.approvals.list_(now=datetime.now(UTC), states=[State.WAITING])

    def asked(self) -> Approval:
        """The one approval that waits, once it does."""
        assert until(self.waiting), f"nobody asks:\n{self.shield.text()}"
        [found] = self.waiting()
        return found

    def end_all(self) -> None:
        """What a test left behind, when it failed: asked again by the next one, it would be taken for the same."""
        now = datetime.now(UTC)
        for approval in self.approvals.list_(now=now, states=[State.WAITING, State.APPROVED]):
            self.approvals.withdraw(approval.id, now)
        for approval in self.approvals.list_(now=now, states=[State.RUNNING]):
            self.approvals.failed(approval.id, {"message": "the test is over"}, now=now)

    def state(self, approval: str) -> State:
        return self.approvals.get(approval).state

    def approve(self, approval: str) -> None:
        self._deciding().approve(approval, person="ann", code=self._code(), reason="fine", now=self._now)

    def deny(self, approval: str, reason: str) -> None:
        self._deciding().deny(approval, person="ann", code=self._code(), reason=reason, now=self._now)

    def claim(self) -> Approval:
        found = self.approvals.claim("test", environments=[ENVIRONMENT], now=datetime.now(UTC))
        assert found is not None
        return found

    def execute(self, approval: Approval) -> None:
        """Run a claimed approval as a superuser and write down what came of it."""
        with self.shield.server.connect(self.shield.database) as admin:
            text = approval.statement.encode()
            if approval.parameters is None:
                result = admin.pgconn.exec_(text)
            else:
                result = admin.pgconn.exec_params(
                    text,
                    [parameter.value for parameter in approval.parameters],
                    [parameter.type for parameter in approval.parameters],
                    [parameter.format for parameter in approval.parameters],
                )
        now = datetime.now(UTC)
        if result.status == pq.ExecStatus.FATAL_ERROR:
            error = psycopg.errors.error_from_result(result).diag
            self.approvals.failed(
                approval.id,
                {"sqlstate": error.sqlstate, "message": error.message_primary, "detail": error.message_detail, "hint": None},
                now=now,
            )
            return
        tag = (result.command_status or b"").decode()
        self.approvals.finished(approval.id, tag=tag, result=_rows(result) if result.nfields else None, now=now)

    def approve_and_run(self) -> Approval:
        """What an agent waits for now."""
        asked = self.asked()
        self.approve(asked.id)
        self.execute(self.claim())
        return asked

    def _deciding(self) -> Deciding:
        return Deciding(self.database, self._people, load_config(self.shield.config).environments)

    @property
    def _now(self) -> datetime:
        return datetime.now(UTC) + self._later

    def _code(self) -> str:
        assert self.phone is not None
        self._later += timedelta(seconds=STEP_SECONDS)
        return self.phone.code(self._now)


def second_proxy(shield: Shield, environment: dict[str, Any]) -> Shield:
    """Another proxy process of the same installation: same control database, key and agents, its own port; not started."""
    second = Shield(shield.server, shield.database, shield.folder / "second", proxy=shield.settings)
    (second.folder / "state").mkdir(parents=True, exist_ok=True)
    shutil.copy(shield.folder / "state" / "secret.key", second.folder / "state" / "secret.key")
    second.write_config(environment)
    second._dsn = {name: make_conninfo(dsn, port=second.port) for name, dsn in shield._dsn.items()}
    return second


def _rows(result: Any) -> dict[str, Any]:
    columns = [
        {"name": result.fname(i).decode(), "type": result.ftype(i), "modifier": result.fmod(i)} for i in range(result.nfields)
    ]
    values = [[result.get_value(row, i) for i in range(result.nfields)] for row in range(result.ntuples)]
    rows = [[None if value is None else value.decode() for value in row] for row in values]
    return {"columns": columns, "rows": rows, "truncated": False}
