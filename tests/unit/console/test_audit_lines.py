"""The values of a statement on the console: on the line of its entry, and one a line on the entry's own page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from dbshield.console.audit_lines import line_of, said_in
from dbshield.console.pages.audit import _fields
from dbshield.control.audit_chain import Link

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def link(**said: Any) -> Link:
    return Link(
        id=7,
        recorded_at=NOW,
        at=NOW,
        kind="statement",
        environment="staging",
        agent="claude",
        database="shop",
        session=1,
        person=None,
        verdict="allow",
        rules=(),
        writer=None,
        sequence=None,
        entry=json.dumps({"ts": "", "event": "statement", **said}),
        hash=bytes(32),
    )


def test_values_are_shown_with_their_statement() -> None:
    found = link(statement="select $1, $2", parameters=["it's", {"binary": "2a", "type": 23}], parameters_left_out=3)
    assert line_of(found).what == "select $1, $2 $1 = 'it''s', $2 = '\\x2a' of type 23, and 3 more"
    fields = dict(_fields(said_in(found)))
    assert fields["parameters"] == ["$1 = 'it''s'", "$2 = '\\x2a' of type 23", "and 3 more"]


def test_a_statement_without_values_is_a_statement() -> None:
    found = link(statement="select 1")
    assert line_of(found).what == "select 1"
    assert "parameters" not in dict(_fields(said_in(found)))
