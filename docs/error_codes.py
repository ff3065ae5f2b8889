"""The page about what a client is told when something is stopped or fails: SQLSTATEs, and what else an answer is made of."""

from __future__ import annotations

from dataclasses import dataclass

INTRODUCTION = """\
# Error codes

Made from the code by `make docs`; do not edit.

An answer of dbshield is an ErrorResponse like PostgreSQL's own, and drivers treat it as one. Where a statement was stopped
its message begins with `dbshield`. What the server answers passes unchanged, with codes of its own.

| field | what stands there |
|---|---|
| SQLSTATE | one of those below |
| MESSAGE | one sentence: what was stopped and that nothing was executed (or what is known of that), the rule, what it is about |
| DETAIL | for programs: `rule=DS201 name=rows.unbounded-delete verdict=hold`, and `approval=… state=…` where a human is asked |
| HINT | what to do instead |

Where `[console] address` is set, DETAIL ends with `page=https://…/rules/DS201`, the rule's page in the console.

`verdict=deny`: no agent runs this. `verdict=hold`: a human decides. `state` is `waiting`, `approved`, `running`, `done`,
`failed`, `denied`, `expired` or `withdrawn`, or `unknown` where the control database does not tell. The rules are in [their
reference](rules.md), exit codes of commands in [that of the command line](command-line.md).

| SQLSTATE | PostgreSQL's name | dbshield says it | may it be sent again? |
|---|---|---|---|
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """One SQLSTATE. `again` says what a program may do about it."""

    sqlstate: str
    name: str
    when: str
    again: str


CODES = (
    Code(
        sqlstate="00000",
        name="successful_completion",
        when="with a notice: a statement waits for a human, and which approval it is",
        again="it is no error: go on waiting",
    ),
    Code(
        sqlstate="08001",
        name="sqlclient_unable_to_establish_sqlconnection",
        when="the protected server cannot be reached, or the executor's is not the environment's",
        again="later",
    ),
    Code(
        sqlstate="08004",
        name="sqlserver_rejected_establishment_of_sqlconnection",
        when="what is at the environment's address is another cluster, or is guarded for another environment",
        again="no: a human runs `dbshield environment pin`, if that is meant",
    ),
    Code(
        sqlstate="08006",
        name="connection_failure",
        when="the server closed the connection, or the login took too long",
        again="connect anew; whether the last write was committed is to be looked at",
    ),
    Code(
        sqlstate="08007",
        name="transaction_resolution_unknown",
        when="the executor ended, and the server cannot say whether the approved statement was committed",
        again="no: a human looks at the data first",
    ),
    Code(
        sqlstate="08P01",
        name="protocol_violation",
        when="a message that the protocol does not allow, or not here; the connection ends",
        again="no",
    ),
    Code(
        sqlstate="0A000",
        name="feature_not_supported",
        when="replication, an authentication that is not SCRAM, an approved statement that nothing could bring back",
        again="no",
    ),
    Code(
        sqlstate="22023",
        name="invalid_parameter_value",
        when="a startup parameter that would change how texts are read; a token asked for with more than its agent has",
        again="with another value",
    ),
    Code(
        sqlstate="25001",
        name="active_sql_transaction",
        when="an approved statement that runs in no transaction, such as VACUUM",
        again="no",
    ),
    Code(sqlstate="25006", name="read_only_sql_transaction", when="the executor's server is a standby", again="no"),
    Code(
        sqlstate="26000",
        name="invalid_sql_statement_name",
        when="a prepared statement whose judgement no longer holds (DS225)",
        again="prepare it again, as drivers do by themselves",
    ),
    Code(
        sqlstate="28000",
        name="invalid_authorization_specification",
        when="a right token that is not for this database, network or hour; no user name; no TLS where it is required",
        again="no: ask who made the token",
    ),
    Code(
        sqlstate="28P01",
        name="invalid_password",
        when="no such agent, or a token that is wrong, expired or revoked; a wrong second factor",
        again="no: ask for a new token",
    ),
    Code(
        sqlstate="2BP01",
        name="dependent_objects_still_exist",
        when="a command would remove a role that owns something",
        again="no: name an heir",
    ),
    Code(sqlstate="3D000", name="invalid_catalog_name", when="a database that the environment does not have", again="no"),
    Code(
        sqlstate="40001",
        name="serialization_failure",
        when="the data is no longer what the human was shown; nothing was done",
        again="yes: the same statement is asked for again",
    ),
    Code(
        sqlstate="42501",
        name="insufficient_privilege",
        when="a statement was stopped by a rule, or denied by a human: the usual one",
        again="no: do what HINT says. With `state=waiting`, the identical statement may be sent again later",
    ),
    Code(sqlstate="42601", name="syntax_error", when="an approved text that is not one statement", again="no"),
    Code(
        sqlstate="42704",
        name="undefined_object",
        when="a startup parameter that is not known; a command names an agent, token or approval that is not there",
        again="no",
    ),
    Code(sqlstate="42710", name="duplicate_object", when="an agent or person of this name is there already", again="no"),
    Code(sqlstate="53300", name="too_many_connections", when="a limit of `[proxy]` is reached", again="later"),
    Code(
        sqlstate="53400",
        name="configuration_limit_exceeded",
        when="the undo point would be larger than `undo_max_bytes`; too many approvals wait",
        again="when fewer wait",
    ),
    Code(
        sqlstate="54000",
        name="program_limit_exceeded",
        when="too many portals, names of statements, or refused statements in one pipeline",
        again="after closing some, or reading the answers",
    ),
    Code(
        sqlstate="55000",
        name="object_not_in_prerequisite_state",
        when="an approval, token or emergency that is over already",
        again="no",
    ),
    Code(
        sqlstate="57014",
        name="query_canceled",
        when="the client canceled a statement that waited; it is taken back. With `state=unknown`, the waiting ended while the"
        " control database was away: the statement may have run, or may run later",
        again="yes. With `state=unknown`, no: a human looks with `dbshield approvals show` first",
    ),
    Code(
        sqlstate="57P01",
        name="admin_shutdown",
        when="the session was ended: its token is revoked or over, the proxy shuts down, the audit cannot be kept",
        again="connect anew",
    ),
    Code(
        sqlstate="57P03",
        name="cannot_connect_now",
        when="the control database or the protected server takes no logins now",
        again="later",
    ),
    Code(sqlstate="57P05", name="idle_session_timeout", when="nothing was sent for `[proxy] idle_timeout`", again="connect anew"),
    Code(sqlstate="58000", name="system_error", when="an approved statement failed outside of the server", again="no"),
    Code(sqlstate="XX000", name="internal_error", when="a bug of dbshield; the statement was stopped", again="no: report it"),
)


def errors_page() -> str:
    """A table, one SQLSTATE a line."""
    return INTRODUCTION + "".join(f"| `{code.sqlstate}` | {code.name} | {code.when} | {code.again} |\n" for code in CODES)
