"""Reads the DO blocks that migration tools write, and no others.

The grammar here is a small part of PL/pgSQL (PostgreSQL manual, 43 PL/pgSQL) whose meaning is plain from its tokens:

    block     := BEGIN statement+ [EXCEPTION handler+] END [;]
    handler   := WHEN condition (OR condition)* THEN (NULL ;)*
    statement := IF expression THEN statement+ [ELSE statement+] END IF ;
               | BEGIN … END ;
               | NULL ;
               | ALTER … ; | COMMENT … ; | CREATE … ;

Everything else (a declaration, a loop, a row write, dynamic SQL, a label) makes the block unread, and unread blocks are held.
There are no declarations, so no variable can stand in for a name.
"""

from __future__ import annotations

from dbshield.sqltext import native

MAX_BLOCK_BYTES = native.MAX_NORMALISED_BYTES
"""Longer blocks are left unread; those of migration tools are a few hundred bytes."""

COMMENTS = frozenset({275, 276})
STARTS = frozenset({"alter", "comment", "create"})
"""Statements that PL/pgSQL hands to the server as they are, up to the semicolon."""

NEVER_IN_STATEMENT = frozenset({"into", "begin"})
"""INTO would be PL/pgSQL's own; BEGIN ATOMIC would carry semicolons."""

NEVER_IN_EXPRESSION = frozenset({"case", "then", "into", ";"})


class _Unread(Exception):
    """The block is not of the grammar above."""


def statements_of(body: str) -> tuple[list[str], list[str]] | None:
    """The SQL statements and the expressions of a DO block; None where it is not read."""
    text = body.encode()
    if len(text) > MAX_BLOCK_BYTES:
        return None
    try:
        tokens = [(token.start, token.end) for token in native.scan(body) if token.token not in COMMENTS]
        block = _Block(text, tokens)
        block.whole()
    except (_Unread, native.GrammarError, RecursionError):
        return None
    return block.statements, block.expressions


class _Block:
    """A cursor over the tokens of one block."""

    def __init__(self, text: bytes, tokens: list[tuple[int, int]]) -> None:
        self.text = text
        self.tokens = tokens
        self.position = 0
        self.statements: list[str] = []
        self.expressions: list[str] = []

    def word(self, ahead: int = 0) -> str:
        """The token at the cursor as the grammar sees it; names in quotes keep theirs, the end is empty."""
        index = self.position + ahead
        if index >= len(self.tokens):
            return ""
        start, end = self.tokens[index]
        return self.text[start:end].decode().lower()

    def take(self, *words: str) -> None:
        for word in words:
            if self.word() != word:
                raise _Unread
            self.position += 1

    def whole(self) -> None:
        self.block()
        if self.word() == ";":
            self.position += 1
        if self.word():
            raise _Unread

    def block(self) -> None:
        self.take("begin")
        self.several({"exception", "end"})
        if self.word() == "exception":
            self.position += 1
            while self.word() == "when":
                self.handler()
        self.take("end")

    def handler(self) -> None:
        self.take("when")
        while True:
            if not self.word().isidentifier():
                raise _Unread
            self.position += 1
            if self.word() != "or":
                break
            self.position += 1
        self.take("then")
        while self.word() == "null":
            self.take("null", ";")

    def several(self, ends: set[str]) -> None:
        while self.word() not in ends:
            self.statement()

    def statement(self) -> None:
        word = self.word()
        if word == "if":
            self.condition()
        elif word == "begin":
            self.block()
            self.take(";")
        elif word == "null":
            self.take("null", ";")
        elif word in STARTS:
            self.statements.append(self.slice({";"}, NEVER_IN_STATEMENT))
            self.take(";")
        else:
            raise _Unread

    def condition(self) -> None:
        self.take("if")
        self.expressions.append(self.slice({"then"}, NEVER_IN_EXPRESSION - {"then"}))
        self.take("then")
        self.several({"else", "end"})
        if self.word() == "else":
            self.position += 1
            self.several({"end"})
        self.take("end", "if", ";")

    def slice(self, ends: set[str], never: frozenset[str]) -> str:
        """The text from the cursor up to one of `ends` outside parentheses."""
        first, depth = self.position, 0
        while True:
            word = self.word()
            if not word or word in never or (word in ends and depth):
                raise _Unread
            if word in ends:
                break
            depth += (word == "(") - (word == ")")
            self.position += 1
        if self.position == first:
            raise _Unread
        return self.text[self.tokens[first][0] : self.tokens[self.position - 1][1]].decode()
