"""Every case in other words and by other roads (support/mutations.py), live: attacks still destroy nothing, harmless work passes.

A deterministic sample of attacks.jsonl and harmless.jsonl runs with `make test`, every case in every way with `make test-long`.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from acceptance.test_cases import ATTACKS as ALL_ATTACKS
from acceptance.test_cases import EXCEPTIONS, HARMLESS, ONLY_THE_GUARD_KNOWS, UNSUPPORTED
from support.arena import Arena
from support.cases import Case, load
from support.mutations import SENDINGS, Mutant, mutants, sample
from support.spellings import SPELLINGS

ATTACKS = [case for case in ALL_ATTACKS if case["id"] not in ONLY_THE_GUARD_KNOWS]
SAMPLED = [case for case in load("attacks.jsonl") if case["id"] not in ONLY_THE_GUARD_KNOWS]
KEPT = (*SPELLINGS, *SENDINGS)
"""What leaves harmless work harmless."""

ATTACK_SAMPLE, HARMLESS_SAMPLE = 3, 1
"""Mutants a case in every run, on one of the servers."""

SWALLOWS = "do-caught"
"""The one mutation that hides the error of a step."""


def harm(arena: Arena, case: Case, found: Iterable[Mutant]) -> dict[str, object]:
    """What got through, by the name of the mutant."""
    through: dict[str, object] = {}
    for mutant in found:
        lost, errors = arena.run(mutant.of(case))
        if lost:
            through[mutant.name] = lost
        elif case["proof"] == "capability" and mutant.name != SWALLOWS and errors[mutant.decisive] is None:
            through[mutant.name] = "the capability was used"
    return through


def false_alarms(arena: Arena, case: Case, found: Iterable[Mutant]) -> dict[str, object]:
    """What was stopped, by the name of the mutant."""
    stopped: dict[str, object] = {}
    for mutant in found:
        _, errors = arena.run(mutant.of(case))
        if any(errors):
            stopped[mutant.name] = [error for error in errors if error]
    return stopped


def works(arena: Arena, case: Case) -> bool:
    """Whether this version and this server do the case at all."""
    return case["id"] not in EXCEPTIONS and (arena.shield.server.major, case["id"]) not in UNSUPPORTED


@pytest.mark.one_server
@pytest.mark.parametrize("case", SAMPLED, ids=lambda case: case["id"])
def test_an_attack_in_other_words_destroys_nothing(arena: Arena, case: Case) -> None:
    assert harm(arena, case, sample(case, ATTACK_SAMPLE)) == {}


@pytest.mark.one_server
@pytest.mark.parametrize("case", HARMLESS, ids=lambda case: case["id"])
def test_harmless_work_in_other_words_passes(arena: Arena, case: Case) -> None:
    if works(arena, case):
        assert false_alarms(arena, case, sample(case, HARMLESS_SAMPLE, KEPT)) == {}


@pytest.mark.long
@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case["id"])
def test_an_attack_in_any_words_destroys_nothing(arena: Arena, case: Case) -> None:
    assert harm(arena, case, mutants(case)) == {}


@pytest.mark.long
@pytest.mark.parametrize("case", HARMLESS, ids=lambda case: case["id"])
def test_harmless_work_in_any_words_passes(arena: Arena, case: Case) -> None:
    if works(arena, case):
        assert false_alarms(arena, case, mutants(case, KEPT)) == {}
