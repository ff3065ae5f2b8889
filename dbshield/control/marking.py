"""What of a statement destroys, for the eye of a human who decides.

A help and no judgement: what counts is what the readers said of it. Where a text cannot be cut into tokens it is shown without
marks, and always whole: the pieces put together are the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from dbshield.control.approval import KEEPS_DATA
from dbshield.model import Flag, ObjectKind, Operation
from dbshield.sqltext import native
from dbshield.sqltext.normal import COMMENT_TOKENS, CONSTANT_TOKENS

MARKED_MOST: Final = 256 << 10
"""Characters; longer texts are shown without marks."""
WORDS: Final[dict[str, frozenset[str]]] = {
    Operation.ALTER: frozenset({"alter", "drop", "rename", "detach", "disable", "truncate", "type"}),
    Operation.DROP: frozenset({"drop", "owned"}),
    Operation.DELETE: frozenset({"delete", "merge"}),
    Operation.UPDATE: frozenset({"update", "merge"}),
    Operation.REPLACE: frozenset({"replace"}),
}
"""The words of an operation, where they are not the operation itself."""
CALLS: Final = f"{Operation.CALL} "
KINDS: Final = sorted((kind.value for kind in ObjectKind), key=len, reverse=True)
FLAGS: Final = frozenset(flag.value for flag in Flag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a statement, and whether it is about what is destroyed."""

    text: str
    destroys: bool = False


def marked(statement: str, effects: Iterable[str]) -> list[Piece]:
    """The statement in pieces; `effects` are in words, as an approval has them."""
    words = _words(effects)
    if not words or len(statement) > MARKED_MOST or "\0" in statement:
        return [Piece(text=statement)]
    raw = statement.encode("utf-8", "surrogatepass")
    pieces: list[Piece] = []
    position = 0
    try:
        for start, end, token in native.scan(statement):
            if token in CONSTANT_TOKENS or token in COMMENT_TOKENS:
                continue
            text = raw[start:end].decode()
            if _folded(text) in words:
                pieces += [Piece(text=raw[position:start].decode()), Piece(text=text, destroys=True)]
                position = end
        pieces.append(Piece(text=raw[position:].decode()))
    except (native.GrammarError, UnicodeError):
        return [Piece(text=statement)]
    return [piece for piece in pieces if piece.text]


def _words(effects: Iterable[str]) -> frozenset[str]:
    """Words and names that are marked, as PostgreSQL folds them. Of a statement that destroys by itself, the functions that it
    calls besides are not: most are count() and now()."""
    listed = list(effects)
    found = _words_of(one for one in listed if not one.startswith(CALLS)) or _words_of(listed)
    return frozenset(found - {""})


def _words_of(effects: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for effect in effects:
        operation, _, rest = effect.partition(" ")
        name, flags = _name(rest)
        if operation in KEEPS_DATA and Flag.REWRITE.value not in flags:
            continue
        found |= WORDS.get(operation, {operation})
        found |= {"cascade"} if Flag.CASCADE.value in flags else set()
        # With and without its schema: names may hold a dot themselves.
        found |= {name, *name.split(".")}
    return found


def _name(rest: str) -> tuple[str, frozenset[str]]:
    """The name and the flags of an effect behind its operation."""
    kind = next((kind for kind in KINDS if rest.startswith(f"{kind} ")), "")
    name = rest.removeprefix(kind).strip()
    flags: set[str] = set()
    while found := next((flag for flag in FLAGS if name.endswith(f" {flag}")), ""):
        flags.add(found)
        name = name.removesuffix(f" {found}")
    return name, frozenset(flags)


def _folded(token: str) -> str:
    return token[1:-1].replace('""', '"') if token.startswith('"') and token.endswith('"') else token.lower()
