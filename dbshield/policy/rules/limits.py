"""DS22x: what only shows while a statement runs. The session speaks these, when the server has counted."""

from __future__ import annotations

from dataclasses import replace

from dbshield.model import Deny, Effect, Finding, Judgement
from dbshield.policy.rules.base import ASK, DENY, Context, Rule


class SessionRule(Rule):
    """A rule about a statement that runs; no text is stopped by it."""

    verdict = DENY

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return None


class TooManyRows(SessionRule):
    """A transaction changed more rows than one may. The server counted them before it committed: those that cascades, triggers
    and functions changed too. Nothing of the transaction is kept.

    A test with a real server shows it; no text tells how many rows it changes.
    """

    id = "DS220"
    name = "rows.too-many"
    hint = f"Narrow the WHERE clause, or do it in several transactions, {ASK}."


class HourlyRows(SessionRule):
    """An agent changed more rows of one table within an hour than it may, in however many transactions.

    A test with a real server shows it.
    """

    id = "DS221"
    name = "rows.hourly-budget"
    hint = f"Wait until the hour has passed, {ASK}."


class ReachedProtected(SessionRule):
    """A statement reached a protected table by a way that its text does not show: a view, a trigger, a cascade, a name without
    a schema. The server told which table it was before it committed.

    A test with a real server shows it.
    """

    id = "DS222"
    name = "rows.reached-protected-table"
    hint = f"Leave that table alone, {ASK}."


class Uncounted(SessionRule):
    """The server could not count the rows that a statement changes, so nobody knows how many they were.

    A test with a real server shows it: a foreign table, whose rows nobody counts; statistics switched off, or the session's
    counting queries taken away.
    """

    id = "DS223"
    name = "rows.uncounted"
    hint = "Leave foreign tables alone, or reconnect and try again; if it happens again, tell whoever runs the database:"
    hint += " it needs track_counts = on."


class ResetAtWork(SessionRule):
    """RESET ALL or DISCARD ALL inside a transaction or a pipeline would take back what the session counts there.

    A test with a real server shows it; outside a transaction both pass.
    """

    id = "DS224"
    name = "rows.reset-in-transaction"
    hint = "Commit or roll back first, then send it alone; or RESET the one setting by its name."


class Stale(SessionRule):
    """The policy has changed since a statement was prepared, so its verdict is of yesterday. What only reads may still run.

    A test with a real server shows it; drivers that prepare by themselves do it again.
    """

    id = "DS225"
    name = "rows.prepared-before-change"
    hint = "Prepare the statement again, or send it without preparing it."


class CursorWithHold(SessionRule):
    """A cursor WITH HOLD runs its query when the transaction commits, behind everything that counts rows. So its query may not be
    one that changes rows, by a function that it calls or that a view, a row policy or a type calls for it.

    A test with a real server shows it; a cursor WITH HOLD over ordinary tables passes.
    """

    id = "DS226"
    name = "rows.cursor-with-hold"
    hint = "Leave WITH HOLD out, and fetch the rows before the COMMIT."


STALE = Judgement(
    verdict=Deny(),
    findings=(Stale().finding(None, message="the policy has changed since this statement was prepared"),),
    normal="(a statement prepared before the policy changed)",
    shape_only=False,
)
"""For a statement that was prepared under another policy."""


def overrun(kind: str, what: str, fault: str = "") -> Judgement:
    """The judgement of a transaction that the server failed for us: `kind` is what the counting query said, `what` the rows and
    the limit or the name of a table, and `fault` why the server had not taken our queries."""
    match kind:
        case "rows":
            rows, _, limit = what.partition(" ")
            if limit == "0":
                return overrun("hour", what)
            finding = TooManyRows().finding(
                None,
                message=f"the transaction changed {rows} rows, more than the {limit} it may (cascades and triggers count)",
                hint=f"Narrow the WHERE clause, or do it in several transactions of at most {limit} rows each, {ASK}.",
            )
        case "hour":
            finding = HourlyRows().finding(
                None, message="the rows of one of its tables that this agent may change in an hour are used up, or may be soon"
            )
        case "protected":
            finding = ReachedProtected().finding(None, message="it reached a table that only a human may change")
        case _:
            finding = Uncounted().finding(None, message=f"the server did not count the changed rows{fault and ': '}{fault}")
    return Judgement(verdict=Deny(), findings=(finding,), normal=f"(rows counted by the server: {kind} {what})", shape_only=False)


def stopped(finding: Finding, judgement: Judgement) -> Judgement:
    """The judgement of a text that the policy let through and the session does not."""
    return replace(judgement, verdict=finding.verdict, findings=(finding,), counted=(), resets=False)
