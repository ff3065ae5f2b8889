"""docs/explanation/protocol-traps.md names tests: each of them exists, and every trap has some."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/protocol-traps.md").read_text()
TRAPS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
NAME = re.compile(r"`(test_\w+)`")


def defined() -> set[str]:
    """The names of all tests."""
    nodes = (node for path in (ROOT / "tests").rglob("test_*.py") for node in ast.walk(ast.parse(path.read_text())))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_is_named_exists() -> None:
    assert sorted(set(NAME.findall(PAGE)) - defined()) == []


def test_there_are_eleven_traps_in_order() -> None:
    assert [int(trap.split(".")[0]) for trap in TRAPS] == list(range(1, 12))


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.split(".")[0])
def test_every_trap_has_a_test(trap: str) -> None:
    assert NAME.findall(trap)
