"""What hardens a policy softens no verdict, and what loosens it lets no rows change uncounted: over every case there is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dbshield.model import AccessLevel, Judgement, Operation
from dbshield.patterns import ObjectPattern
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Mode, Override, OverrideVerdict, Policy
from dbshield.rule_ids import FAMILIES, VERDICTS

CASES = Path(__file__).parents[2] / "cases"
TEXTS = tuple(
    dict.fromkeys(
        (AccessLevel(case["access"]), step["sql"].encode())
        for name in ("attacks.jsonl", "harmless.jsonl")
        for case in map(json.loads, (CASES / name).read_text().splitlines())
        for step in case["steps"]
        if "sql" in step
    )
)
EVERYTHING_ALLOWED = tuple(Override(rule=family, verdict=OverrideVerdict.ALLOW) for family in FAMILIES)
SHOP = ObjectPattern.parse("shop.*")
HARDER: dict[str, Mapping[str, Any]] = {
    **{f"{family} denied": {"overrides": (Override(rule=family, verdict=OverrideVerdict.DENY),)} for family in FAMILIES[:-2]},
    "shop denied": {
        "overrides": (Override(rule="DS2xx", verdict=OverrideVerdict.DENY, objects=(ObjectPattern.parse("shop.*"),)),)
    },
    "protected": {"protected": (SHOP, ObjectPattern.parse("*.orders"))},
    "frozen": {"frozen": True},
    "unaudited": {"unaudited": True},
}
CHANGES = {Operation.UPDATE, Operation.DELETE}


def judged(functions: FunctionCatalogue, access: AccessLevel, text: bytes, policy: Mapping[str, Any]) -> Judgement:
    """By a judge of its own, which has seen no function created by another case."""
    return Judge(policy=Policy(access=access, **policy), functions=functions, cache_entries=10).judge(text)


@pytest.fixture(scope="module")
def usual(functions: FunctionCatalogue) -> dict[tuple[AccessLevel, bytes], Judgement]:
    return {(access, text): judged(functions, access, text, {}) for access, text in TEXTS}


def rank(judgement: Judgement) -> int:
    return VERDICTS.index(judgement.verdict.word)


@pytest.mark.parametrize("harder", HARDER.values(), ids=HARDER)
def test_what_hardens_never_softens(
    harder: Mapping[str, Any], functions: FunctionCatalogue, usual: dict[tuple[AccessLevel, bytes], Judgement]
) -> None:
    changed = 0
    for (access, text), before in usual.items():
        after = judged(functions, access, text, harder)
        assert rank(after) >= rank(before), text
        changed += after != before
    assert changed, "it hardens something"


def test_what_loosens_counts_all_the_same(functions: FunctionCatalogue) -> None:
    loosened = 0
    for access, text in TEXTS:
        judgement = judged(functions, access, text, {"overrides": EVERYTHING_ALLOWED})
        if judgement.verdict.word == "allow":
            assert not any(effect.operation in CHANGES for effect in judgement.effects) or b"prepare" in text.lower(), text
            assert not any(finding.rule.startswith("DS6") for finding in judgement.findings), text
        loosened += judgement.verdict.word in {"allow", "limit"} and bool(judgement.findings)
    assert loosened > 50


def test_observing_says_what_enforcing_does(
    functions: FunctionCatalogue, usual: dict[tuple[AccessLevel, bytes], Judgement]
) -> None:
    for (access, text), enforced in usual.items():
        observed = judged(functions, access, text, {"mode": Mode.OBSERVE})
        assert observed.observed == enforced.verdict
        assert observed.findings == enforced.findings
        assert observed.verdict.word in {"allow", "deny"}
        assert observed.counted == ()
