"""The shield's own prepared statements count the changed rows of a session: no agent runs, replaces or drops one."""

from __future__ import annotations

import pytest

from dbshield.model import Deny
from dbshield.policy.judge import Judge


@pytest.mark.parametrize(
    "text",
    [
        "deallocate dbshield_1f_after",
        "DEALLOCATE PREPARE DBSHIELD_1f_after",
        'prepare U&"dbshi\\0065ld_1f_after" (int8) as select 1',
        "execute dbshield_1f_before(false)",
        "explain analyze execute dbshield_1f_before(true)",
        "create temp table t as execute dbshield_1f_before(true)",
        "do $$ begin deallocate dbshield_1f_after; end $$",
        "select 1; deallocate dbshield_1f_after",
    ],
)
def test_it_is_not_touched(judge: Judge, text: str) -> None:
    judgement = judge.judge(text.encode())
    assert isinstance(judgement.verdict, Deny)
    assert "DS404" in {finding.rule for finding in judgement.findings}


@pytest.mark.parametrize("text", ["deallocate mine", "prepare mine as select 1", "execute mine", "deallocate all"])
def test_the_agents_own_are_its_own(judge: Judge, text: str) -> None:
    assert not isinstance(judge.judge(text.encode()).verdict, Deny)
