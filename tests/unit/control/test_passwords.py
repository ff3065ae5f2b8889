"""Passwords of people: what is kept of one, and which are none."""

from __future__ import annotations

import pytest

from dbshield.control import passwords
from dbshield.errors import ConfigError, StoreError

GOOD = "correct horse battery staple"


def test_a_verifier_knows_its_password_and_no_other() -> None:
    kept = passwords.verifier(GOOD)
    assert GOOD not in kept
    assert passwords.matches(GOOD, kept)
    assert not passwords.matches(GOOD + " ", kept)
    assert not passwords.matches(GOOD, None)
    assert passwords.verifier(GOOD) != kept, "every verifier has a salt of its own"


def test_the_same_letters_are_the_same_password() -> None:
    composed, decomposed = "m\u00fcde Gr\u00fc\u00dfe, ferne Z\u00fcge", "mu\u0308de Gru\u0308\u00dfe, ferne Zu\u0308ge"
    assert passwords.matches(decomposed, passwords.verifier(composed))


@pytest.mark.parametrize("weak", ["", "short", "aaaaaaaaaaaaaaaa", "ann-ann-1234", "x" * 1025])
def test_weak_ones_are_refused(weak: str) -> None:
    with pytest.raises(ConfigError) as caught:
        passwords.check_password(weak, "ann")
    assert not weak or weak not in caught.value.message


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "md5$abc",
        "scrypt$15$8$3$AAAA",
        "scrypt$30$8$1$AAAA$AAAA",
        "scrypt$15$8$3$!$!",
        "scrypt$15$900$3$AAAA$" + "A" * 43 + "=",
    ],
)
def test_what_is_no_verifier_lets_nobody_in(stored: str) -> None:
    with pytest.raises(StoreError):
        passwords.matches(GOOD, stored)
