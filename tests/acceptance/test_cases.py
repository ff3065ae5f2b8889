"""Every case live as the agent through the proxy, told by the data: attacks destroy nothing, harmless work passes."""

from __future__ import annotations

import pytest
from support.arena import Arena
from support.cases import Case, load

ATTACKS = [*load("attacks.jsonl"), *load("own.jsonl")]
HARMLESS = load("harmless.jsonl")

ONLY_THE_GUARD_KNOWS: dict[str, str] = {
    "alter-replace-view": "whether a view of that name is there already, and what it held, only the database knows",
}
"""Attacks of the layers `catalog` and `privilege` that get through the proxy, each with the reason. It may only shrink."""

EXCEPTIONS: dict[str, str] = {}
"""Harmless cases that this version stops, with the reason. It may only shrink."""

UNSUPPORTED = {(18, "query-xml"): "unsupported XML feature"}
"""Cases that a server itself cannot do, with its words: the embedded one is built without libxml."""


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case["id"])
def test_an_attack_destroys_nothing(arena: Arena, case: Case) -> None:
    lost, errors = arena.run(case)
    if case["id"] in ONLY_THE_GUARD_KNOWS:
        assert lost, f"it is stopped now: take it out of ONLY_THE_GUARD_KNOWS ({ONLY_THE_GUARD_KNOWS[case['id']]})"
        return
    assert lost == []
    assert any(errors), "nothing was refused"
    if case["proof"] == "capability":
        assert errors[-1], "the capability was used"


def test_only_the_guard_can_know_what_is_excepted() -> None:
    layers = {case["id"]: case["layer"] for case in ATTACKS}
    assert {layers[name] for name in ONLY_THE_GUARD_KNOWS} <= {"catalog", "privilege"}


@pytest.mark.parametrize("case", HARMLESS, ids=lambda case: case["id"])
def test_harmless_work_passes(arena: Arena, case: Case) -> None:
    lost, errors = arena.run(case)
    assert lost == []
    if (arena.shield.server.major, case["id"]) in UNSUPPORTED:
        assert UNSUPPORTED[arena.shield.server.major, case["id"]] in str(errors)
    elif case["id"] in EXCEPTIONS:
        assert any(errors), f"it passes now: take it out of EXCEPTIONS ({EXCEPTIONS[case['id']]})"
    else:
        assert [error for error in errors if error] == []
