"""What a stopped agent reads leads it to the right next act, in words that need no knowledge of dbshield."""

from __future__ import annotations

import re

import pytest

from dbshield.model import AccessLevel, Finding
from dbshield.policy.catalogue import RULES
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.policy.rules.base import MAX_TEXT, Rule
from dbshield.policy.rules.examples import examples

VERBS = re.findall(
    r"\w+",
    "Add Ask Call Change Commit Compare Correct Create Do Find Give Go Keep Leave Lock Look Name Narrow Nest Prepare Reconnect "
    "Refresh Run Send Tell Use Wait Work Write",
)
"""A hint tells what to do, so it begins with one of these."""

JARGON = re.compile(
    r"\b(shield|effects?|findings?|verdicts?|readers?|judge\w*|unbounded|bound(ed)?|upstream|guards?|hidden)\b", re.I
)
"""Words that mean something only to those who build dbshield. `cannot be judged` is plain English."""
PLAIN = ("cannot be judged",)


def findings(rule: Rule) -> list[Finding]:
    """What the rule says of its own examples."""
    found = []
    for access, text in examples(type(rule)).stopped:
        policy = Policy(access=access, **rule.given)
        judgement = Judge(policy=policy, functions=FunctionCatalogue.builtin()).judge(text.encode())
        found += [finding for finding in judgement.findings if finding.rule == rule.id]
    return found


def said(rule: Rule) -> set[str]:
    return {finding.hint for finding in findings(rule)} | ({rule.hint} - {""})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_hint_says_what_to_do(rule: Rule) -> None:
    hints = said(rule)
    assert hints
    for hint in hints:
        assert len(hint) <= MAX_TEXT
        assert hint.split()[0] in VERBS
        assert hint.endswith(".")
        plain = hint
        for words in PLAIN:
            plain = plain.replace(words, "")
        assert JARGON.search(plain) is None
        assert "  " not in hint


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_message_names_its_rule(rule: Rule) -> None:
    for finding in findings(rule):
        assert finding.message.startswith(f"{rule.id} {rule.name}: ")
        assert len(finding.message) <= MAX_TEXT
        assert "\n" not in finding.message


def hint(text: str, rule: str, access: AccessLevel = AccessLevel.MIGRATE, *, max_rows: int = 25) -> str:
    judge = Judge(policy=Policy(access=access, max_rows=max_rows), functions=FunctionCatalogue.builtin())
    return next(finding.hint for finding in judge.judge(text.encode()).findings if finding.rule == rule)


@pytest.mark.parametrize(
    ("text", "rule", "words"),
    [
        ("delete from shop.orders", "DS201", ["DELETE FROM shop.orders WHERE", "25 rows", "ask a human"]),
        ("delete from orders o using customers c", "DS201", ["DELETE FROM orders WHERE"]),
        ("update orders set a = 1", "DS202", ["UPDATE orders SET", "25 rows"]),
        ("merge into orders o using n on true when matched then delete", "DS201", ["in ON", "orders"]),
        ("truncate orders", "DS203", ["DELETE with a WHERE", "pg_temp.orders"]),
        ("truncate shop.orders", "DS203", ["25 rows of shop.orders"]),
        ("drop table scratch", "DS101", ["DROP TABLE pg_temp.scratch", "ask a human"]),
        ("drop table shop.orders cascade", "DS101", ["shop.orders", "one by one"]),
        ("drop function f()", "DS101", ["Leave f in place"]),
        ("alter table orders drop column a", "DS104", ["Ask a human"]),
        ("set session_replication_role = replica", "DS405", ["session_replication_role", "triggers"]),
        ("select set_config($1, $2, false)", "DS304", ["constants"]),
        ("set role app_owner", "DS303", ["current_user"]),
        ("load 'auto_explain'", "DS305", ["library"]),
        ("copy t from '/tmp/x'", "DS305", ["COPY … FROM STDIN"]),
        ("select pg_terminate_backend(1)", "DS505", ["pg_stat_activity"]),
    ],
)
def test_a_hint_names_the_next_act(text: str, rule: str, words: list[str]) -> None:
    given = hint(text, rule)
    for word in words:
        assert word in given


def test_a_level_that_is_too_low_is_told_what_it_may_do() -> None:
    given = hint("insert into orders values (1)", "DS301", AccessLevel.READ)
    assert "run queries" in given
    assert "write" in given


def test_long_names_leave_room_for_the_advice() -> None:
    name = f'"{"x" * 63}"."{"y" * 63}"'
    for text, rule in ((f"delete from {name}", "DS201"), (f"update {name} set a = 1", "DS202"), (f"truncate {name}", "DS203")):
        assert hint(text, rule).endswith(".")


def test_no_protected_name_is_told_that_the_statement_does_not_hold() -> None:
    rule = next(rule for rule in RULES if rule.id == "DS210")
    told = " ".join(f"{finding.message} {finding.hint}" for finding in findings(rule) if finding.effect is not None)
    assert "billing.*" not in told
    assert "shop.ledger if" not in told
