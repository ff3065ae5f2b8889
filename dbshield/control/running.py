"""An approved text as the server runs it: on whose terms, and what it answers.

The text is the stored one, byte for byte, with the stored parameters in the formats that the client sent. It runs in one
transaction or not at all: a text that begins, ends or divides a transaction is refused, and so is what only a session of the
agent's own could do. What cannot run inside a transaction block (VACUUM, CREATE INDEX CONCURRENTLY, DROP DATABASE) is refused by
the server itself, before it does anything.

Source: PostgreSQL manual, "Command Execution Functions" of libpq (PQexec, PQexecParams).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import pq

from dbshield.control.asking import Parameter
from dbshield.errors import Refused
from dbshield.model import Effect, ObjectKind, Operation
from dbshield.session.terms import CARRIED, SEARCH_PATH
from dbshield.sqltext import postgres
from dbshield.sqltext.statement import Unreadable

Connection = psycopg.Connection[tuple[Any, ...]]

SYNTAX: Final = "42601"
NOT_SUPPORTED: Final = "0A000"
IN_A_BLOCK: Final = "25001"
"""active_sql_transaction: what the server says of VACUUM and its like inside a transaction block."""
ROWS_KEPT: Final = 1000
BYTES_KEPT: Final = 1 << 20
"""Of an answer that goes back to the agent through the control database; the rest is left out, and said so."""

OF_A_SESSION: Final = {
    Operation.TRANSACTION: "it begins or ends a transaction",
    Operation.CURSOR: "it works on a cursor, which belongs to the agent's own session",
    Operation.EXECUTE: "it runs a prepared statement, which belongs to the agent's own session",
    Operation.SET: "it changes settings of a session, which ends with it",
}

ROLE_SETTINGS: Final = ("search_path", "datestyle", "intervalstyle", "timezone", "default_text_search_config", "role")
"""What of the settings of the agent's role decides what a text means."""
SETTINGS_OF: Final = """
    select distinct on (name) split_part(setting, '=', 1) as name, substr(setting, strpos(setting, '=') + 1)
    from (select unnest(setconfig) as setting, setrole, setdatabase from pg_catalog.pg_db_role_setting
          where setdatabase in (0, (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()))
            and setrole in (0, coalesce((select oid from pg_catalog.pg_roles where rolname = %s), 0))) as found,
         lateral (select lower(split_part(setting, '=', 1)) as name) as named
    where name = any(%s)
    order by name, setrole = 0, setdatabase = 0
"""
"""As a login does it: the role's own in this database, the role's, the database's, everybody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the statement answered: its tag, how many rows it changed (None where it tells none), and the rows it gave."""

    tag: str
    rows: int | None
    result: Mapping[str, Any] | None


def check(statement: str) -> tuple[Effect, ...]:
    """The effects of a text that can be run in one transaction by somebody else than its sender. Refused otherwise."""
    try:
        statements = postgres.read(statement.encode())
    except Unreadable as error:
        raise Refused(f"the statement cannot be read: {error.message}", sqlstate=SYNTAX) from error
    effects = tuple(effect for one in statements for effect in one.effects)
    for effect in effects:
        if effect.operation in OF_A_SESSION and (
            effect.operation is not Operation.EXECUTE or effect.kind is ObjectKind.STATEMENT
        ):
            raise Refused(
                f"dbshield does not run this statement: {OF_A_SESSION[effect.operation]}",
                sqlstate=NOT_SUPPORTED,
                hint="Ask for each statement by itself, or let a human run it.",
            )
    if not statements:
        raise Refused("there is no statement in the text", sqlstate=SYNTAX)
    return effects


def as_asked(connection: Connection, asked: Mapping[str, str], role: str) -> None:
    """Takes on the settings that decide what a text means: those that the session had when it asked, or where none were kept
    those of the agent's role. Refused where one is not among those that a question may carry: then somebody else wrote it."""
    if not asked:
        _as_role(connection, role)
        return
    unknown = sorted(asked.keys() - CARRIED)
    if unknown:
        raise Refused(f"a question carries no setting {unknown[0]}", sqlstate=NOT_SUPPORTED, hint="Ask again.")
    for name, value in asked.items():
        if name != SEARCH_PATH:
            connection.execute("select pg_catalog.set_config(%s, %s, false)", [name, value])
    # Last, so that nothing of ours is looked up in it.
    connection.execute("select pg_catalog.set_config(%s, %s, false)", [SEARCH_PATH, asked.get(SEARCH_PATH, "")])


def _as_role(connection: Connection, role: str) -> None:
    """The settings that a login of this role has."""
    settings = {"search_path": '"$user", public', "datestyle": "ISO, MDY", "intervalstyle": "postgres"}
    rows = connection.execute(SETTINGS_OF.encode(), [role, list(ROLE_SETTINGS)])
    settings |= {str(name): str(value) for name, value in rows}
    # "$user" would be the executor here.
    quoted = '"' + role.replace('"', '""') + '"'
    settings["search_path"] = settings["search_path"].replace('"$user"', quoted).replace("$user", quoted)
    settings.pop("role", None)
    for name, value in settings.items():
        connection.execute("select pg_catalog.set_config(%s, %s, false)", [name, value])


def run(connection: Connection, statement: str, parameters: Sequence[Parameter] | None) -> Answer:
    """Runs the text in the transaction that is open. Raises psycopg.Error with the server's own words, Refused for COPY."""
    if parameters is None:
        result = connection.pgconn.exec_(statement.encode())
    else:
        result = connection.pgconn.exec_params(
            statement.encode(),
            [parameter.value for parameter in parameters],
            [parameter.type for parameter in parameters],
            [parameter.format for parameter in parameters],
        )
    match result.status:
        case pq.ExecStatus.COMMAND_OK | pq.ExecStatus.TUPLES_OK:
            pass
        case pq.ExecStatus.FATAL_ERROR | pq.ExecStatus.NONFATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
        case pq.ExecStatus.EMPTY_QUERY:
            raise Refused("there is no statement in the text", sqlstate=SYNTAX)
        case _:
            # The connection is of no use after this, and closing it takes everything back.
            connection.close()
            raise Refused("COPY to or from the client has no client here", sqlstate=NOT_SUPPORTED, hint="Let a human run it.")
    if connection.info.transaction_status is not pq.TransactionStatus.INTRANS:
        connection.close()
        raise Refused("the statement ended its own transaction", sqlstate=NOT_SUPPORTED)
    tag = (result.command_status or b"").decode()
    return Answer(tag=tag, rows=result.command_tuples, result=_rows(result) if result.nfields else None)


def _rows(result: Any) -> dict[str, Any]:
    columns = [
        {"name": (result.fname(i) or b"").decode(), "type": result.ftype(i), "modifier": result.fmod(i)}
        for i in range(result.nfields)
    ]
    rows: list[list[str | None]] = []
    size = 0
    for number in range(result.ntuples):
        values = [result.get_value(number, i) for i in range(result.nfields)]
        size += sum(len(value) for value in values if value is not None)
        if number >= ROWS_KEPT or size > BYTES_KEPT:
            break
        rows.append([None if value is None else value.decode("utf-8", "replace") for value in values])
    return {"columns": columns, "rows": rows, "truncated": len(rows) < result.ntuples}


def told(error: Exception) -> dict[str, str]:
    """An error as an approval keeps it: sqlstate, message, detail, hint."""
    if isinstance(error, psycopg.Error):
        found = error.diag
        hint = found.message_hint or ""
        if found.sqlstate == IN_A_BLOCK:
            hint = (
                "dbshield runs every approved statement in a transaction, so that it can be taken back. Let a human run this one."
            )
        return {
            "sqlstate": found.sqlstate or "58000",
            "message": found.message_primary or str(error).strip() or type(error).__name__,
            "detail": found.message_detail or "",
            "hint": hint,
        }
    return {
        "sqlstate": getattr(error, "sqlstate", "58000"),
        "message": getattr(error, "message", "") or str(error),
        "detail": getattr(error, "detail", ""),
        "hint": getattr(error, "hint", ""),
    }
