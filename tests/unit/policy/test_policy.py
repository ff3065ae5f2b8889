"""Overrides, observing and freezing: what the configuration makes of verdicts, and what it cannot loosen."""

from __future__ import annotations

from typing import Any

import pytest

from dbshield.model import AccessLevel, Allow, Deny, Effect, Finding, Hold, Judgement, Limit, ObjectKind, ObjectName, Operation
from dbshield.patterns import ObjectPattern
from dbshield.policy.catalogue import RULES
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Mode, Override, OverrideVerdict, Policy
from dbshield.policy.rules.examples import examples
from dbshield.rule_ids import FAMILIES, NEVER_LOOSENED

ALLOW, LIMIT, HOLD, DENY = OverrideVerdict


def override(rule: str, verdict: OverrideVerdict, *objects: str) -> Override:
    return Override(rule=rule, verdict=verdict, objects=tuple(map(ObjectPattern.parse, objects)))


def judged(text: str, *overrides: Override, access: AccessLevel = AccessLevel.MIGRATE, **policy: Any) -> Judgement:
    judge = Judge(policy=Policy(access=access, overrides=overrides, **policy), functions=FunctionCatalogue.builtin())
    return judge.judge(text.encode())


@pytest.mark.parametrize(
    ("text", "overrides", "verdict"),
    [
        ("delete from t", [override("DS201", ALLOW)], "limit"),
        ("delete from t", [override("DS201", LIMIT)], "limit"),
        ("delete from t", [override("DS2xx", DENY)], "deny"),
        ("delete from t", [override("DS202", ALLOW)], "hold"),
        ("delete from tmp.t", [override("DS2xx", ALLOW, "tmp.*")], "limit"),
        ("delete from shop.t", [override("DS2xx", ALLOW, "tmp.*")], "hold"),
        ("delete from t", [override("DS2xx", ALLOW, "tmp.*")], "hold"),
        ("delete from t", [override("DS2xx", ALLOW, "*.t")], "limit"),
        ("delete from t", [override("DS2xx", DENY, "tmp.*")], "deny"),
        ("delete from t", [override("DS2xx", DENY, "tmp.t")], "deny"),
        ("delete from t", [override("DS2xx", DENY, "tmp.other")], "hold"),
        ("truncate tmp.t", [override("DS203", ALLOW, "tmp.*")], "allow"),
        ("truncate tmp.t", [override("DS2xx", LIMIT)], "hold"),
        ("truncate tmp.t, shop.t", [override("DS203", ALLOW, "tmp.*")], "hold"),
        ("drop table tmp.t", [override("DS101", ALLOW, "tmp.*")], "allow"),
        ("drop schema tmp", [override("DS101", ALLOW, "tmp.*")], "allow"),
        ("drop schema tmp", [override("DS101", ALLOW, "tmp.t")], "hold"),
        ("drop schema tmp", [override("DS101", DENY, "tmp.t")], "deny"),
        ("alter table tmp.t drop column a", [override("DS104", ALLOW, "tmp.t")], "allow"),
        ('alter table tmp."t.a" drop column a', [override("DS104", ALLOW, "tmp.t")], "hold"),
        ('alter table tmp."t.a" drop column a', [override("DS104", DENY, "tmp.t")], "deny"),
        # The first that fits speaks.
        ("delete from tmp.t", [override("DS201", DENY, "tmp.*"), override("DS2xx", ALLOW)], "deny"),
        ("delete from shop.t", [override("DS201", DENY, "tmp.*"), override("DS2xx", ALLOW)], "limit"),
        ("delete from shop.t", [override("DS2xx", ALLOW), override("DS201", DENY)], "limit"),
        # What is never loosened: an override that would does not even stand in the way of a later one.
        ("selec 1", [override("DS9xx", ALLOW)], "deny"),
        ("alter table t disable trigger all", [override("DS4xx", ALLOW)], "deny"),
        ("set session_replication_role = replica", [override("DS3xx", ALLOW)], "deny"),
        ("update pg_settings set setting = 'x' where name = 'y'", [override("DS3xx", ALLOW)], "deny"),
        ("alter policy p on t using (true)", [override("DS4xx", HOLD)], "hold"),
        ("alter policy p on t using (true)", [override("DS4xx", DENY)], "deny"),
        ("grant select on t to u", [override("DS302", HOLD)], "hold"),
    ],
)
def test_overrides(text: str, overrides: list[Override], verdict: str) -> None:
    assert judged(text, *overrides).verdict.word == verdict


def test_two_rules_about_one_statement_are_overridden_one_by_one() -> None:
    text = "drop table t"
    judgement = judged(text, override("DS101", ALLOW), access=AccessLevel.READ)
    assert judgement.verdict == Deny()
    assert {finding.rule for finding in judgement.findings} == {"DS301"}, "what was let through is not told as a reason"


def test_what_was_let_through_stays_to_be_seen() -> None:
    judgement = judged("delete from t", override("DS201", ALLOW), max_rows=5)
    assert judgement.verdict == Limit(max_rows=5)
    assert [(finding.rule, finding.verdict) for finding in judgement.findings] == [("DS201", Allow())]


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.id.startswith(NEVER_LOOSENED)], ids=lambda rule: rule.id)
@pytest.mark.parametrize("verdict", [ALLOW, LIMIT])
def test_no_override_loosens_these(rule: Any, verdict: OverrideVerdict) -> None:
    effect = Effect(operation=Operation.UPDATE, kind=ObjectKind.TABLE, name=ObjectName(schema="s", name="t"))
    finding = Finding(rule=rule.id, name=rule.name, verdict=rule.verdict, message="m", hint="h", effect=effect)
    for written in (rule.id, f"{rule.id[:3]}xx"):
        assert not override(written, verdict).concerns(finding)
        assert not override(written, verdict, "s.t").concerns(finding)


EVERYTHING = tuple(override(family, ALLOW) for family in FAMILIES)
OPEN = {
    access: Judge(policy=Policy(access=access, overrides=EVERYTHING), functions=FunctionCatalogue.builtin())
    for access in AccessLevel
}


@pytest.mark.parametrize(
    ("rule", "access", "text"), [(rule.id, access, text) for rule in RULES for access, text in examples(type(rule)).stopped]
)
def test_a_human_can_let_everything_through_but_what_is_never_loosened(rule: str, access: AccessLevel, text: str) -> None:
    judgement = OPEN[access].judge(text.encode())
    if isinstance(judgement.verdict, (Hold, Deny)):
        assert all(finding.rule.startswith(NEVER_LOOSENED) for finding in judgement.findings)
    else:
        assert not rule.startswith(NEVER_LOOSENED) or rule in {"DS210", "DS313", "DS701"}, (
            "these speak only with a setting of theirs"
        )


def test_observing_lets_pass_and_says_what_it_would_have_said() -> None:
    for text, verdict in (
        ("drop table t", Hold()),
        ("selec 1", Deny()),
        ("set session_replication_role = replica", Deny()),
        ("delete from t where a = 1", Limit(max_rows=100)),
        ("select 1", Allow()),
    ):
        judgement = judged(text, mode=Mode.OBSERVE)
        assert (judgement.verdict, judgement.observed, judgement.counted) == (Allow(), verdict, ())
        assert bool(judgement.findings) is (verdict in {Hold(), Deny()})


@pytest.mark.parametrize(
    "text",
    [
        "set client_encoding = 'SJIS'",
        "set names 'SJIS'",
        "select set_config('standard_conforming_strings', 'off', false)",
        "set standard_conforming_strings = off; drop table t",
    ],
)
def test_observing_still_stops_what_would_end_the_session(text: str) -> None:
    judgement = judged(text, mode=Mode.OBSERVE)
    assert judgement.verdict == judgement.observed == Deny()


def test_observing_cannot_pass_on_what_was_not_taken_in() -> None:
    judge = Judge(policy=Policy(access=AccessLevel.WRITE, mode=Mode.OBSERVE), functions=FunctionCatalogue.builtin())
    assert judge.judge_length(1 << 30).verdict == Deny()
    assert judge.judge_function(4242424, ()).verdict == Allow()


def test_a_freeze_holds_where_it_is_only_observed() -> None:
    judgement = judged("insert into t values (1)", mode=Mode.OBSERVE, frozen=True)
    assert judgement.verdict == Deny()
    assert judged("select 1", mode=Mode.OBSERVE, frozen=True).verdict == Allow()


def test_a_freeze_tells_its_reason() -> None:
    (finding,) = judged("insert into t values (1)", frozen=True, freeze_reason="quarter's end").findings
    assert (finding.rule, finding.verdict) == ("DS313", Deny())
    assert "frozen (quarter's end)" in finding.hint


def test_a_freeze_stops_functions_that_were_let_through(functions: FunctionCatalogue) -> None:
    policy = Policy(access=AccessLevel.WRITE, frozen=True, overrides=(override("DS6xx", ALLOW),))
    judge = Judge(policy=policy, functions=functions)
    for text in (
        "select shop.purge_cancelled()",
        "select nobody.knows(1)",
        "fetch all from c",
        "call shop.p()",
        "select setval('s', 1)",
    ):
        judgement = judge.judge(text.encode())
        assert "DS313" in {finding.rule for finding in judgement.findings}, text
    assert judge.judge(b"select shop.order_count()").verdict == Allow()


@pytest.mark.parametrize("text", ["insert into invoices values (1)", "update invoices set a = 1 where b = 2"])
def test_a_name_without_schema_is_left_to_the_count_where_a_whole_schema_is_protected(text: str) -> None:
    assert judged(text, protected=(ObjectPattern.parse("billing.*"),)).verdict == Limit(max_rows=100)
    assert judged(text, protected=(ObjectPattern.parse("billing.invoices"),)).verdict == Hold()
    assert judged(text, protected=(ObjectPattern.parse("*.*"),)).verdict == Hold()


def test_no_override_reaches_a_protected_table() -> None:
    protected = (ObjectPattern.parse("billing.*"),)
    judgement = judged("delete from billing.t", override("DS2xx", ALLOW), protected=protected)
    assert judgement.verdict == Hold()
    assert {finding.rule for finding in judgement.findings} == {"DS210"}


def test_policies_are_values() -> None:
    one, other = (Policy(access=AccessLevel.READ, overrides=(override("DS201", DENY, "a.*"),)) for _ in range(2))
    assert one == other
    assert {one: 1}[other] == 1
