"""What both readers see, side by side: the same that the judge asks, and nothing that it decides by."""

from __future__ import annotations

import pytest

from dbshield.sqltext.explain import explain
from dbshield.sqltext.statement import Unreadable


@pytest.mark.parametrize(
    ("text", "kind", "first", "second_kind", "second"),
    [
        ("delete from a.t where id = 1", "delete", ["delete table a.t bounded"], "delete", ["delete table a.t bounded"]),
        ("prepare x as delete from t", "prepare", ["execute statement x", "delete table t"], "delete", ["delete table t"]),
        ("explain analyze delete from t", "explain analyze", ["delete table t"], "delete", ["delete table t"]),
        ("create table a (b int)", "create table", ["create table a"], "create", ["create table a"]),
        ("truncate a, b", "truncate", ["truncate table a", "truncate table b"], "truncatetable", None),
        ("copy t from stdin", "copy from", ["insert table t"], "copy", ["insert table t"]),
        ("alter table t add column c int", "alter table", None, "alter", ["alter table t"]),
        ("create index on t (a)", "create index", None, "create", []),
    ],
)
def test_writes_are_read_twice(text: str, kind: str, first: list[str] | None, second_kind: str, second: list[str] | None) -> None:
    (one,) = explain(text.encode())
    assert (one.kind, one.second_kind, one.asked, one.agrees) == (kind, second_kind, True, True)
    shown = [str(effect) for effect in one.effects]
    assert first is None or shown == first
    assert [str(effect) for effect in one.second_effects] == (shown if second is None else second)


def test_a_read_is_shown_twice_and_asked_once() -> None:
    (one,) = explain(b"select * from t")
    assert (one.second_kind, one.asked, one.fault) == ("select", False, "")


def test_each_statement_is_shown_on_its_own() -> None:
    explained = explain(b"select 1; ; /* \xc3\xa4 */ delete from t where id = 2;")
    assert [one.kind for one in explained] == ["select", "delete"]
    assert [str(effect) for effect in explained[1].second_effects] == ["delete table t bounded"]
    assert explain(b"") == ()


def test_a_second_reader_that_fails_is_named() -> None:
    (one,) = explain(b"update t set a = " + b"(" * 150 + b"1" + b")" * 150 + b" where b = xmlparse(document '<a/>')::text")
    assert one.fault
    assert not one.agrees
    assert one.asked


@pytest.mark.parametrize("text", [b"selec", b"select '", b"select 1 \xff", "select\u00a01".encode()])
def test_what_the_first_reader_does_not_read(text: bytes) -> None:
    with pytest.raises(Unreadable):
        explain(text)
