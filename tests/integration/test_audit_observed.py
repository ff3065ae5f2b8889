"""Finding what a policy that only observes would have stopped."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.control import registered, tables_database
from support.servers import Server

from dbshield.cli.main import run
from dbshield.console.audit_lines import line_of
from dbshield.control.audit_read import Filter, newest
from dbshield.control.audit_store import Entry, append

AT = datetime(2026, 5, 3, tzinfo=UTC)


def test_what_would_have_been_held_is_found_and_nothing_that_says_so_of_itself(
    server18: Server, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shared = {"environment": "staging", "agent": "claude", "verdict": "allow"}
    entries = [
        Entry(
            at=AT, kind="statement", fields=shared | {"statement": "delete from orders", "observed": "hold", "rules": ["DS201"]}
        ),
        Entry(at=AT, kind="statement", fields=shared | {"statement": 'select \'"observed":"hold"\'', "rules": []}),
        Entry(at=AT, kind="statement", fields=shared | {"statement": "select 1", "observed": None, "rules": []}),
        Entry(at=AT, kind="statement", fields=shared | {"statement": "select 2", "observed": "allow", "rules": []}),
    ]
    with tables_database(server18) as dsn:
        with registered(dsn) as database:
            with database.transaction() as connection:
                append(connection, entries)
            [found] = newest(database, Filter(observed=True), 10)
        assert (line_of(found).verdict, line_of(found).observed) == ("allow", "hold")
        config = tmp_path / "dbshield.toml"
        config.write_text(f'state = "{tmp_path / "state"}"\n[control]\nurl = "{dsn}"\n', encoding="utf-8")
        assert run(["audit", "search", "--observed", "--config", str(config)]) == 0
        assert "allow DS201, would hold  delete from orders" in capfd.readouterr().out
        assert run(["audit", "export", "--observed", "--config", str(config)]) == 0
        [line] = capfd.readouterr().out.splitlines()
        assert json.loads(line)["entry"]["observed"] == "hold"
        assert run(["audit", "search", "--observed", "--agent", "nobody", "--config", str(config)]) == 1
