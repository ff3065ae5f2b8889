"""A verification only reads, unless it is asked to write down what it found."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from support.control import empty_database
from support.servers import Server

from dbshield.cli.main import run
from dbshield.control.audit_search import chain
from dbshield.control.audit_store import record
from dbshield.store.database import Database


def test_a_verification_is_written_down_where_it_is_wanted(
    server18: Server, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "dbshield.toml"

    def verify(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(["audit", "verify", *words, "--config", str(config)])
        said = capfd.readouterr()
        return code, said.out, said.err

    with empty_database(server18) as dsn:
        config.write_text(f'state = "{tmp_path / "state"}"\n[control]\nurl = "{dsn}"\n', encoding="utf-8")
        assert run(["init", "--config", str(config)]) == 0
        database = Database(dsn)
        try:
            number = record(database, kind="executed", environment="staging", approval="apr-abcd2345")
            assert verify()[0] == 0
            assert chain(database).verified is None

            code, out, _ = verify("--record", "--json")
            assert (code, json.loads(out)["recorded"]) == (0, True)
            verified = chain(database).verified
            assert verified is not None
            assert (verified.last, verified.faults, bool(verified.person)) == (number, (), True)

            with psycopg.connect(dsn, autocommit=True) as admin:
                read_only = "alter database {} set default_transaction_read_only = on"
                admin.execute(sql.SQL(read_only).format(sql.Identifier(admin.info.dbname)))
            assert verify()[0] == 0
            code, out, error = verify("--record")
            assert (code, "The chain is whole" in out, "could not be written into the audit" in error) == (2, True, True)
            assert "Traceback" not in error
        finally:
            database.close()
