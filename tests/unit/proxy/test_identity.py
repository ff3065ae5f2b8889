"""Which server an environment's agents may meet: what is pinned, what a guard says, and what is seen for the first time."""

from __future__ import annotations

import pytest

from dbshield.errors import Refused
from dbshield.guard.identity import Identity, mark, read_identity
from dbshield.proxy.identity import Identities


class Known:
    """What the control database has pinned, and what this process said it saw first."""

    def __init__(self, **pins: int) -> None:
        self.pins = pins
        self.first: list[tuple[str, int]] = []
        self.identities = Identities(lambda: self.pins, lambda name, identifier: self.first.append((name, identifier)))

    def check(self, identifier: int, guard: str = "", environment: str = "staging") -> str:
        """Why a server is refused; empty where it is not."""
        refused: Refused | None = None
        try:
            self.identities.check(environment, Identity(system_identifier=identifier, environment=guard))
        except Refused as error:
            refused = error
        if refused is None:
            return ""
        assert refused.sqlstate == "08004"
        assert "environment pin" in refused.hint
        return refused.message


def test_the_pinned_cluster_passes_and_another_does_not() -> None:
    known = Known(staging=1)
    assert known.check(1) == ""
    assert known.check(2) == "environment staging is the cluster 1, and at its address is the cluster 2 now"
    assert known.first == []


def test_the_first_one_is_believed_and_holds_at_once() -> None:
    known = Known()
    assert known.check(1) == ""
    assert known.first == [("staging", 1)]
    assert known.check(1) == ""
    assert "is the cluster 1" in known.check(2), "before the control database has said so"
    assert known.first == [("staging", 1)]


def test_a_human_pin_outweighs_what_was_seen() -> None:
    known = Known()
    known.check(1)
    known.pins["staging"] = 2
    assert known.check(2) == ""
    assert "is the cluster 2" in known.check(1)


def test_another_environments_server_is_named_and_never_believed_at_first_sight() -> None:
    known = Known(production=1)
    assert known.check(1) == "environment staging is configured with the address of the server of production"
    assert known.first == []
    known.pins["staging"] = 2
    assert "of the server of production" in known.check(1)
    known.pins["staging"] = 1
    assert known.check(1) == "", "a human said that they share it"


def test_a_guard_for_another_environment_counts_whatever_is_pinned() -> None:
    for known in (Known(), Known(staging=1)):
        assert (
            known.check(1, "production")
            == "environment staging is configured with the address of a server that says it is production"
        )
        assert known.check(1, "staging") == ""


@pytest.mark.parametrize(
    ("rows", "identity"),
    [
        ([("7", None)], Identity(system_identifier=7)),
        ([("7", mark("staging"))], Identity(system_identifier=7, environment="staging")),
        ([("7", "somebody's own comment")], Identity(system_identifier=7)),
    ],
)
def test_what_a_server_answers(rows: list[tuple[str | None, ...]], identity: Identity) -> None:
    assert read_identity(rows) == identity


@pytest.mark.parametrize("rows", [[], [(None, None)], [("", None)], [("x", None)]])
def test_an_answer_that_tells_nothing_is_refused(rows: list[tuple[str | None, ...]]) -> None:
    with pytest.raises(Refused, match="does not tell which cluster it is"):
        read_identity(rows)
