"""docs/explanation/session-control.md tells the truth: every statement in its tables is judged as the table says."""

from __future__ import annotations

import pytest
from support.session_page import STARTUP_COLUMNS, STATEMENT_COLUMNS, Said, rows, statements

from dbshield.errors import Refused
from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.session.parameters import startup_settings

JUDGES = {access: Judge(policy=Policy(access=access), functions=FunctionCatalogue.builtin()) for access in AccessLevel}
STATEMENTS = statements()
STARTUP = [pytest.param(example, row.cells[0], id=example) for row in rows(STARTUP_COLUMNS) for example in row.examples]


@pytest.mark.parametrize("said", [pytest.param(said, id=f"{said.access}: {said.statement}") for said in STATEMENTS])
def test_a_statement_of_the_page(said: Said) -> None:
    judgement = JUDGES[said.access].judge(said.statement.encode())
    assert judgement.verdict.word == said.word
    rules = {finding.rule for finding in judgement.findings}
    assert said.rule in rules if said.rule else rules == set()


@pytest.mark.parametrize(("setting", "passes"), STARTUP)
def test_a_startup_setting_of_the_page(setting: str, passes: str) -> None:
    """In the packet itself and in `options` alike."""
    name, _, value = setting.partition("=")
    for parameters in ([(name, value)], [("options", f"-c {setting}")]):
        if passes == "yes":
            assert name in startup_settings(parameters, agent="claude")
        else:
            assert passes == "no"
            with pytest.raises(Refused):
                startup_settings(parameters, agent="claude")


def test_the_page_gives_a_reason_for_each_row() -> None:
    table = rows(STATEMENT_COLUMNS) + rows(STARTUP_COLUMNS)
    assert len(table) > 50
    assert all(row.cells[-1] for row in table)
    assert len(STATEMENTS) > 400
    assert len(STARTUP) > 10
