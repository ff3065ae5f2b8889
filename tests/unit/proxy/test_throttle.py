"""What follows wrong tokens: a guesser is refused, its victim gets in from elsewhere, and memory and audit stay bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.proxy.throttle import (
    AGENT_FACTOR,
    GOOD_FOR,
    LONGEST_WAIT,
    SOURCE_FACTOR,
    STEP,
    Proceed,
    RefusedLines,
    Throttle,
    TooMany,
    place,
)

LIMIT, WINDOW = 5, 60.0
ATTACKER, HOME = "192.0.2.66", "10.0.0.7"
AGENT = "claude.production"


def throttle(kept: int = 1000) -> Throttle:
    return Throttle(limit=LIMIT, window=WINDOW, kept=kept)


def fail(counts: Throttle, times: int, source: str = ATTACKER, agent: str = AGENT, now: float = 0.0) -> None:
    for _ in range(times):
        counts.failed(source, agent, now)


def test_a_source_that_guesses_is_refused_until_the_window_is_over() -> None:
    counts = throttle()
    fail(counts, LIMIT - 1)
    assert counts.judge(ATTACKER, AGENT, 0.0) == Proceed()
    fail(counts, 1)
    refused = counts.judge(ATTACKER, AGENT, 20.0)
    assert isinstance(refused, TooMany)
    assert refused.retry_after == 40.0
    assert counts.judge(ATTACKER, AGENT, WINDOW) == Proceed()


def test_the_agent_gets_in_from_elsewhere() -> None:
    counts = throttle()
    fail(counts, LIMIT)
    assert counts.judge(HOME, AGENT, 0.0) == Proceed()


def test_an_agent_that_is_guessed_at_from_everywhere_is_slowed_and_never_locked_out() -> None:
    counts = throttle()
    counts.succeeded(HOME, AGENT, 0.0)
    for number in range(2000):
        counts.failed(f"10.1.{number // 250}.{number % 250}", AGENT, 1.0)
        verdict = counts.judge("10.9.9.9", AGENT, 1.0)
        assert isinstance(verdict, Proceed)
        assert verdict.wait == pytest.approx(min(LONGEST_WAIT, STEP * max(0, number + 1 - LIMIT * AGENT_FACTOR)))
        assert counts.judge(HOME, AGENT, 1.0) == Proceed()


def test_a_source_that_tries_many_names_is_refused_but_for_those_who_got_in_from_it() -> None:
    counts = throttle()
    counts.succeeded(ATTACKER, AGENT, 0.0)
    for number in range(LIMIT * SOURCE_FACTOR):
        assert isinstance(counts.judge(ATTACKER, f"agent-{number}.production", 1.0), Proceed)
        counts.failed(ATTACKER, f"agent-{number}.production", 1.0)
    assert isinstance(counts.judge(ATTACKER, "another.production", 1.0), TooMany)
    assert counts.judge(ATTACKER, AGENT, 1.0) == Proceed(), "behind the same balancer"
    assert counts.judge(HOME, "another.production", 1.0) == Proceed()


def test_a_good_source_is_not_good_for_ever_nor_for_another_agent() -> None:
    counts = throttle()
    counts.succeeded(HOME, AGENT, 0.0)
    fail(counts, LIMIT, source=HOME, now=GOOD_FOR)
    assert isinstance(counts.judge(HOME, AGENT, GOOD_FOR), TooMany), "its own mistakes count"
    fail(counts, LIMIT * SOURCE_FACTOR, source=HOME, agent="other.production", now=GOOD_FOR)
    assert isinstance(counts.judge(HOME, "third.production", GOOD_FOR), TooMany)


def test_the_right_token_forgets_what_was_wrong_before() -> None:
    counts = throttle()
    for _ in range(3):
        fail(counts, LIMIT - 1)
        counts.succeeded(ATTACKER, AGENT, 0.0)
    assert counts.judge(ATTACKER, AGENT, 0.0) == Proceed()


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.booleans()), max_size=400))
def test_memory_is_bounded(logins: list[tuple[int, int, bool]]) -> None:
    counts = throttle(kept=20)
    for source, agent, right in logins:
        counts.judge(f"10.0.{source // 250}.{source % 250}", f"agent-{agent}", 0.0)
        (counts.succeeded if right else counts.failed)(f"10.0.{source // 250}.{source % 250}", f"agent-{agent}", 0.0)
    assert len(counts) <= 4 * 20


def test_a_long_name_is_cut() -> None:
    counts = throttle()
    fail(counts, LIMIT, agent="a" * 10_000 + "1")
    assert isinstance(counts.judge(ATTACKER, "a" * 10_000 + "2", 0.0), TooMany)


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("2001:db8::ffff", "2001:db8::/64"),
        ("uid=1000", "uid=1000"),
    ],
)
def test_what_one_source_is(source: str, key: str) -> None:
    assert place(source) == key


def test_the_audit_gets_some_lines_and_a_count_of_the_others() -> None:
    lines = RefusedLines(window=WINDOW, per_source=3, together=5)
    assert [lines.take(ATTACKER, 0.0) for _ in range(10)] == [True] * 3 + [False] * 7
    assert lines.take(HOME, 1.0), "somebody else's refusal is written"
    assert list(lines.left_out(59.0)) == []
    assert list(lines.left_out(60.0)) == [(ATTACKER, 7)]
    assert list(lines.left_out(60.0)) == []
    assert lines.take(ATTACKER, 60.0)


def test_many_sources_together_are_bounded_too() -> None:
    lines = RefusedLines(window=WINDOW, per_source=3, together=5)
    written = sum(lines.take(f"10.0.{number // 250}.{number % 250}", 0.0) for number in range(1000))
    assert written == 5
    left = dict(lines.drain())
    assert len(left) == 6
    assert sum(left.values()) == 995
    assert left[""] == 990


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 5)), max_size=300))
def test_no_refusal_is_lost(refusals: list[tuple[int, float]]) -> None:
    lines = RefusedLines(window=WINDOW, per_source=3, together=5)
    now, written, left = 0.0, 0, 0
    for source, pause in refusals:
        now += pause
        written += lines.take(f"10.0.0.{source}", now)
        left += sum(count for _, count in lines.left_out(now))
    assert written + left + sum(count for _, count in lines.drain()) == len(refusals)
