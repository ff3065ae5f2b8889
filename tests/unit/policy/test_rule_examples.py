"""Every rule does what its docstring says, and the catalogue keeps its own laws."""

from __future__ import annotations

import re
from functools import cache

import pytest

from dbshield.model import AccessLevel, Allow, Limit
from dbshield.policy.catalogue import BY_TROUBLE, RULES, SESSION_RULES
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.policy.rules.base import MAX_TEXT, Rule
from dbshield.policy.rules.examples import examples
from dbshield.sqltext.statement import Trouble


@cache
def judge_for(rule: Rule, access: AccessLevel) -> Judge:
    return Judge(policy=Policy(access=access, **rule.given), functions=FunctionCatalogue.builtin())


WITHOUT_EXAMPLE = {"DS903", "DS904", "DS905", "DS906", "DS908", "DS909"} | {rule.id for rule in SESSION_RULES}
"""Rules that no example text can show: some about unreadable texts, with tests of their own in test_judge_unreadable.py, and
those that speak while a statement runs, shown on real servers."""

STOPPED = [(rule, access, text) for rule in RULES for access, text in examples(type(rule)).stopped]
ALLOWED = [(rule, access, text) for rule in RULES for access, text in examples(type(rule)).allowed]


@pytest.mark.parametrize(("rule", "access", "text"), STOPPED, ids=lambda value: value.id if isinstance(value, Rule) else None)
def test_what_a_rule_stops(rule: Rule, access: AccessLevel, text: str) -> None:
    judgement = judge_for(rule, access).judge(text.encode())
    assert not isinstance(judgement.verdict, (Allow, Limit))
    assert rule.id in {finding.rule for finding in judgement.findings}
    for finding in judgement.findings:
        assert 0 < len(finding.message) <= MAX_TEXT
        assert 0 < len(finding.hint) <= MAX_TEXT
        assert finding.message.startswith(f"{finding.rule} {finding.name}: ")


@pytest.mark.parametrize(("rule", "access", "text"), ALLOWED, ids=lambda value: value.id if isinstance(value, Rule) else None)
def test_what_a_rule_lets_pass(rule: Rule, access: AccessLevel, text: str) -> None:
    judgement = judge_for(rule, access).judge(text.encode())
    assert rule.id not in {finding.rule for finding in judgement.findings}
    assert "DS901" not in {finding.rule for finding in judgement.findings}, "the example itself must be SQL"


def test_ids_and_names_are_used_once() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES) == len({rule.name for rule in RULES})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_is_documented(rule: Rule) -> None:
    families = {
        "1": "objects",
        "2": "rows",
        "3": "control",
        "4": "guard",
        "5": "availability",
        "6": "hidden",
        "7": "audit",
        "9": "unreadable",
    }
    assert re.fullmatch(r"DS[1-79]\d\d", rule.id)
    assert rule.name.startswith(f"{families[rule.id[2]]}.")
    shown = examples(type(rule))
    assert shown.summary
    assert bool(shown.stopped and shown.allowed) is not (rule.id in WITHOUT_EXAMPLE)


def test_every_trouble_has_a_rule() -> None:
    assert set(BY_TROUBLE) == set(Trouble)
