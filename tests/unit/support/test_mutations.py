"""Mutants mean what their original means, differ from it, and there are enough of each kind to matter."""

from __future__ import annotations

import postgast
import pytest
from support.cases import Case, load
from support.mutations import MUTATIONS, mutants, sample, statements
from support.spellings import SPELLINGS, spelled

CASES = [*load("attacks.jsonl"), *load("harmless.jsonl")]
TEXTS = sorted({step["sql"] for case in CASES for step in case["steps"] if statements(step.get("sql", ""))})
FEW = {"lower-case": 10, "plain-strings": 20, "simple": 15}
"""Mutations that only few of the cases bear, and at how many of them they have to be seen."""


def meaning(text: str) -> list[str]:
    """What PostgreSQL's grammar prints of each statement; a tree too deep for the decoder by its fingerprint."""
    try:
        return [postgast.deparse(postgast.parse(part)) for part in postgast.split(text)]
    except Exception as error:
        if "DecodeError" not in type(error).__name__:
            raise
        return [postgast.fingerprint(text).hex]


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_spelling_means_what_the_original_means(name: str) -> None:
    changed = {text: other for text in TEXTS if (other := spelled(text, name)) is not None}
    assert len(changed) >= FEW.get(name, 150)
    for text, other in changed.items():
        assert other != text
        assert meaning(other) == meaning(text)


@pytest.mark.parametrize("name", MUTATIONS)
def test_there_are_enough_mutants_of_every_kind(name: str) -> None:
    found = [mutant for case in CASES for mutant in mutants(case, [name])]
    assert len(found) >= FEW.get(name, 100)
    assert all(mutant.name == name and 0 <= mutant.decisive < len(mutant.steps) for mutant in found)


@pytest.mark.parametrize(
    "text, name, expected",
    [
        ("Delete from T where x = 'Where'", "upper-case", "DELETE FROM T WHERE X = 'Where'"),
        ('delete from "T"', "upper-case", 'DELETE FROM "T"'),
        ("select a.b", "comments", "/**/select/**/a/**/./**/b"),
        ("select a", "line-comments-cr", " --'\rselect --'\ra"),
        ("drop table Shop.Orders", "quoted-names", 'drop table "shop"."orders"'),
        ("drop table ab", "escaped-names", 'drop table  U&"\\0061b"'),
        ("select 'a''b'", "escape-strings", "select  E'\\x61\\'\\x62'"),
        ("select 'abc'", "unicode-strings", "select  U&'a\\0062c'"),
        ("select 'it''s'", "dollar-strings", "select  $mutant$it's$mutant$"),
        ("do $$ begin null; end $$", "plain-strings", "do  ' begin null; end '"),
        ("select 1::integer", "quoted-names", None),
        ("select 'x' /* 'y' */ 'z'", "tabs", None),
        ("selec 1", "tabs", None),
    ],
)
def test_a_spelling(text: str, name: str, expected: str | None) -> None:
    assert spelled(text, name) == expected


def case_of(*texts: str) -> Case:
    return {"id": "x", "steps": [{"sql": text} for text in texts]}


@pytest.mark.parametrize(
    "name, expected",
    [
        ("extended", [{"sql": "delete from t", "params": []}]),
        ("named", [{"sql": "delete from t", "params": [], "name": "mutant_0"}]),
        ("pipeline", [{"pipeline": ["select 1", "delete from t", "select 2"]}]),
        ("transaction", [{"sql": "begin"}, {"sql": "delete from t"}, {"sql": "commit"}]),
        ("prepare", [{"sql": "prepare p0 as delete from t"}, {"sql": "execute p0"}]),
        ("cte", [{"sql": "with x as (delete from t\nreturning 1\n) select * from x"}]),
        ("copy", [{"sql": "copy (delete from t\nreturning 1\n) to stdout"}]),
        ("do", [{"sql": "do $wrapped$ begin delete from t\n; end $wrapped$"}]),
    ],
)
def test_another_way_to_send(name: str, expected: list[Case]) -> None:
    assert [list(mutant.steps) for mutant in mutants(case_of("delete from t"), [name])] == [expected]


def test_parameters_become_literals() -> None:
    case = {"id": "x", "steps": [{"sql": "select $1::text, $2::text", "params": ["it's", None]}]}
    assert [list(m.steps) for m in mutants(case, ["simple"])] == [[{"sql": "select  'it''s'::text, null::text"}]]


def test_a_case_with_its_own_transaction_is_not_put_into_another() -> None:
    assert list(mutants(case_of("begin", "delete from t", "commit"), ["transaction", "savepoint"])) == []


def test_a_sample_is_the_same_each_time_and_another_for_each_case() -> None:
    case = case_of("delete from t")
    names = [mutant.name for mutant in sample(case, 5)]
    assert names == [mutant.name for mutant in sample(case, 5)]
    assert names != [mutant.name for mutant in sample({**case, "id": "y"}, 5)]
    assert {m.name for c in CASES for m in sample(c, 3)} == set(MUTATIONS)
