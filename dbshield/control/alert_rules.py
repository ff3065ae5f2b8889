"""What an entry of the audit is worth telling people: pure, entry by entry.

Laws:
- A message holds what the audit's entry holds, cut to what one reads on a telephone: no token, no password, and no constant of a
  statement, also where the audit keeps those.
- It says what happened, who did it, where, and the command with which one looks further or acts.
- Text of an agent's making stays on its line and in its place (alert_wording.py), and in no command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from dbshield.config.names import NAME_PATTERN
from dbshield.control.alert_sentences import LOOK_AUDIT, SENTENCES
from dbshield.control.alert_wording import Alert, Fields, agent_of, list_of, made, person_of, plain, statement_text, text_of

SHOWN: Final = 5
"""Of a list."""


def alert_of(kind: str, fields: Fields) -> Alert | None:
    """What to tell of an entry, as `json.loads` reads it; None where it is nobody's concern."""
    if kind == "statement":
        return _statement(fields)
    made = _MAKERS.get(kind)
    return made(fields) if made is not None else None


def unreadable(kind: str, position: int) -> Alert:
    """What to tell of an entry that is not as its kind is."""
    return Alert(
        event="audit-damaged",
        environment=None,
        subject=f"unreadable {kind}",
        title=f"entry {position} of the audit is not as it should be",
        body=f"Its kind is {plain(kind)}, and it could not be read for an alert.\n{LOOK_AUDIT}",
        urgent=True,
    )


def _statement(fields: Fields) -> Alert | None:
    verdict = fields.get("verdict")
    if verdict not in ("deny", "hold"):
        return None
    who, where = agent_of(fields), text_of(fields, "environment")
    rules = ", ".join(list_of(fields, "rules") or ["no rule"])
    effects = list_of(fields, "effects")
    what = "; ".join(effects[:SHOWN]) + (f"; and {len(effects) - SHOWN} more" if len(effects) > SHOWN else "")
    word = "was refused" if verdict == "deny" else "is held"
    return made(
        "refused" if verdict == "deny" else "held",
        fields,
        subject=f"{who} {rules}",
        title=f"{who} {word} in {where}: {rules}",
        lines=[
            f"What: {what or 'a statement that has no effect that could be named'}",
            f"Where: database {text_of(fields, 'database')}, from {text_of(fields, 'client')}",
            f"Look: dbshield audit search -e {where} --agent {text_of(fields, 'agent')} --verdict {verdict}",
        ],
    )


def _requested(fields: Fields) -> Alert:
    where, number = text_of(fields, "environment"), text_of(fields, "approval")
    return made(
        "approval",
        fields,
        subject=number,
        title=f"{agent_of(fields)} waits for a human in {where}: approval {number}",
        lines=[
            f"Statement: {statement_text(fields)}",
            f"Look: dbshield approvals show {number}",
            f"Decide: dbshield approvals approve {number}, or deny {number} --reason TEXT",
        ],
    )


def _decided(fields: Fields) -> Alert:
    number = text_of(fields, "approval")
    decision = {"approve": "approved", "deny": "denied"}.get(str(fields.get("verdict")), "decided on")
    return made(
        "decided",
        fields,
        subject=f"{number} {decision}",
        title=f"{text_of(fields, 'person')} {decision} {number} of {agent_of(fields)} in {text_of(fields, 'environment')}",
        lines=[f"Reason: {text_of(fields, 'reason')}", f"Look: dbshield approvals show {number}"],
    )


def _executed(fields: Fields) -> Alert:
    number, state = text_of(fields, "approval"), text_of(fields, "state")
    return made(
        "executed",
        fields,
        subject=number,
        title=f"approval {number} of {agent_of(fields)} in {text_of(fields, 'environment')} was run: {state}",
        lines=[f"Statement: {statement_text(fields)}", f"Take it back: dbshield undo {number}"],
    )


def _undone(fields: Fields) -> Alert:
    number = text_of(fields, "approval")
    return made(
        "undone",
        fields,
        subject=number,
        title=f"approval {number} in {text_of(fields, 'environment')} was undone by {person_of(fields)}",
        lines=[f"Look: dbshield approvals show {number}"],
    )


def _login(fields: Fields) -> Alert:
    user, reason = text_of(fields, "user"), text_of(fields, "reason")
    agent, _, environment = str(fields.get("user") or "").partition(".")
    source = str(fields.get("client") or "").rpartition(":")[0]
    known = {**fields, "environment": environment or None}
    # A line to copy into a shell has nothing in it that a stranger chose.
    among = f" --text {agent}" if re.fullmatch(NAME_PATTERN, agent) else ""
    return made(
        "login-refused",
        known,
        subject=f"{user} {plain(source)}",
        title=f"a login as {user} was refused",
        lines=[
            f"Why: {reason}",
            f"From: {text_of(fields, 'client')}"
            + (f", with the token {text_of(fields, 'token')}" if fields.get("token") else ""),
            f"Look: dbshield token list, and dbshield audit search --kind refused{among}",
        ],
    )


def _console_login(fields: Fields) -> Alert:
    who, source = person_of(fields), text_of(fields, "source")
    return made(
        "login-refused",
        fields,
        subject=f"console {source}",
        title=f"a sign-in to the console as {who} was refused",
        lines=[
            f"Why: {text_of(fields, 'reason')}",
            f"From: {source}",
            "Look: dbshield audit search --kind console-refused",
        ],
    )


def _logins_left_out(fields: Fields) -> Alert:
    source = (
        text_of(fields, "client") if "client" in fields else text_of(fields, "throttled") if "throttled" in fields else "a token"
    )
    return made(
        "login-refused",
        fields,
        subject=f"left out {source}",
        title=f"{text_of(fields, 'logins')} more logins were refused than the audit has lines for",
        lines=[f"From: {source}", "Look: dbshield audit search --kind refused"],
    )


def _code(fields: Fields) -> Alert:
    who = text_of(fields, "person")
    return made(
        "code-refused",
        fields,
        subject=who,
        title=f"a code of {who} was not taken",
        lines=[f"Why: {text_of(fields, 'reason')}", f"If {who} was not there: dbshield user reset {who}"],
    )


def _frozen(fields: Fields) -> Alert:
    where, agent = text_of(fields, "environment"), fields.get("agent")
    what = f"{agent_of(fields)} in {where}" if agent else f"the environment {where}"
    command = f"agent thaw {plain(agent)} -e {where}" if agent else f"environment thaw {where}"
    return made(
        "frozen",
        fields,
        subject=f"freeze {text_of(fields, 'freeze')}",
        title=f"{what} is frozen: it writes nothing" if agent else f"{what} is frozen: its agents write nothing",
        lines=[
            f"Why: {text_of(fields, 'reason')}",
            f"By: {text_of(fields, 'by')}" + (f", until {text_of(fields, 'until')}" if fields.get("until") else ""),
            f"Lift it: dbshield {command}",
        ],
        urgent=True,
    )


def _thawed(fields: Fields) -> Alert:
    where, agent = text_of(fields, "environment"), fields.get("agent")
    what = f"{agent_of(fields)} in {where}" if agent else f"the environment {where}"
    return made(
        "thawed",
        fields,
        subject=what,
        title=f"{what} was thawed by {text_of(fields, 'by')}",
        lines=[f"Look: dbshield audit search -e {where} --kind {'agent' if agent else 'environment'}-thawed"],
    )


def _glass(fields: Fields) -> Alert:
    who, where, number = text_of(fields, "person"), text_of(fields, "environment"), text_of(fields, "emergency")
    return made(
        "break-glass",
        fields,
        subject=number,
        title=f"{who} goes around the shield in {where}, until {text_of(fields, 'until')}",
        lines=[
            f"Why: {text_of(fields, 'reason')}",
            f"As: the role {text_of(fields, 'role')}, with the rights of {text_of(fields, 'acts_as')}",
            f"End it: dbshield break-glass --end {number}",
        ],
        urgent=True,
    )


def _glass_over(fields: Fields) -> Alert:
    who, where, number = text_of(fields, "person"), text_of(fields, "environment"), text_of(fields, "emergency")
    return made(
        "break-glass",
        fields,
        subject=f"{number} over",
        title=f"the emergency of {who} in {where} is over, ended by {text_of(fields, 'by')}",
        lines=[f"{text_of(fields, 'sessions')} sessions were ended, and the role {text_of(fields, 'role')} is gone."],
        urgent=True,
    )


def _glass_stuck(fields: Fields) -> Alert:
    where, number = text_of(fields, "environment"), text_of(fields, "emergency")
    return made(
        "break-glass",
        fields,
        subject=f"{number} stuck",
        title=f"the role of an emergency in {where} could not be removed",
        lines=[
            f"Why: {text_of(fields, 'reason')}",
            "It is tried again; the role itself lets nobody log in any more.",
            f"Try now: dbshield break-glass --end {number}",
        ],
        urgent=True,
    )


def _backup(fields: Fields) -> Alert | None:
    if not fields.get("failed") and text_of(fields, "outcome") not in {"failed", "error"} and not fields.get("error"):
        return None
    plan = text_of(fields, "plan")
    return made(
        "backup-failed",
        fields,
        subject="backup",
        title=f"the backup {plan} failed",
        lines=[f"Why: {text_of(fields, 'error')}", "Look: dbshield backup list"],
    )


def _drill(fields: Fields) -> Alert | None:
    verdict = str(fields.get("verdict") or fields.get("outcome") or "error")
    if verdict == "passed":
        return None
    number = text_of(fields, "snapshot")
    problems = ", ".join(map(plain, fields.get("problems") or ())) or "the report says"
    meaning = "the backup cannot be relied on" if verdict == "failed" else "nothing is known of the backup"
    return made(
        "drill-failed",
        fields,
        subject="drill",
        title=f"the restore drill of {number} ended with {plain(verdict)}: {meaning}",
        lines=[f"Why: {problems}", "Try again: dbshield restore-drill"],
    )


_MAKERS: Final[Mapping[str, Callable[[Fields], Alert | None]]] = {
    "approval-requested": _requested,
    "approval-decided": _decided,
    "executed": _executed,
    "undone": _undone,
    "refused": _login,
    "refused-left-out": _logins_left_out,
    "console-refused": _console_login,
    "code-refused": _code,
    "agent-frozen": _frozen,
    "environment-frozen": _frozen,
    "agent-thawed": _thawed,
    "environment-thawed": _thawed,
    "break-glass": _glass,
    "break-glass-over": _glass_over,
    "break-glass-stuck": _glass_stuck,
    "backup": _backup,
    "drill": _drill,
    **SENTENCES,
}
"""By the kind of the entry. What each proxy says of freezes that it applies (`frozen`, `thawed`) is not here: whoever freezes and
thaws says so once."""

KINDS: Final = ("statement", *_MAKERS)
"""The kinds that anything is told of."""
