"""What a session has set that decides what a text means: what is asked of the server, and what its answer is taken for."""

from __future__ import annotations

import pytest

from dbshield.policy.setting_lists import HARMLESS
from dbshield.session.terms import CARRIED, MEANING, QUERY, Terms, read
from dbshield.wire.backend import DataRow
from dbshield.wire.frontend import Bind

PATH = (b"search_path", b"shop, public")
TIMEOUT = (b"(idle_session_timeout)", b"1500")


def rows(*values: tuple[bytes | None, ...]) -> list[bytes]:
    return [DataRow(values=each).encode()[5:] for each in values]


def test_what_the_server_told() -> None:
    told = read(rows(PATH, (b"datestyle", b"SQL, DMY"), (b"lc_time", None), TIMEOUT))
    assert told == Terms(settings={"search_path": "shop, public", "datestyle": "SQL, DMY"}, idle_timeout=1.5)
    told = read(rows(PATH, (b"(temporary)", b""), TIMEOUT))
    assert told is not None
    assert told.temporary


@pytest.mark.parametrize(
    "answer",
    [
        (),
        (PATH,),
        (TIMEOUT,),
        (PATH, (b"(idle_session_timeout)", b"soon")),
        (PATH, TIMEOUT, (b"role", b"postgres")),
        (PATH, (b"only one",)),
    ],
)
def test_what_is_no_answer_is_none(answer: tuple[tuple[bytes | None, ...], ...]) -> None:
    """Then nobody is asked, rather than on terms that nobody knows."""
    assert read(rows(*answer)) is None


def test_every_setting_that_an_agent_may_change_and_that_reads_or_writes_values_is_carried() -> None:
    words = ("input", "output", "new tables", "new values")
    assert {name for name, why in HARMLESS.items() if any(word in why for word in words)} <= CARRIED


def test_names_in_the_query_are_names() -> None:
    assert all(part.isidentifier() for name in MEANING for part in name.split("."))
    assert QUERY.isascii()
    assert Bind.code == b"B"
