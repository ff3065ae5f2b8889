"""`dbshield policy`: what holds and where it comes from, and cases that a team runs in CI."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.control import NOW

from dbshield.cli.main import run
from dbshield.config import load_config
from dbshield.control.effective import verdicts
from dbshield.control.policies import policy_at
from dbshield.model import AccessLevel
from dbshield.policy.catalogue import RULES
from dbshield.policy.policy import Policy

FINE, NO, WRONG = 0, 1, 2

TOML = """
state = "absent"

[environments.staging]
upstream = "postgresql://app@127.0.0.1/shop"
mode = "observe"
frozen = true

[environments.production]
upstream = "postgresql://app@127.0.0.1/shop"
max_rows = 7
max_rows_per_hour = 0
protected = ["billing.*"]
functions_allowed = ["shop.close_month"]
overrides = [
  {rule = "DS2xx", verdict = "allow", objects = ["shop.cart"]},
  {rule = "DS5xx", verdict = "deny"},
  {rule = "DS101", verdict = "allow", agents = ["robot"]},
  {rule = "DS9xx", verdict = "deny"},
]

[environments.production.agents.claude]
max_rows = 3
protected = ["shop.users"]
overrides = [{rule = "DS201", verdict = "limit"}]
"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def policy(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs `dbshield policy` with the configuration above; its exit code, answer and remarks."""
    (tmp_path / "dbshield.toml").write_text(TOML, encoding="utf-8")

    def call(*words: str) -> tuple[int, str, str]:
        code = run(["policy", *words, "--config", str(tmp_path / "dbshield.toml")])
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return call


def shown(policy: Command, *words: str) -> Any:
    code, out, _ = policy("show", *words, "--json")
    assert code == FINE
    return json.loads(out)


def rule(tree: Any, wanted: str) -> list[tuple[str, list[str], str]]:
    (found,) = (one for one in tree["rules"] if one["rule"] == wanted)
    return [(one["verdict"], one["objects"], one["from"]) for one in found["verdicts"]]


def test_the_defaults_are_every_rule_as_it_was_born(policy: Command) -> None:
    tree = shown(policy)
    assert [one["rule"] for one in tree["rules"]] == [one.id for one in RULES]
    assert {one["from"] for entry in tree["rules"] for one in entry["verdicts"]} <= {"default", "access level"}
    assert tree["warnings"] == []
    assert (tree["max_rows"], tree["frozen"], tree["access"]) == ({"value": 100, "from": "default"}, None, "migrate")


def test_each_setting_says_where_it_comes_from(policy: Command) -> None:
    tree = shown(policy, "-e", "production", "--agent", "claude", "-a", "write")
    assert tree["max_rows"] == {"value": 3, "from": "agent"}
    assert tree["max_rows_per_hour"] == {"value": 0, "from": "environment"}
    assert tree["mode"] == {"value": "enforce", "from": "default"}
    assert tree["protected"] == [{"value": "billing.*", "from": "environment"}, {"value": "shop.users", "from": "agent"}]
    assert tree["functions_allowed"] == [{"value": "shop.close_month", "from": "environment"}]
    assert shown(policy, "-e", "production")["max_rows"] == {"value": 7, "from": "environment"}


def test_each_rule_has_its_verdicts_in_the_order_in_which_they_are_asked(policy: Command) -> None:
    tree = shown(policy, "-e", "production", "--agent", "claude")
    assert rule(tree, "DS201") == [("limit", [], "agent")], "what is behind one for all objects never speaks"
    assert rule(tree, "DS202") == [("limit", ["shop.cart"], "environment"), ("hold", [], "default")], "rows are counted still"
    assert rule(tree, "DS203") == [("allow", ["shop.cart"], "environment"), ("hold", [], "default")]
    assert rule(tree, "DS210") == [("hold", [], "default")], "never loosened"
    assert rule(tree, "DS501") == [("deny", [], "environment")]
    assert rule(tree, "DS101") == [("hold", [], "default")]
    robot = shown(policy, "-e", "production", "--agent", "robot")
    assert rule(robot, "DS101") == [("allow", [], "environment")]


def test_what_is_weaker_is_said(policy: Command) -> None:
    warnings = shown(policy, "-e", "production", "--agent", "claude")["warnings"]
    assert warnings[:3] == [
        "max_rows_per_hour is 0: no bound on the rows of a table in an hour",
        "shop.close_month may be called although it may change rows",
        "DS201 rows.unbounded-delete is limit instead of hold",
    ]
    assert "DS202 rows.unbounded-update on shop.cart is limit instead of hold" in warnings
    assert not [sentence for sentence in warnings if sentence.startswith(("DS5", "DS9"))], "what is harder is no warning"
    assert shown(policy, "-e", "staging")["warnings"][0] == "mode is observe: nothing is stopped, only recorded"


def test_a_rule_that_is_silent_at_an_access_level_is_shown_so() -> None:
    for access in AccessLevel:
        found = {one.rule: one for one in verdicts(Policy(access=access))}
        for one in RULES:
            silent = access in one.passes
            assert (found[one.id].verdict, found[one.id].source) == (
                ("allow", "access level") if silent else (one.verdict.word, "default")
            )
            assert not found[one.id].weakened


def test_a_freeze_of_the_configuration_is_shown(policy: Command) -> None:
    frozen = shown(policy, "-e", "staging")["frozen"]
    assert (frozen["from"], frozen["until"]) == ("environment", None)
    _, out, err = policy("show", "-e", "staging")
    assert "until somebody lifts it" in out
    assert "not asked whether somebody froze it" in err, "there is no control database here"


def test_people_read_a_table(policy: Command) -> None:
    code, out, _ = policy("show", "-e", "production", "-a", "read")
    assert code == FINE
    lines = out.splitlines()
    assert lines[0] == "production, access level read"
    assert [line.split() for line in lines if line.startswith("DS202")] == [
        ["DS202", "rows.unbounded-update", "limit", "shop.cart", "environment,", "weaker"],
        ["DS202", "rows.unbounded-update", "hold", "-", "default"],
    ]
    assert "weaker: max_rows_per_hour is 0: no bound on the rows of a table in an hour" in lines


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-e", "prodution"], 'Did you mean "production"?'),
        (["--agent", "claude"], "--environment as well"),
        (["--access", "root"], "'read', 'write', 'migrate'"),
    ],
)
def test_what_is_not_there(words: list[str], said: str, policy: Command) -> None:
    code, out, err = policy("show", *words)
    assert (code, out) == (WRONG, "")
    assert said in err


@pytest.fixture
def cases(tmp_path: Path, policy: Command) -> Callable[..., tuple[int, str, str]]:
    """Runs `dbshield policy test` on some cases."""

    def call(lines: list[dict[str, Any]], *words: str) -> tuple[int, str, str]:
        file = tmp_path / "cases.jsonl"
        file.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
        return policy("test", str(file), *words)

    return call


DELETE = {"id": "d", "sql": "delete from shop.cart", "expect": "hold"}


def test_cases_that_are_as_expected(cases: Command) -> None:
    code, out, _ = cases(
        [
            DELETE | {"rule": "DS201"},
            DELETE | {"id": "family", "rule": "DS2xx"},
            DELETE | {"id": 3, "environment": "production", "expect": "limit", "why": "carts come and go"},
            DELETE | {"id": 4, "environment": "production", "agent": "claude", "expect": "limit"},
            DELETE | {"id": 5, "access": "read", "expect": "deny", "rule": "DS301"},
            {"id": None, "sql": "select 1", "expect": "allow"},
        ]
    )
    assert (code, out) == (FINE, "6 cases, 0 not as expected\n")


def test_what_is_not_as_expected_is_a_table(cases: Command, tmp_path: Path) -> None:
    lines = [DELETE, DELETE | {"id": 2, "expect": "allow"}, DELETE | {"id": 3, "rule": "DS101"}]
    code, out, _ = cases(lines)
    assert code == NO
    assert [line.split() for line in out.splitlines()] == [
        ["CASE", "WHERE", "EXPECTED", "VERDICT", "RULES"],
        ["2", f"{tmp_path}/cases.jsonl:2", "allow", "hold", "DS201"],
        ["3", f"{tmp_path}/cases.jsonl:3", "hold,", "DS101", "hold", "DS201"],
        ["3", "cases,", "2", "not", "as", "expected"],
    ]
    code, out, _ = cases(lines, "--json")
    value = json.loads(out)
    assert (code, value["cases"], [one["id"] for one in value["failed"]]) == (NO, 3, [2, 3])
    assert value["failed"][0] == {
        "id": 2,
        "where": f"{tmp_path}/cases.jsonl:2",
        "sql": DELETE["sql"],
        "expect": "allow",
        "rule": None,
        "verdict": "hold",
        "rules": ["DS201"],
    }


def test_what_cases_do_not_say_stands_on_the_command_line(cases: Command) -> None:
    assert cases([DELETE | {"expect": "limit"}], "-e", "production", "--agent", "claude")[0] == FINE
    assert cases([DELETE | {"expect": "deny"}], "--access", "read")[0] == FINE


def test_an_environment_that_only_observes_is_tested_as_if_it_did_not(cases: Command) -> None:
    """And a freeze, which comes and goes, changes no answer."""
    insert = {"id": 2, "sql": "insert into shop.cart values (1)", "expect": "allow"}
    assert cases([DELETE, insert], "-e", "staging")[1] == "2 cases, 0 not as expected\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (DELETE | {"expected": "hold"}, '"expected" is no key of a case'),
        ({"id": 1, "sql": "select 1"}, '"expect" is none of'),
        (DELETE | {"expect": "maybe"}, '"expect" is none of'),
        (DELETE | {"expect": ["hold"]}, '"expect" is none of'),
        (DELETE | {"rule": "DS999"}, '"rule" is no rule'),
        (DELETE | {"rule": 201}, '"rule" is no rule'),
        (DELETE | {"access": "root"}, '"access" is none of'),
        (DELETE | {"agent": 7}, "are names"),
        (DELETE | {"id": 2, "environment": "nowhere"}, '"nowhere" is not configured'),
        (DELETE | {"id": 2, "agent": "claude"}, "--environment as well"),
        (DELETE, "is used twice"),
        ({"sql": "select 1", "expect": "allow"}, 'no "id"'),
    ],
)
def test_a_case_that_is_none_is_no_verdict(line: dict[str, Any], said: str, cases: Command, tmp_path: Path) -> None:
    code, out, err = cases([DELETE, line])
    assert (code, out) == (WRONG, "")
    assert said in err
    assert "cases.jsonl" in err


def test_a_file_without_cases_tests_nothing(cases: Command, policy: Command, tmp_path: Path) -> None:
    assert cases([])[0] == WRONG
    assert "there are no cases" in cases([])[2]
    assert policy("test", str(tmp_path / "absent"))[0] == WRONG
    assert policy("test")[0] == WRONG


def test_cases_from_standard_input(policy: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(DELETE).encode())))
    assert policy("test", "-")[:2] == (FINE, "1 case, 0 not as expected\n")


def test_the_policy_shown_is_the_policy_that_judges(policy: Command, tmp_path: Path) -> None:
    found = load_config(tmp_path / "dbshield.toml").environments["production"]
    effective = policy_at(found, agent="claude", access=AccessLevel.WRITE, freeze=None, now=NOW)
    tree = shown(policy, "-e", "production", "--agent", "claude", "-a", "write")
    assert tree["max_rows"]["value"] == effective.max_rows
    assert [one["value"] for one in tree["protected"]] == [str(pattern) for pattern in effective.protected]
