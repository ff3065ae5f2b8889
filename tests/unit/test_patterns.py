"""Patterns of names: what they match, what they say of names without a schema, and that they cannot be made slow."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.model import ObjectName
from dbshield.patterns import ObjectPattern, matches


def name(text: str) -> ObjectName:
    schema, _, rest = text.rpartition(".")
    return ObjectName(schema=schema, name=rest)


@pytest.mark.parametrize(
    ("pattern", "spelled", "surely", "maybe"),
    [
        ("billing.*", "billing.invoices", True, True),
        ("billing.*", "shop.invoices", False, False),
        ("billing.*", "invoices", False, True),
        ("*.invoices", "invoices", True, True),
        ("*.invoices", "billing.invoices", True, True),
        ("billing.invoices", "invoices", False, True),
        ("billing.invoices", "orders", False, False),
        ("Billing.INVOICES", "billing.invoices", True, True),
        ("billing.invoices_20??", "billing.invoices_2026", True, True),
        ("billing.invoices_20??", "billing.invoices_202", False, False),
        ("*.*", "anything", True, True),
        ("b?lling.*", "bälling.x", True, True),
        ("billing.*", "Billing.x", False, False),
    ],
)
def test_what_a_pattern_matches(pattern: str, spelled: str, surely: bool, maybe: bool) -> None:
    parsed = ObjectPattern.parse(pattern)
    assert (parsed.matches(name(spelled)), parsed.may_match(name(spelled))) == (surely, maybe)


@pytest.mark.parametrize(
    ("pattern", "schema", "table", "matched"),
    [
        ('"Billing".*', "Billing", "x", True),
        ('"Billing".*', "billing", "x", False),
        ('shop."odd.name"', "shop", "odd.name", True),
        ('shop."a*"', "shop", "a*", True),
        ('shop."a*"', "shop", "ab", False),
        ('shop."say ""hi"""', "shop", 'say "hi"', True),
        ('shop."back\\slash"', "shop", "back\\slash", True),
        ("shöp.Ärger", "shöp", "Ärger", True),
    ],
)
def test_quotes_and_case_are_those_of_postgresql(pattern: str, schema: str, table: str, matched: bool) -> None:
    parsed = ObjectPattern.parse(pattern)
    assert parsed.matches(ObjectName(schema=schema, name=table)) is matched
    assert ObjectPattern.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    ["", "billing", "a.b.c", ".x", "x.", 'x."unended', 'a"b".c', '"a"b.c', "a b.c", "a-b.c", "a'.b", "x" * 301 + ".y", '"".a'],
)
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        ObjectPattern.parse(text)


@pytest.mark.parametrize(
    ("pattern", "like"),
    [("billing.*", "billing.%"), ("a_b.x?", r"a\_b.x_"), ('"50%"."*"', r"50\%.*"), ('"a\\b".c', r"a\\b.c")],
)
def test_the_server_is_asked_the_same(pattern: str, like: str) -> None:
    assert ObjectPattern.parse(pattern).like == like


@given(st.text("ab*?", max_size=12), st.text("ab", max_size=16))
def test_wildcards_mean_what_they_mean_in_a_shell(pattern: str, text: str) -> None:
    assert matches(pattern, text) is bool(re.fullmatch(fnmatch.translate(pattern), text))


def test_regression_many_stars_take_no_time() -> None:
    assert not matches("*a" * 60 + "b", "a" * 63)
    assert matches("*a" * 60, "a" * 63)
