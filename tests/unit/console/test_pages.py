"""Words on a page: never markup, never a way out, never hidden."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from dbshield.console.feed import read
from dbshield.console.frame import FOLDER, ago, in_short, prose, visible, when
from dbshield.console.live import event
from dbshield.console.sign_in import _target
from dbshield.control.audit_chain import Link

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "given",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "",
        "x",
        "/a\r\nb",
        "/\u00fc",
    ],
)
def test_nobody_is_led_away_after_signing_in(given: str) -> None:
    assert _target(given) == "/"


def test_one_comes_back_to_where_one_was() -> None:
    assert _target("/approvals/apr-k3x7w2mq?x=1") == "/approvals/apr-k3x7w2mq?x=1"


def test_code_stands_between_backticks_and_is_no_markup() -> None:
    assert prose("use `a < b`, <b>now</b>") == "use <code>a &lt; b</code>, &lt;b&gt;now&lt;/b&gt;"


def test_what_hides_or_turns_text_is_spelled_out() -> None:
    assert visible("a\u202eb\u200bc\nd\x1b[2J") == "a\\u202eb\\u200bc\nd\\x1b[2J"


def test_times_are_told_in_words_and_in_utc() -> None:
    assert when(NOW.astimezone()) == "2026-05-01 12:00:00"
    assert [ago(NOW - timedelta(seconds=length), NOW) for length in (5, 60, 7200, 200_000, -3700)] == [
        "less than 1 min ago",
        "1 min ago",
        "2 h ago",
        "2 d ago",
        "in 1 h",
    ]


def test_an_event_is_one_event_whatever_is_in_it() -> None:
    assert event("feed", "a\r\nb\rc\n\nevent: over") == ("event: feed\ndata: a\ndata: b\ndata: c\ndata: \ndata: event: over\n\n")


def test_no_page_has_script_or_style_of_its_own() -> None:
    for path in sorted(FOLDER.glob("templates/*.html")):
        text = path.read_text()
        assert "<style" not in text, path.name
        assert " style=" not in text, path.name
        assert "|safe" not in text.replace(" ", ""), path.name
        assert re.search(r"\son[a-z]+\s*=|javascript:", text) is None, path.name
        for script in text.split("<script")[1:]:
            assert script.startswith(' src="{{ static('), path.name


def entry(kind: str, text: str, **more: object) -> Link:
    values: dict[str, object] = dict.fromkeys(Link.__slots__)
    values |= {"id": 7, "at": NOW, "recorded_at": NOW, "kind": kind, "entry": text, "hash": b"", **more}
    return Link(**values)  # type: ignore[arg-type]


def test_an_entry_is_a_line_for_people() -> None:
    line = read(entry("statement", '{"statement":"drop table t","repeats":3}', agent="claude", verdict="hold", rules=("DS101",)))
    assert (line.text, line.who, line.verdict, line.repeats) == ("drop table t", "claude", "hold", 3)
    assert read(entry("statement", '{"statement":null,"effects":["drop table t"]}')).text == "drop table t"
    assert read(entry("executed", '{"approval":"apr-k3x7w2mq","tag":"DROP TABLE"}')).text == "apr-k3x7w2mq \u00b7 DROP TABLE"


def test_what_is_cut_says_that_it_goes_on() -> None:
    assert read(entry("statement", f'{{"statement":"select {"x" * 500}"}}')).text.endswith("x…")
    assert in_short("select\n 1", 10) == "select 1"
    assert in_short(f"drop table {'x' * 30}", 20) == "drop table xxxxxxxxx … and 21 more characters"


@pytest.mark.parametrize("odd", ["no json", "[]", "7", '{"statement":["x"],"repeats":"y"}'])
def test_what_somebody_wrote_into_the_table_breaks_no_page(odd: str) -> None:
    assert read(entry("statement", odd)).repeats == 1
