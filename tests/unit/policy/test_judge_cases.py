"""All of tests/cases through the judge alone: what the text shows is stopped, what an agent needs passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dbshield.model import AccessLevel, Allow, Judgement, Limit
from dbshield.policy.judge import Judge

CASES = Path(__file__).parents[2] / "cases"

HELD_FOR_NOW: dict[str, str] = {}
"""Harmless cases that are stopped in this step, each with the reason."""

PASSES_FOR_NOW = {
    "lexical-comment-in-operator": "the comment hides the end of a comparison with a constant; only the number of rows tells",
}
"""Attacks with the layer `text` that the text alone does not stop in this step, each with the reason."""

ROWS = "only the number of rows tells"
PROTOCOL = "not SQL: the session refuses it at startup, or judge_function does"
CATALOGUE = "needs what the replaced view did before"
REASONS = {"rows": ROWS, "protocol": PROTOCOL}
OTHER_PASSES = {
    "alter-replace-view": CATALOGUE,
    "hidden-execution-do-one-row-loop": ROWS,
    "hidden-execution-do-current-of": ROWS,
    "hidden-execution-do-swallowed-errors": ROWS,
}


def load(name: str) -> list[Any]:
    cases = [json.loads(line) for line in (CASES / name).read_text().splitlines()]
    return [pytest.param(case, id=case["id"]) for case in cases]


def judged(case: dict[str, Any], judges: dict[AccessLevel, Judge]) -> list[Judgement]:
    judge = judges[AccessLevel(case["access"])]
    return [judge.judge(step["sql"].encode()) for step in case["steps"] if "sql" in step]


def stopped(judgement: Judgement) -> bool:
    return not isinstance(judgement.verdict, (Allow, Limit))


@pytest.mark.parametrize("case", load("attacks.jsonl"))
def test_attack(case: dict[str, Any], judges: dict[AccessLevel, Judge]) -> None:
    caught = any(map(stopped, judged(case, judges)))
    reason = PASSES_FOR_NOW.get(case["id"]) or OTHER_PASSES.get(case["id"]) or REASONS.get(case["layer"])
    if case["id"] in PASSES_FOR_NOW or case["id"] in OTHER_PASSES:
        assert not caught, f"it is stopped now: take it off the list ({reason})"
    elif reason is None:
        assert caught


@pytest.mark.parametrize("case", load("harmless.jsonl"))
def test_harmless(case: dict[str, Any], judges: dict[AccessLevel, Judge]) -> None:
    found = [judgement.findings for judgement in judged(case, judges) if stopped(judgement)]
    if case["id"] in HELD_FOR_NOW:
        assert found, f"it passes now: take it off the list ({HELD_FOR_NOW[case['id']]})"
    else:
        assert not found


WRAPPERS = [
    "begin; {}; commit",
    "prepare wrapped as {}",
    "explain analyze {}",
    "explain (verbose, analyze true) {}",
    "with wrapped as ({}) select 1",
    "copy ({}) to stdout",
    "create temp table wrapped as {}",
    "/* lead */ {}",
    "select 1; {}; select 2",
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    "case",
    [case for case in load("attacks.jsonl") if case.values[0]["layer"] == "text" and case.id not in PASSES_FOR_NOW],
)
def test_an_attack_in_a_wrapper(case: Any, wrapper: str, judges: dict[AccessLevel, Judge]) -> None:
    """Whatever carries a stopped statement is stopped as well, if only because it is no SQL any more."""
    judge = judges[AccessLevel(case["access"])]
    for step in case["steps"]:
        text = step.get("sql", "").strip().rstrip(";")
        if text and stopped(judge.judge(text.encode())):
            assert stopped(judge.judge(wrapper.format(text).encode()))


def test_the_lists_name_cases_that_exist() -> None:
    names = {case.id for name in ("attacks.jsonl", "harmless.jsonl") for case in load(name)}
    assert {*HELD_FOR_NOW, *PASSES_FOR_NOW, *OTHER_PASSES} <= names
