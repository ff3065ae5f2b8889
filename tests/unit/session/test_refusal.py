"""What an agent reads when it is stopped."""

from __future__ import annotations

import re

import pytest

from dbshield.model import AccessLevel, Allow, Deny, Finding, Judgement
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.session.refusal import RULE_PAGES, refusal
from dbshield.wire.backend import ErrorResponse

FUNCTIONS = FunctionCatalogue.builtin()


def refused(text: str, access: AccessLevel = AccessLevel.WRITE) -> ErrorResponse:
    judgement = Judge(policy=Policy(access=access), functions=FUNCTIONS).judge(text.encode())
    return ErrorResponse.decode(refusal(judgement)[5:])


@pytest.mark.parametrize(
    "text",
    [
        "delete from shop.orders",
        "drop table shop.orders, shop.customers cascade",
        "select pg_read_file('x')",
        "truncate " + ", ".join(f"shop.a_table_with_a_rather_long_name_{i}" for i in range(200)),
        "not sql at all",
        'drop table "' + "x" * 3000 + '"',
    ],
)
@pytest.mark.parametrize("access", AccessLevel)
def test_it_is_short_and_for_machines_too(text: str, access: AccessLevel) -> None:
    error = refused(text, access)
    assert (error.severity, error.sqlstate) == ("ERROR", "42501")
    assert error.message.startswith("dbshield ")
    assert "nothing was executed" in error.message
    assert error.detail.startswith("rule=DS")
    assert error.hint
    assert max(map(len, (error.message, error.detail, error.hint))) <= 300


@pytest.mark.parametrize(
    "text",
    [
        "delete from t",
        "drop table t; delete from t; update t set a = 1; truncate t; set role x; lock t; select pg_ls_dir('x'), f(); load 'x'",
        "grant all on t to x; alter table t drop column a, drop constraint b, alter c type text; vacuum full t; do 'x'",
    ],
)
@pytest.mark.parametrize("access", AccessLevel)
def test_the_detail_is_for_machines(text: str, access: AccessLevel) -> None:
    error = refused(text, access)
    found = re.fullmatch(r"rule=(DS\d{3})(?:,DS\d{3})* name=([a-z]+\.[a-z-]+) verdict=(hold|deny)", error.detail)
    assert found is not None
    assert f"{found[1]} {found[2]}: " in error.message
    assert len(error.detail) <= 300


def test_more_rules_than_fit_are_left_out() -> None:
    findings = tuple(
        Finding(rule=f"DS{number}", name="rows.x", verdict=Deny(), message="m", hint="Do h.") for number in range(100, 200)
    )
    error = ErrorResponse.decode(refusal(Judgement(verdict=Deny(), findings=findings))[5:])
    assert error.detail.startswith("rule=DS100,DS101,")
    assert error.detail.endswith(" name=rows.x verdict=deny")
    assert len(error.detail) <= 300


def test_a_held_statement_says_that_a_human_decides() -> None:
    assert "holds this statement for a human" in refused("delete from shop.orders").message


def test_all_rules_are_named_for_machines() -> None:
    assert refused("drop table shop.orders").detail.startswith("rule=DS101,DS301 name=objects.drop verdict=deny")


def test_who_wants_to_drop_is_not_told_to_ask_for_more_rights() -> None:
    error = refused("drop table shop.orders")
    assert "DS101" in error.message
    assert "migrate" not in error.hint


def test_who_reads_only_is_told_so() -> None:
    error = refused("delete from shop.orders where id = 1", AccessLevel.READ)
    assert "DS301" in error.message
    assert "write" in error.hint


def test_no_other_table_is_named() -> None:
    error = refused("delete from shop.orders using shop.secrets")
    assert "secrets" not in f"{error.message}{error.detail}{error.hint}"


def test_an_allowed_statement_has_no_refusal() -> None:
    with pytest.raises(ValueError, match="no refusal"):
        refusal(Judgement(verdict=Allow()))


def test_it_leads_to_the_page_of_its_rule_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    without = refused("drop table shop.orders").detail
    monkeypatch.setattr(RULE_PAGES, "address", "https://shield.example.com")
    assert refused("drop table shop.orders").detail == f"{without} page=https://shield.example.com/rules/DS101"
    monkeypatch.setattr(RULE_PAGES, "address", f"https://{'x' * 250}.example.com")
    assert refused("drop table shop.orders").detail == without, "machines read what there is room for"
