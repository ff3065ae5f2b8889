"""What a client reads at the place of its held statement, once a human has decided.

What an approved statement answered is stored as text by whoever ran it: its command tag, and its rows where it had any. From
that come the messages that the server would have sent to this client, in the form in which it asked for them. The ReadyForQuery
behind them is the server's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbshield.session.held import HeldStatement
from dbshield.session.refusal import INSUFFICIENT_PRIVILEGE, rules, spoken, with_page
from dbshield.wire.backend import (
    BindComplete,
    CloseComplete,
    CommandComplete,
    DataRow,
    ErrorResponse,
    NoData,
    NoticeResponse,
    RowDescription,
)
from dbshield.wire.message import Message
from dbshield.wire.result import Column

TEXT_TYPE = 25
"""The OID of text: what a column is told to be whose type is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows that a statement gave, as text, and its columns: name, type's OID, type's modifier."""

    columns: Sequence[tuple[str, int, int]]
    rows: Sequence[Sequence[str | None]]


def ran(statement: HeldStatement, tag: str, rows: Rows | None = None) -> bytes:
    """The answer to an approved statement that was run."""
    said: list[Message] = []
    if statement.extended:
        said.append(BindComplete())
    if rows is not None and (statement.described or not statement.extended):
        said.append(
            RowDescription(
                columns=tuple(
                    Column(name=name.encode(), type=kind or TEXT_TYPE, type_modifier=modifier)
                    for name, kind, modifier in rows.columns
                )
            )
        )
    elif statement.described:
        said.append(NoData())
    if rows is not None:
        said += [DataRow(values=tuple(None if value is None else value.encode() for value in row)) for row in rows.rows]
    said.append(CommandComplete(tag=tag))
    said += [CloseComplete()] * statement.closed
    return b"".join(message.encode() for message in said)


def failed(error: Mapping[str, object], approval: str) -> bytes:
    """The error that an approved statement ended with. Nothing of it is kept."""
    words = {name: str(error.get(name) or "") for name in ("sqlstate", "message", "detail", "hint")}
    return ErrorResponse.of(
        "ERROR",
        words["sqlstate"],
        words["message"] or "the approved statement failed",
        detail=words["detail"] or f"approval={approval} state=failed",
        hint=words["hint"],
    ).encode()


def stopped(
    statement: HeldStatement,
    what: str,
    *,
    hint: str,
    approval: str = "",
    state: str = "",
    sqlstate: str = INSUFFICIENT_PRIVILEGE,
) -> bytes:
    """The refusal of a held statement: what became of it, and what the agent can do. DETAIL is for machines."""
    words = [rules(statement.judgement), f"verdict={'deny' if state == 'denied' else 'hold'}"]
    if approval:
        words.append(f"approval={approval}")
    if state:
        words.append(f"state={state}")
    first = spoken(statement.judgement)
    why = f" ({first.message})" if first else ""
    detail = with_page(" ".join(words), statement.judgement)
    return ErrorResponse.of("ERROR", sqlstate, f"dbshield {what}{why}", detail=detail, hint=hint).encode()


def notice(text: str, *, approval: str) -> bytes:
    """A word to a client that waits."""
    return NoticeResponse.of("NOTICE", "00000", f"dbshield: {text}", detail=f"approval={approval}").encode()
