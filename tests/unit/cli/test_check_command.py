"""`dbshield check`: verdicts for people, for machines, and line by line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dbshield.cli.main import run

FINE, STOPPED, NO_VERDICT = 0, 1, 2


def check(*arguments: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", "from dbshield.cli.main import main; main()", "check", *arguments]
    return subprocess.run(command, input=text, capture_output=True, timeout=60, check=False)


def test_an_allowed_text() -> None:
    done = check("--access", "read", text=b"select * from orders")
    assert done.returncode == FINE
    assert done.stdout.decode().splitlines()[0] == "allow: 1 statement"


def test_a_stopped_text_says_what_to_do_instead() -> None:
    done = check(text=b"select 1; delete from orders")
    assert done.returncode == STOPPED
    assert "hold: 2 statements" in done.stdout.decode()
    assert "DS201" in done.stdout.decode()
    assert "Name the rows" in done.stdout.decode()


def test_json() -> None:
    done = check("--json", text=b"drop table shop.orders cascade")
    assert done.returncode == STOPPED
    value = json.loads(done.stdout)
    assert value["verdict"] == "hold"
    assert [finding["rule"] for finding in value["findings"]] == ["DS101"]
    assert value["effects"] == [{"operation": "drop", "kind": "table", "name": "shop.orders", "flags": ["cascade"]}]


def test_a_line_for_each_line_in_order() -> None:
    lines = [
        {"id": "a", "sql": "select 1"},
        {"id": 2, "sql": "truncate t"},
        {"id": None, "sql": ""},
        {"id": "d", "sql": "\ud800 select"},
        {"id": "e", "sql": "select 1\u0000"},
    ]
    text = "\n".join(json.dumps(line) for line in lines) + "\n\n"
    done = check("--jsonl", "--access", "write", text=text.encode())
    assert done.returncode == STOPPED
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == ["a", 2, None, "d", "e"]
    assert [answer["verdict"] for answer in answers] == ["allow", "hold", "allow", "deny", "deny"]
    assert set(answers[1]["findings"][0]) >= {"rule", "name", "message"}


def test_answers_come_as_the_lines_do() -> None:
    """Whoever asks may wait for an answer before the next question."""
    command = [sys.executable, "-c", "from dbshield.cli.main import main; main()", "check", "--jsonl"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(b'{"id": %d, "sql": "select 1"}\n' % number)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == number
        process.stdin.close()
        assert process.wait(timeout=30) == FINE


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b'{"id": 1}', b'{"sql": "select 1"}', b'{"id": 1, "sql": 5}', b"\xff"])
def test_a_bad_line_is_named(line: bytes) -> None:
    done = check("--jsonl", text=b'{"id": 1, "sql": "select 1"}\n' + line + b"\n")
    assert done.returncode == NO_VERDICT
    assert b"line 2" in done.stderr


def test_a_file_and_its_absence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "migration.sql"
    file.write_text("alter table t add column a text;\nalter table t drop column b;\n")
    assert run(["check", str(file)]) == STOPPED
    assert "DS104" in capfd.readouterr().out
    assert run(["check", str(tmp_path / "none.sql")]) == NO_VERDICT
    assert run(["check", str(tmp_path)]) == NO_VERDICT
    assert "none.sql" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [["--acces", "read"], ["--access", "root"], ["a", "b"]])
def test_wrong_usage(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["check", *arguments]) == NO_VERDICT
    assert capfd.readouterr().err


def test_help_has_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--help"]) == FINE
    assert "dbshield check --jsonl" in capfd.readouterr().out
