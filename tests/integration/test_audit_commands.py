"""`dbshield audit` as somebody types it, on a real control database."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from support.control import tables_database
from support.servers import Server
from support.waiting import until

from dbshield.cli.main import run
from dbshield.control.audit_store import record
from dbshield.store.database import Database

AT = datetime(2026, 5, 3, 3, 9, 37, 123456, tzinfo=UTC)
HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "audit.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    code: int
    out: str
    err: str


Call = Callable[..., Result]


@pytest.fixture
def dsn(server18: Server) -> Iterator[str]:
    with tables_database(server18) as dsn:
        yield dsn


@pytest.fixture
def audit(dsn: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """`dbshield audit` of an installation with three entries of its own, besides what `init` may have written."""
    config = tmp_path / "dbshield.toml"
    config.write_text(f'state = "{tmp_path / "state"}"\n[control]\nurl = "{dsn}"\n', encoding="utf-8")
    assert run(["init", "--config", str(config)]) == 0
    database = Database(dsn)
    try:
        record(
            database, kind="statement", at=AT, agent="claude", environment="staging", verdict="hold", rules=["DS101"],
            statement="drop table\n\x1b[31morders", effects=["drop table orders"],
        )  # fmt: skip
        record(database, kind="statement", at=AT, agent="claude", environment="staging", verdict="allow", rules=[],
               statement="select $1", effects=[], repeats=7, until="2026-05-03T03:09:38.123456Z")  # fmt: skip
        record(database, kind="executed", person="ann", environment="staging", approval="apr-abcd2345")
    finally:
        database.close()

    def call(*words: str) -> Result:
        capfd.readouterr()
        code = run(["audit", *words, "--config", str(config)])
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return Result(code=code, out=said.out, err=said.err)

    return call


def test_search_and_tail_show_a_line_each(audit: Call) -> None:
    found = audit("search", "--agent", "claude")
    assert found.code == 0
    first, second = found.out.splitlines()
    assert first.split("  ", 1)[1].lstrip().endswith(r"statement  claude.staging  hold DS101  drop table \x1b[31morders")
    assert "2026-05-03T03:09:37.123Z" in first
    assert second.endswith("allow  7 times  select $1")
    (newest,) = audit("tail", "-n", "1").out.splitlines()
    assert newest.endswith("executed  ann in staging  approval=apr-abcd2345")


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--rule", "DS1xx"], 1),
        (["--verdict", "allow"], 1),
        (["--text", "ORDERS"], 1),
        (["--kind", "executed", "--since", "1h"], 1),
        (["--kind", "statement", "--since", "1h"], 0),
        (["--kind", "statement", "--until", "2026-05-03T03:09:37.2+00:00"], 2),
        (["--agent", "claude", "--limit", "1"], 1),
        (["--agent", "nobody"], 0),
    ],
)
def test_filters(audit: Call, words: list[str], count: int) -> None:
    found = audit("search", *words, "--json")
    assert found.code == (0 if count else 1)
    assert len(found.out.splitlines()) == count
    assert all(json.loads(line)["entry"]["event"] for line in found.out.splitlines())
    assert count or "no such entry" in found.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["search", "--rule", "DS999"], "is no rule"),
        (["search", "--verdict", "maybe"], "is no verdict"),
        (["search", "--kind", "brake-glass"], 'Did you mean "break-glass"?'),
        (["export", "--kind", "everything"], "There are: connected, statement, "),
        (["search", "--since", "yesterday"], "is no time"),
        (["export", "--json", "--format", "csv"], "contradict"),
        (["verify", "--checkpoint", "absent.json"], "cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_said(audit: Call, words: list[str], told: str) -> None:
    found = audit(*words)
    assert (found.code, told in found.err, found.out) == (2, True, "")


def test_verify_and_checkpoints(audit: Call, dsn: str, tmp_path: Path) -> None:
    fine = audit("verify")
    assert fine.code == 0
    assert re.fullmatch(r"The chain is whole: \d+ entries, 1 to \d+\.\n", fine.out)
    made = audit("checkpoint", "--json")
    kept = tmp_path / "checkpoint.json"
    kept.write_text(made.out, encoding="utf-8")
    assert json.loads(made.out)["public_key"] in audit("checkpoint").out
    assert "is the one of the checkpoint" in audit("verify", "--checkpoint", str(kept)).out
    other = audit("verify", "--checkpoint", str(kept), "--public-key", "00" * 32)
    assert (other.code, "not signed with this key" in other.err) == (2, True)
    kept.write_text(made.out.replace('"position": ', '"position": 1'), encoding="utf-8")
    assert audit("verify", "--checkpoint", str(kept)).code == 2
    with psycopg.connect(dsn) as connection:
        connection.execute("set local session_replication_role = replica")
        connection.execute(
            "update dbshield.audit set entry = replace(entry, 'ann', 'bob'), person = 'bob' where kind = 'executed'"
        )
    broken = audit("verify", "--json")
    said = json.loads(broken.out)
    assert (broken.code, said["verdict"], [fault["kind"] for fault in said["faults"]]) == (1, "broken", ["changed"])
    assert "was changed" in audit("verify").out


def test_an_export_can_be_checked_by_the_program_of_the_page(audit: Call) -> None:
    exported = audit("export").out
    (program,) = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), flags=re.DOTALL)

    def check(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program], input=text, capture_output=True, text=True, check=False)

    newest = json.loads(exported.splitlines()[-1])
    assert check(exported).stdout == f"{newest['id']} {newest['hash']}\n"
    assert "was changed" in check(exported.replace('"ann"', '"bob"')).stderr


def test_csv_has_a_row_each(audit: Call) -> None:
    found = list(csv.DictReader(io.StringIO(audit("export", "--format", "csv", "--agent", "claude").out)))
    assert [(row["verdict"], row["rules"], row["at"]) for row in found] == [
        ("hold", "DS101", "2026-05-03T03:09:37.123456Z"),
        ("allow", "", "2026-05-03T03:09:37.123456Z"),
    ]
    assert json.loads(found[0]["entry"])["statement"] == "drop table\n\x1b[31morders"


def test_tail_goes_on_with_what_comes(audit: Call, dsn: str, tmp_path: Path) -> None:
    program = "import sys; from dbshield.cli import main; sys.exit(main())"
    words = ["audit", "tail", "-f", "-n", "1", "--json", "--config", str(tmp_path / "dbshield.toml")]
    out = tmp_path / "followed.jsonl"
    with out.open("w") as stream:
        process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=stream)
    try:
        assert until(lambda: len(out.read_text().splitlines()) == 1)
        database = Database(dsn)
        try:
            record(database, kind="drill", environment="staging")
        finally:
            database.close()
        assert until(lambda: len(out.read_text().splitlines()) == 2)
        assert [json.loads(line)["entry"]["event"] for line in out.read_text().splitlines()] == ["executed", "drill"]
    finally:
        process.terminate()
        process.wait(30)


def test_every_command_has_help_with_an_example() -> None:
    for command in ("tail", "search", "export", "verify", "checkpoint"):
        told = io.StringIO()
        with redirect_stdout(told):
            assert run(["audit", command, "--help"]) == 0
        assert f"dbshield audit {command}" in told.getvalue().split("Example", 1)[1]
