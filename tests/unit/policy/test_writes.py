"""`Judgement.writes`: false only where it is certain that a text changes nothing. What is frozen is stopped by the same words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Mode, Policy

READS = (
    b"",
    b"select * from orders where id = 7",
    b"show all",
    b"begin; select now(), random(); commit",
    b"set application_name = 'agent'",
    b"explain delete from orders where id = 7",
    b"copy orders to stdout",
    b"declare c cursor for select * from orders",
    b"fetch all from c",
    b"deallocate something",
)
WRITES = (
    b"insert into orders values (1)",
    b"select 1; update orders set total = 1 where id = 7",
    b"with gone as (delete from orders where id = 7 returning *) select * from gone",
    b"select nextval('shop.invoice_number')",
    b"select * from orders where id = 7 for update",
    b"select shop.unknown(1)",
    b"execute something",
    b"create temp table t (id integer)",
    b"explain analyze delete from orders where id = 7",
    b"no sql at all",
    b"drop table orders",
)


def judge(**policy: object) -> Judge:
    return Judge(policy=Policy(access=AccessLevel.MIGRATE, **policy), functions=FunctionCatalogue.builtin())  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("text", READS)
def test_what_only_reads(text: bytes, mode: Mode) -> None:
    assert not judge(mode=mode).judge(text).writes


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("text", WRITES)
def test_what_may_write(text: bytes, mode: Mode) -> None:
    assert judge(mode=mode).judge(text).writes


def test_what_a_shape_has_in_common_is_kept_with_it() -> None:
    one = judge()
    assert [one.judge(b"update orders set total = %d where id = 7" % number).writes for number in range(3)] == [True] * 3
    assert [one.judge(b"select * from orders where id = %d" % number).writes for number in range(3)] == [False] * 3


def test_a_function_message_writes_unless_its_function_reads() -> None:
    one = judge()
    assert one.judge_function(0, ()).writes


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("text", WRITES[:-2])
def test_without_an_audit_writes_are_denied_and_reads_pass(text: bytes, mode: Mode) -> None:
    one = judge(unaudited=True, mode=mode)
    found = one.judge(text)
    assert found.verdict.word == "deny"
    assert "DS701" in {finding.rule for finding in found.findings}
    for read in READS:
        assert one.judge(read).verdict.word == "allow", read


def test_a_text_is_written_down_in_full_only_where_that_was_asked_for() -> None:
    texts = [b"update orders set total = %d where id = 7" % number for number in range(3)]
    usual, full = judge(), Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=FunctionCatalogue.builtin(), full=True)
    for _ in range(2):
        for text in texts:
            assert usual.judge(text).normal == "update orders set total = $1 where id = $2"
            told = full.judge(text)
            assert told.normal.encode() == text
            assert replace(told, normal="") == replace(usual.judge(text), normal="")


@pytest.mark.parametrize("text", [b"", b"\xff", b"select 1 /* " + b"x" * (1 << 20)])
def test_what_is_no_text_is_never_written_down_in_full(text: bytes) -> None:
    full = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=FunctionCatalogue.builtin(), full=True)
    assert full.judge(text) == judge().judge(text)
