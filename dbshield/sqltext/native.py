"""The C functions of libpg_query (PostgreSQL's own grammar), called on bytes and nothing else.

postgast binds the library; its Python decoder of the tree fails at a depth of about 50, so this module takes the JSON form
instead, and hands trees from function to function as the bytes that the library made.

The library's C code recurses without a guard of its own. Measured on an 8 MiB stack: parsing dies between 30,000 and 100,000
levels, normalising between 9,000 and 30,000, printing between 1,000 and 3,000. So no text reaches a function here before
its depth is known to be harmless: by its length (a level takes at least two bytes), by its tokens, or by its parsed tree.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import postgast
from postgast.native import PgQueryProtobuf, lib

MAX_NORMALISED_BYTES = 8 << 10
"""A text of this length has at most 4,096 levels: less than half of where normalising was seen to die."""

MAX_UNCOUNTED_BYTES = 16 << 10
"""A text of this length has at most 8,192 levels: a quarter of where parsing was seen to die. Longer ones are counted first."""

MAX_LEVELS = 8_000
"""How many levels a longer text may have by its tokens."""


SIGNS_UNCOUNTED_BYTES = 4 << 10
"""In a text of this length the lexer looks at operator characters 16 million times at most: in 0.05 s."""

MAX_LOOKS_AT_SIGNS = 32_000_000
"""How often it may look at them in a longer text: 0.1 s each time that the text is taken apart."""

_SIGNS = re.compile(rb"[~!@#^&|`?+*/%<>=-]{16,}")
"""Operator characters in a row (op_chars in `scan.l`)."""


class GrammarError(Exception):
    """PostgreSQL's grammar does not accept the text; `message` is what PostgreSQL would say of it, without what it quotes:
    the word at fault may be a password. `position` counts characters from 1; 0 where it is not known."""

    def __init__(self, message: str, position: int) -> None:
        reason = message.partition(" at or near ")[0]
        self.message = f"{reason} at character {position}" if position else reason
        self.position = position
        super().__init__(self.message)


class Token(NamedTuple):
    """One token: `start` and `end` are byte offsets, `token` is the grammar's number (a character's code, or above 257)."""

    start: int
    end: int
    token: int


def is_laborious(text: bytes) -> bool:
    """Whether the lexer would look at the operator characters of `text` too often.

    It takes in all of a row of them before it goes back to where a comment begins, or a sign that stands for itself: once for
    each. So `/*/*/*…` and `+++…` of a megabyte keep it busy for a quarter of an hour.
    """
    if len(text) <= SIGNS_UNCOUNTED_BYTES:
        return False
    return sum(len(row) ** 2 for row in _SIGNS.findall(text)) > MAX_LOOKS_AT_SIGNS


def check_labour(text: bytes) -> None:
    """Raise GrammarError for a text that is laborious: none gets to the lexer."""
    if is_laborious(text):
        raise GrammarError("too many operator characters in a row", 0)


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _raise(error: Any) -> None:
    contents = error.contents
    raise GrammarError(_text(contents.message), contents.cursorpos)


def parse(text: bytes) -> bytes:
    """The tree of `text` (UTF-8, no NUL) as JSON; GrammarError where the grammar does not accept it."""
    check_labour(text)
    result = lib.pg_query_parse(text)
    try:
        if result.error:
            _raise(result.error)
        tree: bytes = result.parse_tree
        return tree
    finally:
        lib.pg_query_free_parse_result(result)


def normalise(text: bytes) -> bytes:
    """`text` with every constant replaced by a parameter; GrammarError where the grammar does not accept it."""
    check_labour(text)
    result = lib.pg_query_normalize(text)
    try:
        if result.error:
            _raise(result.error)
        normal: bytes = result.normalized_query
        return normal
    finally:
        lib.pg_query_free_normalize_result(result)


def parse_protobuf(text: bytes) -> bytes:
    """The tree of `text` as the protobuf bytes that `deparse` takes."""
    check_labour(text)
    result = lib.pg_query_parse_protobuf(text)
    try:
        if result.error:
            _raise(result.error)
        return ctypes.string_at(result.parse_tree.data, result.parse_tree.len)
    finally:
        lib.pg_query_free_protobuf_parse_result(result)


def deparse(tree: bytes) -> bytes:
    """The text that PostgreSQL's grammar prints from a tree of `parse_protobuf`."""
    # The library only reads it, and `tree` lives for as long as the call takes.
    result = lib.pg_query_deparse_protobuf(PgQueryProtobuf(len(tree), ctypes.cast(ctypes.c_char_p(tree), ctypes.c_void_p)))
    try:
        if result.error:
            _raise(result.error)
        query: bytes = result.query
        return query
    finally:
        lib.pg_query_free_deparse_result(result)


def scan(text: str) -> Iterator[Token]:
    """The tokens of `text` with its comments, as PostgreSQL's lexer sees them; GrammarError where it sees none.

    They are made one by one, so that whoever has seen enough of a long text can stop.
    """
    check_labour(text.encode("utf-8", "surrogatepass"))
    try:
        result = postgast.scan(text)
    except postgast.PgQueryError as error:
        raise GrammarError(str(error), getattr(error, "cursorpos", 0)) from error
    return (Token(token.start, token.end, token.token) for token in result.tokens)
