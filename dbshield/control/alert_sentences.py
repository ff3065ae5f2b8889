"""The entries of the audit that are told in one sentence with their fields behind it: a table, pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from dbshield.control.alert_wording import Alert, Fields, made, person_of, plain

LOOK_AUDIT: Final = "Look: dbshield audit verify, and the proxy's log"


def _said(event: str, sentence: str, look: str, *, subject: str = "", urgent: bool = False) -> Callable[[Fields], Alert]:
    """An alert that says its fields after a sentence. In `sentence` and `look` stand fields in braces. Without a `subject` those
    with the same sentence are alike."""

    def make(fields: Fields) -> Alert:
        filled = _Filled(fields)
        known = {"ts", "event", "environment", "line"}
        details = "; ".join(f"{plain(key)} {plain(value)}" for key, value in fields.items() if key not in known)
        title = sentence.format_map(filled)
        return made(event, fields, subject=subject or title, title=title, lines=[details, look.format_map(filled)], urgent=urgent)

    return make


class _Filled(dict[str, str]):
    """Fields as texts for `str.format_map`; what is not there is said so."""

    def __init__(self, fields: Fields) -> None:
        super().__init__({key: plain(value) for key, value in fields.items()})
        self["who"] = person_of(fields)

    def __missing__(self, key: str) -> str:
        return "?"


SENTENCES: Final[Mapping[str, Callable[[Fields], Alert | None]]] = {
    # A run of the schedule that failed is told by the command and by the scheduler: both are one.
    "backup-failed": _said("backup-failed", "a backup of {environment} failed", "Look: dbshield backup list", subject="backup"),
    "backup-tampered": _said(
        "backup-tampered",
        "somebody wrote over backups of {environment}, or hid them",
        "Look: who may write at the destination; dbshield backup verify",
        urgent=True,
    ),
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
    "backup-key-trusted": _said(
        "backup-key",
        "snapshots signed by the key {key} are believed from now on, by {person}",
        "Look: dbshield audit search --kind backup-key-trusted",
    ),
    "audit-gap": _said("audit-damaged", "the audit lost {lost} entries", LOOK_AUDIT, urgent=True),
    "audit-unreadable": _said("audit-damaged", "the audit has an entry that cannot be read", LOOK_AUDIT, urgent=True),
    "audit-spool-damaged": _said("audit-damaged", "a file of the audit's is damaged", LOOK_AUDIT, urgent=True),
}
"""By the kind of the entry."""
