"""Long texts without their bulk: runs of constants that say the same as the first few of them.

A bulk INSERT, or an IN with a hundred thousand numbers, is a list of constants; what the statement does shows in the first ones.
So a long run of such items is cut before the text is parsed: items inside brackets, or rows in brackets of their own, that are
made of constants alone. What is cut has no names, so it calls and reads nothing. And
no constant in such a list decides anything: `SET` and its like have no brackets, and a pattern says nothing where another one
beside it is no pattern for everything.
"""

from __future__ import annotations

from functools import lru_cache

from dbshield.sqltext import native
from dbshield.sqltext.normal import CONSTANT_TOKENS

SHORT_BYTES = 16 << 10
"""Shorter texts are parsed as they are."""

KEPT_ITEMS = 64
"""How many items of a run are kept. The functions that are judged by their constant arguments take three of them."""

COMMA, MINUS = ord(","), ord("-")
OPENING = frozenset({ord("("), ord("[")})
CLOSING = frozenset({ord(")"), ord("]")})
WORDS = frozenset({b"null", b"true", b"false", b"default"})


class _List:
    """One open bracket, or the text outside of all.

    `plain` while the item that is being read is made of constants, `some` when there is anything in it, `bulk` while every item
    was plain; `run` counts the plain items before it, and `begin` is where its comma stands.
    """

    __slots__ = ("begin", "bulk", "plain", "run", "some")

    def __init__(self) -> None:
        self.begin = -1
        self.run = 0
        self.bulk = self.plain = True
        self.some = False

    def ends(self) -> bool:
        """The item ends here; true when it is one too many of its run."""
        self.bulk = self.bulk and self.plain
        self.run = self.run + 1 if self.plain and self.some else 0
        self.plain, self.some = True, False
        return self.run > KEPT_ITEMS and self.begin >= 0


@lru_cache(maxsize=1)
def shortened(text: bytes) -> bytes:
    """`text` (without comments) with the bulk of its runs cut. Raises GrammarError where the lexer sees no tokens.

    The last answer is kept, because both readers ask for it, one after the other.
    """
    if len(text) <= SHORT_BYTES:
        return text
    cuts: list[tuple[int, int]] = []
    outermost = current = _List()
    outer: list[_List] = []
    for start, end, token in native.scan(text.decode()):
        if token == COMMA or token in CLOSING:
            if current.ends():
                while cuts and cuts[-1][0] >= current.begin:
                    cuts.pop()  # It was inside the item.
                cuts.append((current.begin, start))
            current.begin = start
            if token != COMMA and outer:
                bulk, current = current.bulk, outer.pop()
                current.plain, current.some = current.plain and bulk, True
        elif token in OPENING:
            outer.append(current)
            current = _List()
        elif current is outermost:
            current.plain = False
        elif token in CONSTANT_TOKENS or (token == MINUS and not current.some) or text[start:end].lower() in WORDS:
            current.some = True
        else:
            current.plain = False
    return _without(text, cuts)


def _without(text: bytes, cuts: list[tuple[int, int]]) -> bytes:
    pieces: list[bytes] = []
    position = 0
    for start, end in cuts:
        pieces.append(text[position:start])
        position = end
    pieces.append(text[position:])
    return b"".join(pieces)
