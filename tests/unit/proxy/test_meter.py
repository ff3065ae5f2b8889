"""What a worker counts of its audit's events: each statement once, under the rule that its verdict is due to."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from dbshield.control.audit import AuditLog, Event
from dbshield.model import AccessLevel, Judgement
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.proxy.meter import Meter
from dbshield.telemetry.board import Board
from dbshield.telemetry.counts import Counts, read

JUDGE = Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.builtin())
READ, STOPPED = JUDGE.judge(b"select 1"), JUDGE.judge(b"drop table t")


def test_statements_are_counted_by_who_sent_them_and_the_rule_that_decided(tmp_path: Path) -> None:
    with closing(Board()) as board:
        counts = Counts(board, pid=1)
        audit = AuditLog(tmp_path / "audit.jsonl")
        audit.counted = Meter(counts).statements
        for number, agent in enumerate(("claude", 'a","agent":"other')):
            session = audit.connected(
                1.0,
                agent=agent,
                environment="production",
                database="shop",
                session=number,
                client="c",
                token_id="t",
                application_name='","agent":"forged',
            )
            for judgement in (READ, READ, STOPPED):
                session.statement(2.0, judgement)
            session.rows(3.0, {"t": 1})
            session.ended(4.0, "over")
        audit.close()
        counts.publish(1.0, {})
        counted = read(board).counters
    assert [finding.rule for finding in STOPPED.findings] == ["DS101", "DS301"]
    assert counted == {
        ("dbshield_statements_total", ("production", agent, verdict, rule)): number
        for agent in ("claude", 'a","agent":"other')
        for verdict, rule, number in (("allow", "", 2.0), ("deny", "DS301", 1.0))
    }


def test_where_nobody_asked_nothing_is_counted_and_no_chunk_is_timed() -> None:
    meter = Meter()
    meter.statements([Event(1.0, "no line at all", Judgement(verdict=READ.verdict))])
    meter.refused("client")
    assert meter.session() is None
