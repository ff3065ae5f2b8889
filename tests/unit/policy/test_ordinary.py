"""The traffic of real clients passes: what drivers, object mappers, migration tools, dashboards and agents send all day.

Some of it is rightly held; those lines say by which rule and why. A line that changes sides must be looked at.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dbshield.model import AccessLevel, Allow, Limit
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy

ORDINARY = Path(__file__).parents[2] / "cases" / "ordinary.jsonl"
LINES = [json.loads(line) for line in ORDINARY.read_text("utf-8").splitlines()]
JUDGES = {access: Judge(policy=Policy(access=access), functions=FunctionCatalogue.builtin()) for access in AccessLevel}
ENOUGH = 250
MOST_HELD = 0.15
"""Of the lines, at most this part may be held: the file is about ordinary work."""


@pytest.mark.parametrize("line", [pytest.param(line, id=line["id"]) for line in LINES])
def test_ordinary_traffic(line: dict[str, Any]) -> None:
    judgement = JUDGES[AccessLevel(line["access"])].judge(line["sql"].encode())
    spoken = {finding.rule for finding in judgement.findings}
    if "held" in line:
        assert not isinstance(judgement.verdict, (Allow, Limit))
        assert line["held"]["rule"] in spoken
        assert line["held"]["why"]
    else:
        assert isinstance(judgement.verdict, (Allow, Limit)), [finding.message for finding in judgement.findings]


def test_the_file_is_about_what_passes() -> None:
    assert len(LINES) >= ENOUGH
    assert sum("held" in line for line in LINES) <= MOST_HELD * len(LINES)
    assert max(Counter(line["id"] for line in LINES).values()) == 1
