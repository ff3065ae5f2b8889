"""The table that the configuration is checked against says the same as the rules themselves."""

from __future__ import annotations

import pytest

from dbshield.policy.catalogue import RULES
from dbshield.rule_ids import DEFAULTS, FAMILIES, members, objection, weakened


def test_the_table_has_every_rule_with_its_verdict() -> None:
    assert {rule.id: rule.verdict.word for rule in RULES} == DEFAULTS, "a new rule belongs into dbshield/rule_ids.py"


def test_families_have_members() -> None:
    assert FAMILIES == ("DS1xx", "DS2xx", "DS3xx", "DS4xx", "DS5xx", "DS6xx", "DS7xx", "DS9xx")
    assert members("DS5xx") == tuple(rule for rule in DEFAULTS if rule.startswith("DS5"))
    assert members("DS201") == ("DS201",)
    assert members("DS20x") == members("DS8xx") == members("") == ()


@pytest.mark.parametrize(
    ("rule", "verdict", "said"),
    [
        ("DS200", "deny", "is no rule; did you mean DS203 or DS210 or DS220?"),
        ("rows.truncate", "deny", "is no rule; rules have ids such as DS201, families are DS1xx,"),
        ("DS101", "limit", "changes no rows that could be counted"),
        ("DS203", "limit", "changes no rows that could be counted"),
        ("DS4xx", "hold", 'only "deny" may be said of it: a guard that agents may weaken'),
        ("DS402", "allow", 'only "deny" may be said of it: a guard that agents may weaken'),
        ("DS901", "allow", "has neither objects nor bounds"),
        ("DS304", "allow", "the same text as the shield"),
        ("DS301", "hold", "another access level"),
        ("DS210", "allow", "take the table out of `protected`"),
        ("DS313", "limit", "changes no rows"),
        ("DS313", "hold", "thaw the environment"),
    ],
)
def test_what_an_override_may_not_say(rule: str, verdict: str, said: str) -> None:
    assert said in objection(rule, verdict)


@pytest.mark.parametrize(
    ("rule", "verdict", "softer"),
    [
        ("DS201", "limit", ("DS201",)),
        ("DS201", "hold", ()),
        ("DS201", "deny", ()),
        ("DS302", "hold", ("DS302",)),
        ("DS4xx", "deny", ()),
        ("DS9xx", "deny", ()),
        ("DS2xx", "limit", ("DS201", "DS202")),
        ("DS2xx", "allow", ("DS201", "DS202", "DS203")),
    ],
)
def test_what_an_override_weakens(rule: str, verdict: str, softer: tuple[str, ...]) -> None:
    assert objection(rule, verdict) == ""
    assert weakened(rule, verdict) == softer
