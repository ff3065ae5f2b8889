"""What docs/explanation/session-control.md says holds for a session through the live proxy, and leaves that session usable."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from support.session_page import statements
from support.shield import Shield

from dbshield.model import AccessLevel

pytestmark = pytest.mark.one_server(by="module")

SAID = statements()


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize("access", AccessLevel)
def test_every_statement_of_the_page(shield: Shield, access: AccessLevel, extended: bool) -> None:
    with shield.connect(access.value) as connection:
        for said in SAID:
            if said.access is not access:
                continue
            refused = _refusal(connection, said.statement, extended)
            if said.rule:
                assert refused is not None, said.statement
                assert said.rule in refused
            else:
                assert refused is None, f"{said.statement}: {refused}"
            _usable(connection, said.statement)


def _refusal(connection: psycopg.Connection[tuple[object, ...]], statement: str, extended: bool) -> str | None:
    """DETAIL when dbshield refused the statement. What the server says of it (no such table) is none of its business."""
    try:
        connection.cursor(binary=extended).execute(statement.encode())
    except psycopg.Error as error:
        if not connection.broken and (error.diag.message_primary or "").startswith("dbshield"):
            return error.diag.message_detail or ""
    return None


def _usable(connection: psycopg.Connection[tuple[object, ...]], statement: str) -> None:
    """The session goes on as pinned, after a statement that passed and after one that did not."""
    assert not connection.broken, statement
    connection.execute("rollback")
    assert connection.info.transaction_status is TransactionStatus.IDLE
    connection.execute("reset all")
    settings = connection.execute("select current_setting('client_encoding'), current_setting('standard_conforming_strings')")
    assert settings.fetchone() == ("UTF8", "on"), statement
    assert connection.execute("show session_replication_role").fetchone() == ("origin",)
