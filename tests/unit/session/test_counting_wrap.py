"""Where the counting queries stand in a text: right around each counted statement, before whatever the client wrote behind it."""

from __future__ import annotations

import pytest

from dbshield.model import AccessLevel, Counted, Limit
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.session.counting import RowCounter


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
