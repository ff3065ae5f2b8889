"""Who waits for which entry: nobody is told of one that is not kept, and everybody is told of theirs."""

from __future__ import annotations

from dbshield.control.audit_outbox import Outbox
from dbshield.errors import DbshieldError, Refused

AWAY = Refused("away", sqlstate="57P03", hint="Later.")


class Waiter:
    def __init__(self) -> None:
        self.told: list[DbshieldError | None] = []

    def __call__(self, error: DbshieldError | None) -> None:
        self.told.append(error)


def test_who_waits_is_told_of_what_was_put_in_after_it_asked_and_before_it_had_a_number() -> None:
    outbox, first, second = Outbox(), Waiter(), Waiter()
    outbox.wait(first)
    outbox.put(["1", "2"])
    outbox.number()
    outbox.wait(second)
    outbox.tell(1)
    assert (first.told, second.told) == ([], [])
    outbox.tell(2)
    assert (first.told, second.told) == ([None], [])
    outbox.put(["3"])
    outbox.number()
    outbox.tell(2)
    assert second.told == []
    outbox.tell(3)
    assert (first.told, second.told) == ([None], [None])


def test_where_everything_is_kept_nobody_waits() -> None:
    outbox, waiter = Outbox(), Waiter()
    outbox.put(["1"])
    outbox.gone(1)
    outbox.tell(1)
    outbox.wait(waiter)
    assert waiter.told == []
    outbox.number()
    assert waiter.told == [None]


def test_a_failure_is_told_to_all_and_to_those_without_a_number_too() -> None:
    """Those have entries that were not even put in: what is kept up to now says nothing about them."""
    outbox, numbered, unnumbered = Outbox(), Waiter(), Waiter()
    outbox.wait(numbered)
    outbox.put(["1"])
    outbox.number()
    outbox.wait(unnumbered)
    outbox.fail(AWAY)
    assert (numbered.told, unnumbered.told) == ([AWAY], [AWAY])
    outbox.number()
    outbox.tell(1)
    assert (numbered.told, unnumbered.told) == ([AWAY], [AWAY])


def test_whoever_is_told_may_ask_again() -> None:
    outbox, again = Outbox(), Waiter()
    outbox.wait(lambda _: outbox.wait(again))
    outbox.put(["1"])
    outbox.number()
    outbox.tell(1)
    assert again.told == []
    outbox.put(["2"])
    outbox.number()
    outbox.tell(2)
    assert again.told == [None]
