"""Which statements change rows that the session must count, and what an observing policy still stops.

Whatever may change rows that exist, by whatever road, is counted; what only inserts is counted where a trigger, a rule or a
default runs with it, and where tables are protected, because the count is also what tells that a protected table was reached by a
hidden road. What only reads is counted where a view, a row policy or a function that it calls may write (policy/reaching.py).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

from dbshield.model import (
    AccessLevel,
    Allow,
    Counted,
    Deny,
    Effect,
    Finding,
    Hold,
    Judgement,
    Limit,
    ObjectKind,
    Operation,
    Verdict,
)
from dbshield.policy.functions import FunctionCatalogue, Volatility
from dbshield.policy.policy import HIDDEN, Policy

COPIED = "copy"
"""The detail of an INSERT that is a COPY FROM."""
WITH_HOLD = "declare with hold"
RUNS_A_PORTAL = frozenset({"fetch", "move"})
REFRESHES = "refresh"
DEFINITIONS = ("create ", "alter ")
DEALLOCATES = "deallocate"
DEALLOCATES_ALL = "deallocate all"
PREPARES = "prepare"
PINNED = frozenset({"client_encoding", "standard_conforming_strings"})
"""Settings without which the session cannot go on, whatever the policy."""
ALWAYS_STOPPED = frozenset({"DS313", "DS701", "DS905"})
"""Frozen is a human's word, not a judgement; what is not audited cannot be observed; and the text of what is too long was never
taken in."""


def count(place: int, kind: str, effects: Sequence[Effect], loosened: Sequence[Finding], given: Given) -> Counted | None:
    """How the statement at `place` of its text is counted; None where it need not be.

    `loosened` are the findings about it that an override let through.
    """
    planned = given.reaches and any(map(given.writes_early, effects))
    if kind == "prepare":
        # Nothing runs but what reads its literals; EXECUTE is counted.
        return Counted(statement=place, planned=planned) if planned else None
    if any(effect.operation is Operation.INSERT and effect.detail == COPIED for effect in effects):
        return Counted(statement=place, inserts=True)
    if planned or any(map(given.changes_rows, effects)) or any(finding.rule.startswith(HIDDEN) for finding in loosened):
        return Counted(statement=place, planned=planned)
    return None


class Given:
    """What a policy and a database make of effects. `made` holds the names of relations that the catalogue does not show as they
    are now; what stands in it later counts too."""

    __slots__ = ("_allows_functions", "_functions", "_inserts", "_made", "_policy", "_portals", "_prepared", "reaches")

    def __init__(self, policy: Policy, functions: FunctionCatalogue, made: Container[str] = ()) -> None:
        self._policy = policy
        self._made = made
        self._functions = functions
        self._inserts = bool(policy.protected)
        self._allows_functions = bool(policy.functions_allowed)
        self.reaches = functions.reaches
        """Whether any function of the database changes rows when something is only read."""
        # A query in a cursor changes rows only by a function; a prepared statement also by itself.
        self._portals = policy.lets_hidden_writes_through or self.reaches
        self._prepared = self._portals or policy.access is not AccessLevel.READ

    def changes_rows(self, effect: Effect) -> bool:
        """Whether rows that exist may change, or rows of a protected table come in."""
        match effect.operation:
            case Operation.UPDATE | Operation.DELETE:
                return True
            case Operation.INSERT:
                name = effect.name.name
                return self._inserts or self._functions.fires(name) or name in self._made
            case Operation.EXECUTE:
                if effect.kind is ObjectKind.STATEMENT:
                    return self._prepared and effect.detail not in {DEALLOCATES, DEALLOCATES_ALL, PREPARES}
                return True
            case Operation.CURSOR:
                return self._portals and effect.detail in RUNS_A_PORTAL
            case Operation.CALL:
                return self._allows_functions and self._let_through(effect)
            case _:
                return False

    def writes_early(self, effect: Effect) -> bool:
        """Whether a function may change rows behind an effect that the server calls before it executes anything: for what is only
        read, a default, or a literal of somebody's type."""
        name = effect.name.name
        match effect.operation:
            case Operation.READ | Operation.UPDATE | Operation.DELETE:
                return self._functions.writes_when_read(name) or name in self._made
            case Operation.INSERT:
                return self._functions.fires(name) or self._functions.writes_when_read(name) or name in self._made
            case Operation.CALL:
                return any(map(self._functions.writes_when_called, self._functions.named(effect.name.schema, name)))
            case Operation.EXECUTE:
                return effect.kind is ObjectKind.STATEMENT and effect.detail not in {DEALLOCATES, DEALLOCATES_ALL, PREPARES}
            case Operation.MAINTAIN:
                return effect.detail.startswith(REFRESHES) and self._functions.writes_when_filled(name)
            case _:
                return False

    def _let_through(self, effect: Effect) -> bool:
        """Whether a human let through a function that this call may mean, other than one of PostgreSQL's that only reads."""
        return any(
            self._policy.allows(function) and not (function.built_in and function.volatility is not Volatility.VOLATILE)
            for function in self._functions.named(effect.name.schema, effect.name.name)
        )


def too_late(count: Counted | None, effects: Iterable[Effect]) -> bool:
    """Whether the rows of a counted statement would change behind the counting: when a cursor is kept beyond its transaction."""
    return count is not None and any(effect.operation is Operation.CURSOR and effect.detail == WITH_HOLD for effect in effects)


def defines(kind: str) -> bool:
    """Whether a statement of this kind makes something that runs later, when nobody counts: a view, a default, a policy."""
    return kind.startswith(DEFINITIONS) and kind != "create table as"


def stopping(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Those that stop their statement."""
    return tuple(finding for finding in findings if isinstance(finding.verdict, (Hold, Deny)))


def hardest(findings: Iterable[Finding]) -> Verdict:
    """The hardest verdict of some findings; Allow of none."""
    verdict: Verdict = Allow()
    for finding in findings:
        match finding.verdict:
            case Deny():
                return finding.verdict
            case Hold():
                verdict = finding.verdict
            case Limit():
                verdict = finding.verdict if isinstance(verdict, Allow) else verdict
            case Allow():
                pass
    return verdict


def observed(judgement: Judgement) -> Judgement:
    """The same where the policy only observes: everything passes but what the shield itself could not go on with."""
    enforced = tuple(finding for finding in stopping(judgement.findings) if _always_stopped(finding))
    if enforced:
        return replace(judgement, verdict=hardest(enforced), observed=judgement.verdict)
    return replace(judgement, verdict=Allow(), counted=(), observed=judgement.verdict)


def _always_stopped(finding: Finding) -> bool:
    if finding.rule in ALWAYS_STOPPED:
        return True
    effect = finding.effect
    if finding.rule != "DS304" or effect is None:
        return False
    by_function = effect.operation is Operation.CALL  # set_config, whose arguments are one a line
    return (effect.detail.partition("\n")[0].lower() if by_function else effect.name.name) in PINNED


def prepares(effects: Iterable[Effect]) -> tuple[str, ...]:
    """The names that PREPARE gives in a text."""
    return tuple(effect.name.name for effect in effects if effect.kind is ObjectKind.STATEMENT and effect.detail == PREPARES)


def resets(effects: Iterable[Effect]) -> bool:
    """Whether a text takes back what the session has set or prepared itself: RESET ALL, DISCARD ALL, DEALLOCATE ALL."""
    return any(takes_back_settings(effect) or forgets_statements(effect) for effect in effects)


def commits(effect: Effect) -> bool:
    """COMMIT, whatever it is called."""
    return effect.operation is Operation.TRANSACTION and effect.detail == "commit"


def takes_back_settings(effect: Effect) -> bool:
    """RESET ALL and DISCARD ALL."""
    if effect.operation is not Operation.SET or effect.name.name != "all":
        return False
    return effect.detail == "discard" if effect.kind is ObjectKind.SESSION else not effect.detail


def forgets_statements(effect: Effect) -> bool:
    """DEALLOCATE ALL and DISCARD ALL."""
    if effect.operation is Operation.EXECUTE:
        return effect.detail == DEALLOCATES_ALL
    return effect.kind is ObjectKind.SESSION and takes_back_settings(effect)
