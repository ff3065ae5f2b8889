"""Where the counting queries stand in a text: right around each counted statement, before whatever the client wrote behind it."""

from __future__ import annotations

import pytest

from dbshield.model import AccessLevel, Counted, Limit
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.session.counting import Limits, RowCounter


@pytest.mark.parametrize(
    "text, pieces",
    [
        ("delete from t where id = 1", ["B", "delete from t where id = 1", "A"]),
        ("delete from t where id = 1; commit; select 1/0", ["B", "delete from t where id = 1", "A", "commit", "select 1/0"]),
        ("select 1; delete from t where id = 1; commit", ["select 1", "B", "delete from t where id = 1", "A", "commit"]),
        ("begin; update t set a = 1 where id = 1 -- x\n; end", ["begin", "B", "update t set a = 1 where id = 1", "A", "end"]),
    ],
)
def test_nothing_of_the_client_comes_between_a_counted_statement_and_its_count(text: str, pieces: list[str]) -> None:
    judgement = Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.builtin()).judge(text.encode())
    assert isinstance(judgement.verdict, Limit)
    counter = RowCounter("own")
    wrapped = counter.wrap(text.encode(), judgement.counted, 100, statements=judgement.statements)
    found = [piece.partition("--")[0].strip() for piece in wrapped.text.decode().split(";")]
    named = ["B" if "own_before" in piece else "A" if "own_after" in piece else piece for piece in found]
    assert [piece for piece in named if piece] == pieces


def test_a_single_statement_is_not_split() -> None:
    wrapped = RowCounter("own").wrap(b"delete from t", (Counted(statement=0),), 7, statements=1)
    assert wrapped.text.startswith(b"execute own_before;delete from t\n;execute own_after('7'")


def test_what_is_compared_follows_the_limits_and_what_is_used_of_an_hour() -> None:
    """The query behind a statement is made once for as long as neither changes."""
    used: dict[str, int] = {}
    counter = RowCounter("own", lambda limit, rows, pending: {table: limit - rows for table, rows in used.items()})

    def compared() -> tuple[bool, bool, bool]:
        """Whether the hour's limit, the table that has used of it, and the protected tables are in both forms of the query."""
        forms = (counter.after(7), counter.wrap(b"delete from t", (Counted(statement=0),), 7, statements=1).text)
        told = {tuple(word in form for word in (b"500", b"shop.t", b"billing")) for form in forms}
        assert len(told) == 1
        hour, table, protected = told.pop()
        return hour, table, protected

    assert compared() == compared() == (False, False, False)
    counter.limits = Limits(max_rows_per_hour=500)
    assert compared() == compared() == (True, False, False)
    used["shop.t"] = 20
    assert compared() == (True, True, False)
    used.clear()
    assert compared() == (True, False, False)
    counter.limits = Limits(max_rows_per_hour=500, protected=("billing.%",))
    assert compared() == (True, False, True)
    assert b"'8'" in counter.wrap(b"delete from t", (Counted(statement=0),), 8, statements=1).text


@pytest.mark.parametrize(
    ("text", "pending"),
    [
        ("delete from t where a = 1; delete from t where a = 2", [0, 0]),
        ("delete from t where a = 1; commit; delete from t where a = 2; /* x */ End; delete from t where a = 3", [0, 100, 200]),
        ("begin; delete from t where a = 1; select 1; rollback; delete from t where a = 2", [0, 0]),
        ("commit and chain; delete from t where a = 1", [100]),
    ],
)
def test_what_a_text_commits_may_have_been_changed_before(text: str, pending: list[int]) -> None:
    judgement = Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.builtin()).judge(text.encode())
    asked: list[tuple[int, int, int]] = []

    def remaining(limit: int, rows: int, before: int) -> dict[str, int]:
        asked.append((limit, rows, before))
        return {}

    counter = RowCounter("own", remaining)
    counter.limits = Limits(max_rows_per_hour=500)
    counter.wrap(text.encode(), judgement.counted, 100, statements=judgement.statements)
    assert asked == [(500, 100, before) for before in pending]
