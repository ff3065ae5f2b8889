"""What an entry of the audit is worth telling people: pure, entry by entry.

Laws:
- A message holds what the audit's entry holds, cut to what one reads on a telephone: no token, no password, and no constant of a
  statement, also where the audit keeps those.
- It says what happened, who did it, where, and the command with which one looks further or acts.
- Text of an agent's making stays on its line and in its place: nothing in it looks like a message of dbshield's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dbshield.sqltext.normal import redacted

LONGEST: Final = 300
"""Characters of a text of somebody else's making, such as a reason."""
SHOWN: Final = 5
"""Of a list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing to tell. `event` is one of `config.alerts.EVENTS`; what has the same event, environment and `subject` is alike.
    What is `urgent` waits for no rate and no company."""

    event: str
    environment: str | None
    subject: str
    title: str
    body: str
    urgent: bool = False


Fields = Mapping[str, Any]


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
        body=f"Its kind is {_plain(kind)}, and it could not be read for an alert.\n{_LOOK_AUDIT}",
        urgent=True,
    )


def _statement(fields: Fields) -> Alert | None:
    verdict = fields.get("verdict")
    if verdict not in ("deny", "hold"):
        return None
    who, where = _agent(fields), _text(fields, "environment")
    rules = ", ".join(_list(fields, "rules") or ["no rule"])
    effects = _list(fields, "effects")
    what = "; ".join(effects[:SHOWN]) + (f"; and {len(effects) - SHOWN} more" if len(effects) > SHOWN else "")
    word = "was refused" if verdict == "deny" else "is held"
    return _made(
        "refused" if verdict == "deny" else "held",
        fields,
        subject=f"{who} {rules}",
        title=f"{who} {word} in {where}: {rules}",
        lines=[
            f"What: {what or 'a statement that has no effect that could be named'}",
            f"Where: database {_text(fields, 'database')}, from {_text(fields, 'client')}",
            f"Look: dbshield audit search -e {where} --agent {_text(fields, 'agent')} --verdict {verdict}",
        ],
    )


def _requested(fields: Fields) -> Alert:
    where, number = _text(fields, "environment"), _text(fields, "approval")
    return _made(
        "approval",
        fields,
        subject=number,
        title=f"{_agent(fields)} waits for a human in {where}: approval {number}",
        lines=[
            f"Statement: {_statement_text(fields)}",
            f"Look: dbshield approvals show {number}",
            f"Decide: dbshield approvals approve {number}, or deny {number} --reason TEXT",
        ],
    )


def _decided(fields: Fields) -> Alert:
    number = _text(fields, "approval")
    decision = {"approve": "approved", "deny": "denied"}.get(str(fields.get("verdict")), "decided on")
    return _made(
        "decided",
        fields,
        subject=f"{number} {decision}",
        title=f"{_text(fields, 'person')} {decision} {number} of {_agent(fields)} in {_text(fields, 'environment')}",
        lines=[f"Reason: {_text(fields, 'reason')}", f"Look: dbshield approvals show {number}"],
    )


def _executed(fields: Fields) -> Alert:
    number, state = _text(fields, "approval"), _text(fields, "state")
    return _made(
        "executed",
        fields,
        subject=number,
        title=f"approval {number} of {_agent(fields)} in {_text(fields, 'environment')} was run: {state}",
        lines=[f"Statement: {_statement_text(fields)}", f"Take it back: dbshield undo {number}"],
    )


def _undone(fields: Fields) -> Alert:
    number = _text(fields, "approval")
    return _made(
        "undone",
        fields,
        subject=number,
        title=f"approval {number} in {_text(fields, 'environment')} was undone by {_person(fields)}",
        lines=[f"Look: dbshield approvals show {number}"],
    )


def _login(fields: Fields) -> Alert:
    user, reason = _text(fields, "user"), _text(fields, "reason")
    agent, _, environment = str(fields.get("user") or "").partition(".")
    source = str(fields.get("client") or "").rpartition(":")[0]
    known = {**fields, "environment": environment or None}
    return _made(
        "login-refused",
        known,
        subject=f"{user} {_plain(source)}",
        title=f"a login as {user} was refused",
        lines=[
            f"Why: {reason}",
            f"From: {_text(fields, 'client')}" + (f", with the token {_text(fields, 'token')}" if fields.get("token") else ""),
            f"Look: dbshield token list, and dbshield audit search --kind refused --text {_plain(agent) or 'NAME'}",
        ],
    )


def _logins_left_out(fields: Fields) -> Alert:
    source = _text(fields, "client") if "client" in fields else _text(fields, "throttled") if "throttled" in fields else "a token"
    return _made(
        "login-refused",
        fields,
        subject=f"left out {source}",
        title=f"{_text(fields, 'logins')} more logins were refused than the audit has lines for",
        lines=[f"From: {source}", "Look: dbshield audit search --kind refused"],
    )


def _code(fields: Fields) -> Alert:
    who = _text(fields, "person")
    return _made(
        "code-refused",
        fields,
        subject=who,
        title=f"a code of {who} was not taken",
        lines=[f"Why: {_text(fields, 'reason')}", f"If {who} was not there: dbshield user reset {who}"],
    )


def _frozen(fields: Fields) -> Alert:
    where, agent = _text(fields, "environment"), fields.get("agent")
    what = f"{_agent(fields)} in {where}" if agent else f"the environment {where}"
    command = f"agent thaw {_plain(agent)} -e {where}" if agent else f"environment thaw {where}"
    return _made(
        "frozen",
        fields,
        subject=f"freeze {_text(fields, 'freeze')}",
        title=f"{what} is frozen: it writes nothing" if agent else f"{what} is frozen: its agents write nothing",
        lines=[
            f"Why: {_text(fields, 'reason')}",
            f"By: {_text(fields, 'by')}" + (f", until {_text(fields, 'until')}" if fields.get("until") else ""),
            f"Lift it: dbshield {command}",
        ],
        urgent=True,
    )


def _thawed(fields: Fields) -> Alert:
    where, agent = _text(fields, "environment"), fields.get("agent")
    what = f"{_agent(fields)} in {where}" if agent else f"the environment {where}"
    return _made(
        "thawed",
        fields,
        subject=what,
        title=f"{what} was thawed by {_text(fields, 'by')}",
        lines=[f"Look: dbshield audit search -e {where} --kind {'agent' if agent else 'environment'}-thawed"],
    )


def _glass(fields: Fields) -> Alert:
    who, where, number = _text(fields, "person"), _text(fields, "environment"), _text(fields, "emergency")
    return _made(
        "break-glass",
        fields,
        subject=number,
        title=f"{who} goes around the shield in {where}, until {_text(fields, 'until')}",
        lines=[
            f"Why: {_text(fields, 'reason')}",
            f"As: the role {_text(fields, 'role')}, with the rights of {_text(fields, 'acts_as')}",
            f"End it: dbshield break-glass --end {number}",
        ],
        urgent=True,
    )


def _glass_over(fields: Fields) -> Alert:
    who, where, number = _text(fields, "person"), _text(fields, "environment"), _text(fields, "emergency")
    return _made(
        "break-glass",
        fields,
        subject=f"{number} over",
        title=f"the emergency of {who} in {where} is over, ended by {_text(fields, 'by')}",
        lines=[f"{_text(fields, 'sessions')} sessions were ended, and the role {_text(fields, 'role')} is gone."],
        urgent=True,
    )


def _glass_stuck(fields: Fields) -> Alert:
    where, number = _text(fields, "environment"), _text(fields, "emergency")
    return _made(
        "break-glass",
        fields,
        subject=f"{number} stuck",
        title=f"the role of an emergency in {where} could not be removed",
        lines=[
            f"Why: {_text(fields, 'reason')}",
            "It is tried again; the role itself lets nobody log in any more.",
            f"Try now: dbshield break-glass --end {number}",
        ],
        urgent=True,
    )


def _backup(fields: Fields) -> Alert | None:
    if not fields.get("failed") and _text(fields, "outcome") not in {"failed", "error"} and not fields.get("error"):
        return None
    plan = _text(fields, "plan")
    return _made(
        "backup-failed",
        fields,
        subject="backup",
        title=f"the backup {plan} failed",
        lines=[f"Why: {_text(fields, 'error')}", "Look: dbshield backup list"],
    )


def _drill(fields: Fields) -> Alert | None:
    verdict = str(fields.get("verdict") or fields.get("outcome") or "error")
    if verdict == "passed":
        return None
    number = _text(fields, "snapshot")
    problems = ", ".join(map(_plain, fields.get("problems") or ())) or "the report says"
    meaning = "the backup cannot be relied on" if verdict == "failed" else "nothing is known of the backup"
    return _made(
        "drill-failed",
        fields,
        subject="drill",
        title=f"the restore drill of {number} ended with {_plain(verdict)}: {meaning}",
        lines=[f"Why: {problems}", "Try again: dbshield restore-drill"],
    )


def _said(event: str, sentence: str, look: str, *, subject: str = "", urgent: bool = False) -> Callable[[Fields], Alert]:
    """An alert that says its fields after a sentence. In `sentence` and `look` stand fields in braces. Without a `subject` those
    with the same sentence are alike."""

    def make(fields: Fields) -> Alert:
        filled = _Filled(fields)
        known = {"ts", "event", "environment", "line"}
        details = "; ".join(f"{_plain(key)} {_plain(value)}" for key, value in fields.items() if key not in known)
        title = sentence.format_map(filled)
        return _made(
            event, fields, subject=subject or title, title=title, lines=[details, look.format_map(filled)], urgent=urgent
        )

    return make


class _Filled(dict[str, str]):
    """Fields as texts for `str.format_map`; what is not there is said so."""

    def __init__(self, fields: Fields) -> None:
        super().__init__({key: _plain(value) for key, value in fields.items()})
        self["who"] = _person(fields)

    def __missing__(self, key: str) -> str:
        return "?"


_LOOK_AUDIT: Final = "Look: dbshield audit verify, and the proxy's log"
_MAKERS: Final[Mapping[str, Callable[[Fields], Alert | None]]] = {
    "approval-requested": _requested,
    "approval-decided": _decided,
    "executed": _executed,
    "undone": _undone,
    "refused": _login,
    "refused-left-out": _logins_left_out,
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
    # A run of the schedule that failed is told by the command and by the scheduler: both are one.
    "backup-failed": _said("backup-failed", "a backup of {environment} failed", "Look: dbshield backup list", subject="backup"),
    "wal-failed": _said(
        "backup-failed", "the WAL of {environment} is not archived", "Look: dbshield doctor", subject="wal", urgent=True
    ),
    "wal-gap": _said(
        "backup-failed",
        "the WAL archive of {environment} has a gap",
        "Do: dbshield backup --plan {plan}",
        subject="wal",
        urgent=True,
    ),
    "backup-overdue": _said("backup-overdue", "a backup of {environment} is overdue", "Look: dbshield backup list", urgent=True),
    "drill-failed": _said(
        "drill-failed", "a restore drill of {environment} failed", "Look: dbshield schedule show", subject="drill"
    ),
    "drill-overdue": _said("drill-overdue", "a restore drill of {environment} is overdue", "Try: dbshield restore-drill"),
    "job-failed": _said("job-failed", "the job {job} failed", "Look: dbshield schedule show"),
    "agent-created": _said("agents", "{who} created the agent {agent} in {environment}", "Look: dbshield agent list"),
    "agent-removed": _said("agents", "{who} removed the agent {agent} from {environment}", "Look: dbshield agent list"),
    "role-password-changed": _said("agents", "{who} changed the role of {agent} in {environment}", "Look: dbshield agent list"),
    "token-issued": _said("tokens", "{who} issued a token for {agent} in {environment}", "Look: dbshield token list"),
    "token-rotated": _said("tokens", "{who} rotated a token of {agent} in {environment}", "Look: dbshield token list"),
    "token-revoked": _said("tokens", "{who} revoked a token of {agent} in {environment}", "Look: dbshield token list"),
    "person-added": _said("people", "{person} was added to those who decide, by {by}", "Look: dbshield user list"),
    "person-confirmed": _said("people", "{person} is now one of those who decide", "Look: dbshield user list"),
    "person-reset": _said("people", "{person} was given a new second factor by {by}", "Look: dbshield user list"),
    "person-role": _said("people", "{person} has the role {role}, by {by}", "Look: dbshield user list"),
    "person-password": _said("people", "{person} has a new password for the console, by {by}", "Look: dbshield user list"),
    "person-removed": _said("people", "{person} no longer decides, by {by}", "Look: dbshield user list"),
    "policy-changed": _said("policy-changed", "what agents may do in {environment} was changed", "Look: dbshield policy show"),
    "environment-pinned": _said(
        "environment-pinned", "{environment} was pinned to a cluster by {person}", "Look: dbshield environment list"
    ),
    "guard-tampered": _said(
        "guard-tampered",
        "the guard in {environment} is not as it was installed",
        "Look: dbshield guard verify -e {environment}",
        urgent=True,
    ),
    "guard-changed": _said(
        "guard-changed", "the guard in {environment} was {change} by {person}", "Look: dbshield guard status -e {environment}"
    ),
    "audit-gap": _said("audit-damaged", "the audit lost {lost} entries", _LOOK_AUDIT, urgent=True),
    "audit-unreadable": _said("audit-damaged", "the audit has an entry that cannot be read", _LOOK_AUDIT, urgent=True),
    "audit-spool-damaged": _said("audit-damaged", "a file of the audit's is damaged", _LOOK_AUDIT, urgent=True),
}
"""By the kind of the entry. What each proxy says of freezes that it applies (`frozen`, `thawed`) is not here: whoever freezes and
thaws says so once."""

KINDS: Final = ("statement", *_MAKERS)
"""The kinds that anything is told of."""


def _made(event: str, fields: Fields, *, subject: str, title: str, lines: list[str], urgent: bool = False) -> Alert:
    environment = fields.get("environment")
    return Alert(
        event=event,
        environment=str(environment) if environment else None,
        subject=subject[:LONGEST],
        title=title[:LONGEST],
        body="\n".join(line for line in lines if line),
        urgent=urgent,
    )


def _agent(fields: Fields) -> str:
    return f"agent {_text(fields, 'agent')}"


def _person(fields: Fields) -> str:
    return _plain(fields.get("by") or fields.get("person") or "somebody")


def _statement_text(fields: Fields) -> str:
    """The statement without its constants, which an audit that keeps statements in full has."""
    text = fields.get("statement")
    return _plain(redacted(str(text).encode("utf-8", "replace"))) if text else "?"


def _list(fields: Fields, name: str) -> list[str]:
    value = fields.get(name)
    return [_plain(one) for one in value] if isinstance(value, list) else [_plain(value)] if value else []


def _text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    return _plain(value) if value is not None and value != "" else "?"


def _plain(value: object) -> str:
    """One line of printable characters, not too long."""
    text = " ".join(str(value).split())
    shown = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text[: LONGEST + 1])
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 3] + "..."
