"""How an entry shows values, and how people read them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from support.audit_log import DROP, NOW, connect
from support.audit_log import lines as audited

from dbshield.control.audit import AuditLog
from dbshield.control.audit_values import fields, lines
from dbshield.model import VALUE_BYTES, VALUE_MARGIN, BoundValue, BoundValues

TOKEN = b"dbs_production_abcdefgh2345_" + b"s" * 32
LONG = VALUE_BYTES + VALUE_MARGIN


def value(data: bytes | None, *, form: int = 0, kind: int = 0, size: int | None = None) -> BoundValue:
    return BoundValue(type=kind, format=form, value=data, size=len(data or b"") if size is None else size)


def said(*values: BoundValue, left_out: int | None = 0) -> dict[str, Any]:
    text = fields(BoundValues(values=values, left_out=left_out))
    assert text.isascii()
    found: dict[str, Any] = json.loads(f"{{{text}}}")
    return found


@pytest.mark.parametrize(
    ("given", "expected", "shown"),
    [
        (value(None), None, "$1 = NULL"),
        (value(b""), "", "$1 = ''"),
        (value("it's ü".encode()), "it's ü", "$1 = 'it''s ü'"),
        (value(b"\0\0\0\x2a", form=1, kind=23), {"binary": "0000002a", "type": 23}, "$1 = '\\x0000002a' of type 23"),
        (value(b"\x2a", form=1), {"binary": "2a"}, "$1 = '\\x2a'"),
        (value(b"\xff\xfe", kind=25), {"binary": "fffe", "type": 25}, "$1 = '\\xfffe' of type 25"),
        (value(b"a\0b"), {"binary": "610062"}, "$1 = '\\x610062'"),
        (
            value(b"x" * LONG, size=70_000),
            {"text": "x" * VALUE_BYTES, "bytes": 70_000},
            f"$1 = '{'x' * VALUE_BYTES}'… of 70000 bytes",
        ),
        (
            value(b"\1" * LONG, form=1, size=70_000),
            {"binary": "01" * VALUE_BYTES, "bytes": 70_000},
            f"$1 = '\\x{'01' * VALUE_BYTES}'… of 70000 bytes",
        ),
        (value(b"x" * LONG), {"text": "x" * VALUE_BYTES, "bytes": LONG}, f"$1 = '{'x' * VALUE_BYTES}'… of {LONG} bytes"),
    ],
    ids=["null", "empty", "text", "binary", "no type", "no text", "a NUL", "long", "long binary", "just too long"],
)
def test_a_value_is_shown(given: BoundValue, expected: Any, shown: str) -> None:
    found = said(given)
    assert found == {"parameters": [expected]}
    assert [*lines(found)] == [shown]


def test_what_was_cut_in_the_middle_of_a_character_ends_before_it() -> None:
    found = said(value(b"x" + "ü".encode() * LONG, size=2 * LONG + 1))
    assert found["parameters"][0]["text"] == "x" + "ü" * ((VALUE_BYTES - 1) // 2)


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("before", [0, VALUE_BYTES - 100, VALUE_BYTES - 30, VALUE_BYTES - 3, VALUE_BYTES + 20, LONG - 50])
def test_no_token_and_no_half_of_one_is_shown(form: int, before: int) -> None:
    """Also where a value is cut in the middle of it, or where only half of it was kept."""
    whole = b"." * before + TOKEN + b"." * 4_000
    for kept in (whole[:LONG], whole[: before + len(TOKEN) - 5]):
        if len(kept) > LONG:
            continue
        text = json.dumps(said(value(kept, form=form, size=len(whole))))
        assert "sss" not in text
        assert (b"ss" * 2).hex() not in text


def test_what_is_left_out_is_told() -> None:
    assert said(value(b"a"), left_out=3) == {"parameters": ["a"], "parameters_left_out": 3}
    assert [*lines(said(value(b"a"), left_out=3))] == ["$1 = 'a'", "and 3 more"]
    assert [*lines(said(left_out=None))] == ["and more"]
    assert [*lines({"statement": "select 1"})] == []


@pytest.mark.parametrize("wrong", [7, "text", {"a": 1}, [7, {"other": 1}]])
def test_an_entry_that_somebody_has_changed_is_shown_all_the_same(wrong: Any) -> None:
    assert len([*lines({"parameters": wrong})]) == (2 if isinstance(wrong, list) else 0)


def test_the_log_writes_them_with_the_statement_and_keeps_none_of_them(tmp_path: Path) -> None:
    for statements in (True, False):
        path = tmp_path / f"{statements}.jsonl"
        log = AuditLog(path, statements=statements)
        session = connect(log)
        for secret in (b"hunter2", b"hunter3"):
            session.statement(NOW, dataclasses.replace(DROP, values=BoundValues(values=(value(secret),))))
        session.statement(NOW, DROP)
        log.close()
        found = [line for line in audited(path) if line["event"] == "statement"]
        expected = [["hunter2"], ["hunter3"], None] if statements else [None] * 3
        assert [line.get("parameters") for line in found] == expected
        assert not any("hunter" in text for _, text in log._rendered.values())
