"""Whatever nests in whatever, the two readers are done in time; what would take them too long is refused.

sqlglot tries some constructs twice, so that nesting them takes 2**n times as long. This nests every expression of the grammar in
itself, and in turn with the two that were seen to multiply.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import pytest
from fuzz.grammar import GRAMMAR, SYMBOL

from dbshield.sqltext.agreement import agree
from dbshield.sqltext.postgres import read
from dbshield.sqltext.statement import Trouble, Unreadable

LEVELS = 18
SECONDS = 1.5
"""Of the processor's time; a text without a bound would take minutes."""


def simplest(template: str) -> str:
    while SYMBOL.search(template):
        template = SYMBOL.sub(lambda found: GRAMMAR[found[1]][0], template)
    return template


def frames() -> Iterator[tuple[str, str]]:
    """What stands before and behind one place in an expression."""
    for alternative in (*GRAMMAR["expr"], *GRAMMAR["condition"]):
        for found in SYMBOL.finditer(alternative):
            if found[1] in {"expr", "condition"}:
                yield f"({simplest(alternative[: found.start()])}", f"{simplest(alternative[found.end() :])})"


FRAMES = list(dict.fromkeys(frames()))
OTHERS = {"itself": ("(", ")"), "an array": ("(array[", "])[1]"), "json": ("json(", ")"), "both": ("json((array[", "])[1])")}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("frame", FRAMES, ids=["".join(frame) for frame in FRAMES])
def test_fuzz_nested_expressions_are_read_in_time(frame: tuple[str, str], other: str) -> None:
    for levels in (3, 5, 7, LEVELS):
        text = "a"
        for _ in range(levels):
            text = f"{frame[0]}{OTHERS[other][0]}{text}{OTHERS[other][1]}{frame[1]}"
        # A collection of garbage goes through all that a process holds, whatever the text was.
        gc.disable()
        begin = time.process_time()
        try:
            whole = f"update t set a = {text} where id = 1".encode()
            agree(whole, read(whole))
        except Unreadable as refused:
            assert refused.trouble is not Trouble.READER_FAILED  # noqa: PT017 - being read is as good
        finally:
            gc.enable()
        assert time.process_time() - begin < SECONDS, text
