"""docs/explanation/session-control.md tells the truth: every statement in its tables is judged as the table says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from dbshield.errors import Refused
from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.session.parameters import startup_settings

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "session-control.md"
JUDGES = {access: Judge(policy=Policy(access=access), functions=FunctionCatalogue.builtin()) for access in AccessLevel}
CELL = re.compile(r"(allow|limit|hold|deny)(?: (DS\d{3}))?")


class Row(NamedTuple):
    """A row of a table: its examples, and the cells behind them."""

    examples: list[str]
    cells: list[str]


def rows(columns: int) -> list[Row]:
    found = []
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        examples = re.findall(r"`([^`]+)`", cells[0]) if len(cells) == columns else []
        if examples:
            found.append(Row(examples, cells[1:]))
    return found


STATEMENTS = [
    pytest.param(example, access, cell, id=f"{access}: {example}")
    for row in rows(5)
    for example in row.examples
    for access, cell in zip(AccessLevel, row.cells, strict=False)
]
STARTUP = [pytest.param(example, row.cells[0], id=example) for row in rows(3) for example in row.examples]


@pytest.mark.parametrize(("statement", "access", "cell"), STATEMENTS)
def test_a_statement_of_the_page(statement: str, access: AccessLevel, cell: str) -> None:
    said = CELL.fullmatch(cell)
    assert said is not None, f"{cell!r} is no verdict"
    judgement = JUDGES[access].judge(statement.encode())
    assert judgement.verdict.word == said[1]
    rules = {finding.rule for finding in judgement.findings}
    assert rules == set() if said[2] is None else said[2] in rules


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
    table = rows(5) + rows(3)
    assert len(table) > 50
    assert all(row.cells[-1] for row in table)
    assert len(STATEMENTS) > 400
    assert len(STARTUP) > 10
