"""What cannot be read is stopped under a name of its own, and never raises or crashes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dbshield.model import AccessLevel, Deny
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.sqltext.postgres import read
from dbshield.sqltext.statement import Statement

MIB = 1 << 20

DEEP: dict[str, Callable[[int], bytes]] = {
    "parentheses": lambda n: b"select " + b"(" * n + b"1" + b")" * n,
    "operators": lambda n: b"select " + b"||".join([b"1"] * n),
    "casts": lambda n: b"select 1" + b"::a" * n,
    "negations": lambda n: b"select " + b"not " * n + b"a",
    "signs": lambda n: b"select " + b"- " * n + b"a",
    "unions": lambda n: b"select 1" + b" union select 1" * n,
    "subqueries": lambda n: b"(select " * n + b"1" + b")" * n,
    "calls": lambda n: b"select " + b"f(" * n + b"1" + b")" * n,
    "joins": lambda n: b"select from a" + b" join a on b" * n,
    "collations": lambda n: b"select 1" + b" collate a" * n,
    "arrays": lambda n: b"select array" + b"[" * n + b"1" + b"]" * n,
}


@pytest.mark.parametrize("shape", DEEP)
@pytest.mark.parametrize("levels", [1_000, 5_000, 90_000])
def test_regression_deep_texts_crash_nothing(judge: Judge, shape: str, levels: int) -> None:
    """The C library recurses without a guard: a text like these ends the process when it reaches it."""
    text = DEEP[shape](levels)[:MIB]
    judgement = judge.judge(text)
    if shape != "parentheses" or levels > 5_000:
        assert isinstance(judgement.verdict, Deny)


@pytest.mark.parametrize("shape", ["operators", "unions", "joins", "casts", "calls"])
def test_deep_texts_have_the_rule_for_it(judge: Judge, shape: str) -> None:
    assert [finding.rule for finding in judge.judge(DEEP[shape](1_000)).findings] == ["DS906"]


LABORIOUS: dict[str, bytes] = {
    "comments in comments": b"/*" * 50_000 + b"*/" * 50_000 + b"select 1",
    "signs": b"select " + b"+" * 50_000 + b"1",
    "an operator": b"select 1 " + b"@" * 50_000 + b" 1",
    "many rows of signs": b"select " + b" ".join([b"1 " + b"+" * 800] * 100) + b" 1",
    "names of WITH": b"with " + b", ".join(b"a%d as (select 1)" % i for i in range(1_001)) + b" select 1",
    "names of WITH in each other": b"with a as (" * 40
    + b"with " + b", ".join(b"a%d as (select 1)" % i for i in range(1_000)) + b" select 1"
    + b") select 1" * 40,
}  # fmt: skip


@pytest.mark.parametrize("text", LABORIOUS.values(), ids=LABORIOUS)
def test_regression_what_takes_labour_is_stopped_before(judge: Judge, text: bytes) -> None:
    """A megabyte of the first kept a worker busy for a quarter of an hour, one of the names took all memory of the machine."""
    assert [finding.rule for finding in judge.judge(text).findings] == ["DS906"]


def test_honest_rows_of_signs_and_names_pass(judge: Judge) -> None:
    line = b"-- " + b"=" * 77 + b"\n"
    assert judge.judge(line * 2_000 + b"/" + b"*" * 4_000 + b"/ select 1").verdict.word == "allow"
    queries = b", ".join(b"a%d as (select 1)" % i for i in range(1_000))
    assert judge.judge(b"with " + queries + b" select 1").verdict.word == "allow"


def test_regression_a_tree_that_is_much_longer_than_its_text(judge: Judge) -> None:
    """It took a gigabyte and seven seconds, in which nobody else was served."""
    assert [finding.rule for finding in judge.judge(b"select 1" + b",1" * 500_000).findings] == ["DS905"]


def test_honest_depth_passes(judge: Judge) -> None:
    assert judge.judge(DEEP["operators"](200)).verdict.word == "allow"
    assert judge.judge(DEEP["unions"](300)).verdict.word == "allow"
    assert judge.judge(DEEP["subqueries"](60)).verdict.word == "allow"


def test_a_long_honest_insert_passes(judge: Judge) -> None:
    rows = ", ".join(f"({i}, 'text {i}', '2026-01-01 10:00:00', -{i}.5)" for i in range(15_000))
    judgement = judge.judge(f"INSERT INTO t VALUES {rows}".encode())
    assert judgement.verdict.word == "allow"
    assert "text 7" not in judgement.normal


def test_too_long(functions: FunctionCatalogue) -> None:
    judge = Judge(policy=Policy(access=AccessLevel.READ), functions=functions, max_statement_bytes=100)
    assert [finding.rule for finding in judge.judge(b"select " + b"1" * 100).findings] == ["DS905"]


@pytest.mark.parametrize("text", [b"select 1\0; drop table t", b"select '\xff'", b"\xc0\x80", b"select 'a\xed\xa0\x80'"])
def test_not_utf8(judge: Judge, text: bytes) -> None:
    assert [finding.rule for finding in judge.judge(text).findings] == ["DS907"]


def test_a_reader_that_raises_is_a_finding(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(text: bytes) -> tuple[Statement, ...]:
        raise KeyError(text)

    monkeypatch.setattr("dbshield.policy.judge.read", fails)
    judgement = judge.judge(b"select 1")
    assert isinstance(judgement.verdict, Deny)
    assert [finding.rule for finding in judgement.findings] == ["DS908"]
    assert "select" not in judgement.findings[0].message


def test_readers_that_differ_are_a_finding(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reader errs: it takes every text for a bounded DELETE."""
    monkeypatch.setattr("dbshield.policy.judge.read", lambda text: read(b"delete from t where id = 1"))
    assert [finding.rule for finding in judge.judge(b"delete from t").findings] == ["DS903"]
    assert [finding.rule for finding in judge.judge(b"update t set a = 1 where id = 1").findings] == ["DS903"]
    assert [finding.rule for finding in judge.judge(b"delete from u where id = 1").findings] == ["DS903"]
    assert judge.judge(b"delete from t where id = 7").verdict.word == "limit"


def test_a_write_that_one_reader_cannot_read_is_a_finding(judge: Judge) -> None:
    """sqlglot knows how many arguments lower() has; PostgreSQL's grammar does not care."""
    assert [finding.rule for finding in judge.judge(b"delete from t where lower(id, 2) = 3").findings] == ["DS904"]


def test_unknown_function_number(judge: Judge) -> None:
    assert [finding.rule for finding in judge.judge_function(999_999, []).findings] == ["DS909"]
