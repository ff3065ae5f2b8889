"""Every kind of entry that the audit has, with what it says and which fields it carries.

The reference is printed from this table, and a test finds a kind that is written somewhere and does not stand here: a new one is
one line more. An entry has `ts` and `event` besides; a field that has nothing to say may be null or left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from dbshield.config import near
from dbshield.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of entry: its name, a sentence, and its fields with spaces between them."""

    name: str
    meaning: str
    fields: str


_SESSION: Final = "agent environment database session client application"
_APPROVAL: Final = "environment agent database session approval digest state statement"
_SERVED: Final = "host file state part before"
_EMERGENCY: Final = "environment person emergency role acts_as"

_ALL: Final = (
    # What agents do
    Kind(name="connected", meaning="an agent logged in", fields=f"{_SESSION} token"),
    Kind(
        name="statement",
        meaning="a statement was judged; `repeats` and `until` where one entry stands for several that only read; `parameters` "
        'with `statements = "full"` alone',
        fields=f"{_SESSION} statement parameters parameters_left_out verdict observed rules effects repeats until",
    ),
    Kind(
        name="rows",
        meaning="a transaction with counted statements is over; `changed` is the rows of each table",
        fields=f"{_SESSION} changed",
    ),
    Kind(name="disconnected", meaning="a session ended", fields=f"{_SESSION} reason"),
    Kind(
        name="refused",
        meaning="a login was refused; `token` only where the secret was right, and `user` is what the client claimed",
        fields="user client reason token",
    ),
    Kind(
        name="refused-left-out",
        meaning="more logins were refused than get an entry each; so many of one address or token",
        fields="client throttled token logins",
    ),
    # What humans decide
    Kind(name="approval-requested", meaning="a statement waits for a human", fields=f"{_APPROVAL} rules"),
    Kind(
        name="approval-decided",
        meaning="a human approved or denied one (`verdict`)",
        fields=f"{_APPROVAL} person verdict reason without_undo",
    ),
    Kind(
        name="approval-withdrawn",
        meaning="the agent took it back, or it may not run any more",
        fields=f"{_APPROVAL} reason",
    ),
    Kind(
        name="executed",
        meaning="an approved statement was run: `state` is done or failed",
        fields=f"{_APPROVAL} tag error undo transaction",
    ),
    Kind(
        name="undone",
        meaning="an approved statement was taken back; `rows` is what came back into each table",
        fields="environment agent database person approval rows",
    ),
    Kind(
        name="undo-expired",
        meaning="what an approved statement destroyed is not kept any more: it ran `kept_days` ago",
        fields="environment agent database approval executed_at kept_days",
    ),
    Kind(name="code-refused", meaning="the second factor of a person was wrong", fields="person reason approval"),
    Kind(name="person-added", meaning="somebody may decide, once they have confirmed", fields="person role by vouched_by"),
    Kind(name="person-confirmed", meaning="they have shown the first code", fields="person by"),
    Kind(name="person-reset", meaning="somebody was given a new second factor", fields="person role by vouched_by"),
    Kind(name="person-role", meaning="somebody may do more or less", fields="person by role vouched_by"),
    Kind(name="person-password", meaning="somebody has a new password for the console", fields="person by"),
    Kind(name="person-removed", meaning="somebody no longer decides", fields="person by vouched_by"),
    Kind(name="console-signed-in", meaning="somebody signed in to the console", fields="person source"),
    Kind(name="console-refused", meaning="somebody was not let into the console", fields="person source reason"),
    Kind(name="console-signed-out", meaning="somebody signed out", fields="person"),
    Kind(name="break-glass", meaning="a person goes around the shield, until then", fields=f"{_EMERGENCY} reason until by"),
    Kind(name="break-glass-over", meaning="the emergency is over, and the role is gone", fields=f"{_EMERGENCY} by sessions"),
    Kind(name="break-glass-stuck", meaning="its role could not be removed", fields=f"{_EMERGENCY} reason"),
    # The key that seals stored secrets
    Kind(
        name="key-rotated",
        meaning="stored secrets are sealed with another key; the public keys check what each signed",
        fields="person old new secrets old_public_key public_key",
    ),
    Kind(name="key-retired", meaning="old keys are taken out of the file", fields="person keys public_keys"),
    # Who agents are, and what they may do
    Kind(name="agent-created", meaning="an agent was made", fields="environment agent access role person"),
    Kind(name="agent-removed", meaning="an agent was removed", fields="environment agent revoked_tokens person"),
    Kind(name="role-password-changed", meaning="the role of an agent has a new password", fields="environment agent role person"),
    Kind(name="role-password-restored", meaning="that failed, and the old one holds", fields="environment agent role person"),
    Kind(name="token-issued", meaning="a token was made", fields="environment agent person token expires_at scope"),
    Kind(
        name="token-rotated",
        meaning="a token was made that replaces another",
        fields="environment agent person token expires_at scope replaces",
    ),
    Kind(name="token-revoked", meaning="a token no longer opens", fields="environment agent person token"),
    Kind(
        name="environment-pinned",
        meaning="an environment was pinned to a cluster, by a person or when it was first seen",
        fields="environment person system_identifier before",
    ),
    Kind(name="environment-frozen", meaning="agents write nothing", fields="environment freeze reason by until"),
    Kind(name="environment-thawed", meaning="they may again", fields="environment by"),
    Kind(name="agent-frozen", meaning="one agent writes nothing", fields="environment freeze reason by until agent"),
    Kind(name="agent-thawed", meaning="it may again", fields="environment by agent"),
    Kind(
        name="frozen",
        meaning="a worker of a proxy applies a freeze from now on",
        fields="agent environment freeze reason by until",
    ),
    Kind(name="thawed", meaning="it no longer does", fields="agent environment freeze reason"),
    Kind(
        name="policy-changed",
        meaning="what agents may do was changed: each setting with its old and new value; by a reload, or found at a start, with "
        "where, and what was served last (`before`)",
        fields=f"environment changed {_SERVED}",
    ),
    Kind(
        name="configuration-changed",
        meaning="other settings were changed, likewise; numbers and switches with their values, of texts only the name",
        fields=f"changed {_SERVED}",
    ),
    Kind(
        name="configuration-served",
        meaning="a configuration file is served that was not before: what agents may do by it, for each environment",
        fields="policies host file state part",
    ),
    # What brings the data back
    Kind(
        name="backup",
        meaning="a snapshot was made, or was not",
        fields="person environment plan outcome snapshot error",
    ),
    Kind(name="backup-pruned", meaning="a snapshot was removed as retention says", fields="person environment plan snapshot"),
    Kind(name="backup-key-trusted", meaning="this machine's signing key is known from now on", fields="key person"),
    Kind(
        name="drill",
        meaning="a snapshot was restored on trial",
        fields="person environment plan snapshot verdict problems rpo_seconds rto_seconds",
    ),
    Kind(name="restore", meaning="a snapshot was restored", fields="person environment snapshot target"),
    Kind(
        name="backup-tampered",
        meaning="somebody wrote over a snapshot or its WAL, or hid it; Object Lock has kept what was written, and that was read",
        fields="person environment plan snapshot error",
    ),
    Kind(name="wal-failed", meaning="the WAL could not be archived, for longer than a moment", fields="environment plan error"),
    Kind(name="wal-gap", meaning="WAL is missing in the archive; a new snapshot is needed", fields="environment plan error"),
    # What the schedule does
    Kind(name="job", meaning="a job of the schedule ended", fields="job environment outcome scheduler"),
    Kind(name="job-late", meaning="nobody led when it was due; it runs once now", fields="job environment due missed"),
    Kind(name="job-skipped", meaning="it still ran when it was due again", fields="job environment due missed why"),
    Kind(name="job-caught-up", meaning="what was overdue is done", fields="job environment"),
    Kind(name="job-failed", meaning="a job failed, or is overdue", fields="job environment outcome error"),
    Kind(name="backup-failed", meaning="a scheduled snapshot failed", fields="job environment outcome error"),
    Kind(name="backup-overdue", meaning="a snapshot is overdue", fields="job environment due outcome"),
    Kind(name="drill-failed", meaning="a scheduled drill failed, or came to no verdict", fields="job environment outcome error"),
    Kind(name="drill-overdue", meaning="a drill is overdue", fields="job environment due outcome"),
    Kind(
        name="guard-changed",
        meaning="the guard was installed, brought to another version or removed (`change`)",
        fields="environment database change version person",
    ),
    Kind(name="guard-tampered", meaning="the guard is not as it was installed", fields="job environment outcome error"),
    # The audit itself
    Kind(name="control-away", meaning="the control database was away, and is back", fields="since machine"),
    Kind(name="audit-gap", meaning="so many entries were lost: neither the database nor the disk took them", fields="lost"),
    Kind(name="audit-unreadable", meaning="an entry that the database could not read, as a text", fields="line"),
    Kind(name="audit-spool-damaged", meaning="a file of entries of a killed worker cannot be read", fields="file"),
    Kind(
        name="audit-verified",
        meaning="somebody had the chain walked and wrote it down: up to `last` it was whole, or these are its faults",
        fields="person entries last hash faults",
    ),
    Kind(name="audit-exported", meaning="somebody took entries out of the console", fields="person form filter"),
    Kind(
        name="audit-retention",
        meaning="a month was dropped; the chain begins with this hash from now on",
        fields="from to hash",
    ),
)

KINDS: Final[Mapping[str, Kind]] = MappingProxyType({kind.name: kind for kind in _ALL})
"""By name, in the order of the reference."""


def require(name: str) -> str:
    """The name, for whoever asks for entries of this kind. Raises ConfigError where it is none: a misspelt one finds nothing,
    which reads like good news."""
    if name in KINDS:
        return name
    close = near(name, KINDS)
    raise ConfigError(
        f'"{name}" is no kind of entry', hint=f'Did you mean "{close}"?' if close else f"There are: {', '.join(KINDS)}."
    )
