"""What is shown is what is there: signs that hide, turn, strike out or pass for others are spelled out; other scripts are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.visible import visible, visible_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("drop table orders", "drop table orders"),
        ("a\u202eb\u2066c\u200bd\ufeff", "a\\u202eb\\u2066c\\u200bd\\ufeff"),
        ("\x1b[2J\x9b\r\x07", "\\x1b[2J\\x9b\\r\\x07"),
        ("a\u00a0where\u3000b", "a\\xa0where\\u3000b"),
        ("orders\u3164 \U000e0101", "orders\\u3164 \\U000e0101"),
        ("\U000e0064\U000e0072", "\\U000e0064\\U000e0072"),
        ("d\u0336r\u0336o\u0336p\u20e0", "d\\u0336r\\u0336o\\u0336p\\u20e0"),
        ("x" + "\u0301" * 5, "x" + "\u0301" * 3 + "\\u0301\\u0301"),
    ],
)
def test_what_hides_turns_or_strikes_out_is_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("drop table \u043erders", "drop table \\u043erders"),
        ("p\u0430ypal", "p\\u0430ypal"),
        ("\u0441\u0443\u0440", "\\u0441\\u0443\\u0440"),
        ("orders_\u03bf", "orders_\\u03bf"),
        ("\uff44\uff52\uff4f\uff50 x", "\\uff44\\uff52\\uff4f\\uff50 x"),
        ("\U0001d41d\U0001d42bop", "\\U0001d41d\\U0001d42bop"),
        ("ord\u13acrs", "ord\\u13acrs"),
    ],
    ids=["cyrillic", "in-the-middle", "all-alike", "greek", "full-width", "mathematical", "cherokee"],
)
def test_regression_a_letter_that_passes_for_another_is_spelled_out(text: str, shown: str) -> None:
    """`drop table оrders` was shown to whoever decides as if it were `drop table orders`."""
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Größe der Bestellungen, façade, naïve, Łódź, İstanbul",
        "привет, заказ № 7 в Москву",
        "и о с я",
        "Το όνομα της εταιρείας",
        "注文（合計）、テーブルid",
        "שָׁלוֹם عَلَيْكُم",
        "tiếng Việt, ภาษาไทย",
        "m², 1ª, 20 °C, 5 µs, 🙂",
    ],
    ids=["latin", "russian", "one-letter", "greek", "japanese", "marks", "tones", "signs"],
)
def test_other_scripts_stay_as_they_are_written(text: str) -> None:
    assert visible(text) == text


def test_lines_and_tabs_stay_where_a_text_has_lines() -> None:
    assert visible_lines("select\t1;\n\x00drop") == ["select\t1;", "\\x00drop"]
    assert visible("a\tb\nc") == "a\\tb\\nc"


@given(st.text())
def test_whatever_it_is_what_is_shown_can_be_shown(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert visible(shown) == shown or "\\" in shown
    assert (shown == text) or "\\" in shown
