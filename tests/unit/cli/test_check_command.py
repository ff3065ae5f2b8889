"""`dbshield check`: verdicts for people, for machines, and line by line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import pytest
from support.commands import Command

from dbshield.cli.judging import judge_by
from dbshield.cli.main import run
from dbshield.model import AccessLevel
from dbshield.policy.policy import DEFAULT_MAX_ROWS, DEFAULT_MAX_ROWS_PER_HOUR, Policy
from dbshield.session.refusal import refusal
from dbshield.wire.backend import ErrorResponse

FINE, STOPPED, NO_VERDICT = 0, 1, 2


def check(*arguments: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    with Command(["check", *arguments], stdin=PIPE, stdout=PIPE, stderr=PIPE) as command:
        out, err = command.communicate(text, timeout=60)
    return subprocess.CompletedProcess(command.args, command.returncode, out, err)


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
    with Command(["check", "--jsonl"], stdin=PIPE, stdout=PIPE) as process:
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


ENVIRONMENTS = """
[environments.staging]
upstream = "postgresql://app@127.0.0.1/shop"
mode = "observe"

[environments.production]
upstream = "postgresql://app@127.0.0.1/shop"
max_rows = 7
max_rows_per_hour = 0
protected = ["billing.*"]
overrides = [{rule = "DS201", verdict = "limit", objects = ["shop.cart"]}]

[environments.production.agents.claude]
max_rows = 3
"""


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., None]:
    """Judges one text by the policies of a dbshield.toml, and answers in JSON."""
    file = tmp_path / "dbshield.toml"
    file.write_text(ENVIRONMENTS, encoding="utf-8")

    def judged(sql: str, *arguments: str) -> None:
        (tmp_path / "text.sql").write_text(sql, encoding="utf-8")
        run(["check", str(tmp_path / "text.sql"), "--config", str(file), "--json", *arguments])

    return judged


@pytest.mark.parametrize(
    ("sql", "arguments", "verdict", "rules"),
    [
        ("delete from shop.cart", ["-e", "production"], "limit", ["DS201"]),
        ("delete from shop.orders", ["-e", "production"], "hold", ["DS201"]),
        ("insert into billing.invoices values (1)", ["-e", "production"], "hold", ["DS210"]),
        ("insert into billing.invoices values (1)", [], "allow", []),
        ("drop table shop.orders", ["-e", "staging"], "allow", ["DS101"]),
        ("update shop.orders set a = 1 where id = 2", ["-e", "production", "-a", "read"], "deny", ["DS301"]),
    ],
)
def test_the_policy_of_an_environment(
    sql: str,
    arguments: list[str],
    verdict: str,
    rules: list[str],
    configured: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    configured(sql, *arguments)
    value = json.loads(capfd.readouterr().out)
    assert value["verdict"] == verdict
    assert [finding["rule"] for finding in value["findings"]] == rules


def test_the_limits_of_an_agent(configured: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    configured("select 1; delete from shop.orders where id = 1", "-e", "production", "--agent", "claude")
    value = json.loads(capfd.readouterr().out)
    assert (value["max_rows"], value["max_rows_per_hour"], value["counted"]) == (3, 0, [1])
    configured("delete from shop.orders where id = 1", "-e", "production")
    assert json.loads(capfd.readouterr().out)["max_rows"] == 7


def test_what_a_policy_only_observes(configured: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    configured("drop table shop.orders", "-e", "staging")
    value = json.loads(capfd.readouterr().out)
    assert (value["verdict"], value["observed"], value["agent_reads"]) == ("allow", "hold", None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--agent", "claude"], "--environment as well"),
        (["-e", "produktion"], 'Did you mean "production"?'),
        (["-e", "nowhere"], "There are: staging, production."),
    ],
)
def test_a_policy_that_is_not_there(
    arguments: list[str], said: str, configured: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    configured("select 1", *arguments)
    assert said in capfd.readouterr().err


def test_both_readers_side_by_side() -> None:
    done = check(text=b"delete from orders where id = 1; select 1 from carts")
    lines = [line.split("  ") for line in done.stdout.decode().splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert ["1", "delete", "delete table orders bounded", "delete table orders bounded", "yes"] in cells
    assert ["2", "select", "read table carts", "select", "not asked"] in cells
    limits = f"at most {DEFAULT_MAX_ROWS} rows in a transaction, and {DEFAULT_MAX_ROWS_PER_HOUR} rows of a table in an hour"
    assert f"counted: statement 1; {limits}" in done.stdout.decode()


def test_readers_that_differ() -> None:
    """One of those sqlglot cannot read: the write is stopped, and the answer shows who failed."""
    done = check("--json", text=b"update t set a = xmlparse(document '<a/>') where b = 1")
    value = json.loads(done.stdout)
    if value["readers"][0]["agree"]:
        pytest.fail("sqlglot reads this now; take another text that it does not")
    assert value["verdict"] in {"hold", "deny"}
    assert value["readers"][0]["fault"]


def test_what_the_agent_reads_is_what_the_proxy_says() -> None:
    judgement = judge_by(Policy(access=AccessLevel.WRITE)).judge(b"drop table orders")
    value = json.loads(check("--json", "--access", "write", text=b"drop table orders").stdout)
    error = ErrorResponse.decode(refusal(judgement)[5:])
    assert value["agent_reads"] == {
        "sqlstate": "42501",
        "message": error.message,
        "detail": error.detail,
        "hint": error.hint,
    }
    done = check("--access", "write", text=b"drop table orders").stdout.decode()
    assert f"  ERROR:  {error.message}\n  DETAIL:  {error.detail}\n  HINT:  {error.hint}\n" in done


@pytest.mark.parametrize("text", [b"selec", b"select '\x00'", b"select 1 \xff", b"select\xc2\xa01"])
def test_what_cannot_be_read_is_explained(text: bytes) -> None:
    done = check("--json", text=text)
    value = json.loads(done.stdout)
    assert done.returncode == STOPPED
    assert value["fault"]
    assert value["readers"] == []
    assert value["findings"][0]["rule"].startswith("DS9")


def test_a_text_that_is_too_long_is_not_read_at_all() -> None:
    done = check("--json", text=b"select 1 " + b" " * (1 << 20))
    value = json.loads(done.stdout)
    assert [finding["rule"] for finding in value["findings"]] == ["DS905"]
    assert value["readers"] == []


def test_a_name_cannot_steer_the_terminal_of_whoever_reads_it() -> None:
    done = check(text='drop table "\x1b[2J\x1b]0;fine\x07", "\u202ea"'.encode())
    assert done.returncode == STOPPED
    out = done.stdout.decode()
    assert "\\x1b[2J" in out
    assert "\\u202ea" in out
    assert all(sign.isprintable() or sign == "\n" for sign in out)


def test_a_long_script_is_judged_whole_and_shown_in_part() -> None:
    script = b"select 1;\n" * 150 + b"drop table orders"
    done = check(text=script)
    assert (done.returncode, done.stderr) == (STOPPED, b"")
    out = done.stdout.decode()
    assert "hold: 151 statements" in out
    assert "and 51 statements more; --json has them all" in out
    assert len(json.loads(check("--json", text=script).stdout)["readers"]) == 151


def test_nothing_at_all() -> None:
    done = check(text=b" ; -- nothing")
    assert done.returncode == FINE
    assert done.stdout.decode().startswith("allow: 0 statements\n")
    assert done.stderr == b"There is nothing in it.\n"
