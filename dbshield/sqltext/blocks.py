"""The tokens of a PL/pgSQL body, and what is made of them (PostgreSQL manual, 43 PL/pgSQL; src/pl/plpgsql/src/pl_scanner.c).

PL/pgSQL finds the SQL inside itself by tokens: an expression ends at the first THEN, LOOP, comma or semicolon outside
parentheses, and so it does here. The grammar on top of this stands in `bodies_plpgsql`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum, unique

from dbshield.sqltext import native
from dbshield.sqltext.normal import COMMENT_TOKENS

MAX_BODY_BYTES = 64 << 10
"""Longer bodies are left unread. The longest of Debian's extension scripts have 20 KB."""

MAX_NESTING = 50
"""Blocks within blocks; a few more than people write, and far fewer than what the C parser dies of."""

RESERVED = frozenset(
    b"all begin by case declare else end execute for foreach from if in into loop not null or strict then to using when "
    b"while".split()
)
"""Words that are never a name (src/pl/plpgsql/src/pl_reserved_kwlist.h)."""

NAME = re.compile(rb'[a-z_\x80-\xff][a-z0-9_$\x80-\xff]*|(?:u&)?"(?:[^"]|"")+"', re.DOTALL)


@unique
class Why(StrEnum):
    """Why a body is not read."""

    GRAMMAR = "cannot be read"
    DYNAMIC = "runs a statement that it puts together"
    TRANSACTION = "ends a transaction"
    LANGUAGE = "is in a language that is not read"


class Unread(Exception):
    """The body is not read."""

    def __init__(self, why: Why = Why.GRAMMAR) -> None:
        super().__init__(why.value)
        self.why = why


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """One piece of SQL. `key` are its tokens as PL/pgSQL's parser keeps them, `sql` the statements to read in its place.

    A `plain` fragment is a single name or number, of which the parser makes no expression; there is nothing to read in it.
    """

    key: tuple[bytes, ...]
    sql: tuple[bytes, ...] = ()
    plain: bool = False


@dataclass(slots=True)
class Body:
    """What a body is made of. `statements` counts the statements by the parser's names for them; `types` are the places
    (start, end) of declared types with the variable's name, `dotted` the names before a dot."""

    text: bytes
    fragments: list[Fragment] = field(default_factory=list)
    statements: Counter[str] = field(default_factory=Counter)
    types: list[tuple[int, int, bytes]] = field(default_factory=list)
    dotted: frozenset[bytes] = frozenset()


def tokens_of(text: bytes) -> list[tuple[int, int]]:
    """The places of the tokens of `text`, without comments. Raises Unread."""
    try:
        return [(token.start, token.end) for token in native.scan(text.decode()) if token.token not in COMMENT_TOKENS]
    except (native.GrammarError, UnicodeDecodeError) as error:
        raise Unread from error


def lower(word: bytes) -> bytes:
    """As PostgreSQL folds keywords: ASCII letters only."""
    return word.lower()


class Cursor:
    """A place among the tokens of one body."""

    def __init__(self, text: bytes, places: list[tuple[int, int]]) -> None:
        self.text = text
        self.places = places
        self.words = [lower(text[start:end]) for start, end in places]
        self.position = 0

    def word(self, ahead: int = 0) -> bytes:
        """The token at the cursor in lower case; names in quotes keep theirs, the end is empty."""
        index = self.position + ahead
        return self.words[index] if index < len(self.words) else b""

    def next(self) -> bytes:
        word = self.word()
        self.position += 1
        return word

    def take(self, *words: bytes) -> None:
        for word in words:
            if self.next() != word:
                raise Unread

    def skip(self, *words: bytes) -> bool:
        """Step over `words` where they stand next."""
        if all(self.word(ahead) == word for ahead, word in enumerate(words)):
            self.position += len(words)
            return True
        return False

    def is_name(self, ahead: int = 0) -> bool:
        word = self.word(ahead)
        return bool(NAME.fullmatch(word)) and word not in RESERVED

    def name(self) -> bytes:
        if not self.is_name():
            raise Unread
        return self.next()

    def target(self) -> None:
        """A variable or a field of one: name(.name)*."""
        self.name()
        while self.skip(b"."):
            self.name()

    def targets(self) -> None:
        self.skip(b"strict")
        self.target()
        while self.skip(b","):
            self.target()

    def until(self, *ends: bytes) -> tuple[int, int]:
        """Step to the first of `ends` outside parentheses; which tokens were stepped over."""
        first, depth = self.position, 0
        while True:
            word = self.word()
            if not word or depth < 0 or (word == b";" and (depth or b";" not in ends)):
                raise Unread
            if not depth and word in ends:
                break
            depth += (word in {b"(", b"["}) - (word in {b")", b"]"})
            self.position += 1
        if self.position == first:
            raise Unread
        return first, self.position

    def between(self, first: int, last: int) -> bytes:
        """The source of the tokens from `first` up to `last`, with what stands between them."""
        return self.text[self.places[first][0] : self.places[last - 1][1]] if last > first else b""

    def key(self, first: int, last: int) -> tuple[bytes, ...]:
        return tuple(self.text[start:end] for start, end in self.places[first:last])
