"""Cuts a PL/pgSQL body into its statements and the SQL in them (src/pl/plpgsql/src/pl_gram.y of PostgreSQL 15 to 18).

What is cut is not understood here but handed on as text. `bodies_parsed` shows the same body to PostgreSQL's own PL/pgSQL parser,
and only what both cut alike counts as read. Whatever is not of this grammar leaves the body unread, and what no reading can
judge (a statement put together at run time, COMMIT) has a reason of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from dbshield.sqltext.blocks import MAX_BODY_BYTES, MAX_NESTING, RESERVED, Body, Fragment, Unread, tokens_of
from dbshield.sqltext.bodies_statements import ASSIGNS, Simple
from dbshield.sqltext.normal import check_characters
from dbshield.sqltext.statement import Unreadable

AFTER_TYPE = frozenset({b";", b",", b")", b"not", b"collate", b"default"}) | ASSIGNS


def cut(body: str) -> Body:
    """The parts of a PL/pgSQL body. Raises Unread."""
    text = body.encode()
    if len(text) > MAX_BODY_BYTES:
        raise Unread
    try:
        check_characters(text)
    except Unreadable as error:
        raise Unread from error
    block = _Block(text, tokens_of(text))
    block.whole()
    return block.body


class _Block(Simple):
    """Reads the statements; each method leaves the cursor behind what it read."""

    # -- blocks

    def whole(self) -> None:
        if self.word() == b"#":  # an option of the compiler, which may change what names mean
            raise Unread
        self.label()
        self.block()
        self.skip(b";")
        if self.word():
            raise Unread

    def label(self) -> bool:
        if not self.skip(b"<<"):
            return False
        self.name()
        self.take(b">>")
        return True

    def block(self) -> None:
        self.found("stmt_block")
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise Unread
        if self.skip(b"declare"):
            while self.word() != b"begin":
                if not self.skip(b"declare"):
                    self.declaration()
        self.take(b"begin")
        self.several(b"exception", b"end")
        if self.skip(b"exception"):
            self.handlers()
        self.take(b"end")
        if self.is_name():
            self.name()
        self.depth -= 1

    def handlers(self) -> None:
        if self.word() != b"when":
            raise Unread
        while self.skip(b"when"):
            while True:
                if self.name() == b"sqlstate":
                    self.string()
                if not self.skip(b"or"):
                    break
            self.take(b"then")
            self.several(b"when", b"end")

    def several(self, *ends: bytes) -> None:
        while self.word() not in ends or (self.word() == b"exception" and self.word(1) != b"when"):
            self.statement()

    # -- declarations

    def declaration(self) -> None:
        name = self.name()
        if self.skip(b"alias", b"for"):
            self.name()
            self.take(b";")
            return
        if self.word() == b"cursor" or (self.word(1) == b"cursor" and self.word() == b"scroll") or self.word() == b"no":
            self.cursor(name)
            return
        self.skip(b"constant")
        self.type_of(name)
        if self.skip(b"not"):
            self.take(b"null")
        if self.skip(b"default") or self.skip(b":=") or self.skip(b"="):
            self.expression(b";")
        self.take(b";")

    def cursor(self, name: bytes) -> None:
        self.skip(b"no")
        self.skip(b"scroll")
        self.take(b"cursor")
        if self.skip(b"("):
            while True:
                self.type_of(self.name())
                if not self.skip(b","):
                    break
            self.take(b")")
        if not self.skip(b"is"):
            self.take(b"for")
        self.query(*self.until(b";"))
        self.take(b";")
        self.cursors.add(name)

    def type_of(self, name: bytes) -> None:
        """A declared type, with its collation. A type that is not taken from a column or a table is read as a cast."""
        first, last = self.until(*AFTER_TYPE)
        words = self.words[first:last]
        if self.skip(b"collate"):
            self.target()
        self.body.types.append((self.places[first][0], self.places[self.position - 1][1], name))
        if b"%" in words:
            if words[words.index(b"%") + 1 :][:1] not in ([b"type"], [b"rowtype"]) or b"(" in words:
                raise Unread
            return
        self.body.fragments.append(Fragment(key=(), sql=(b"select null::" + self.between(first, last),), plain=True))

    # -- statements

    def statement(self) -> None:
        labelled = self.label()
        word = self.word()
        if word in {b"begin", b"declare"}:
            self.block()
            self.take(b";")
        elif word in LOOPS:
            self.position += 1
            LOOPS[word](self)
        elif labelled:
            raise Unread
        elif word not in RESERVED and self.is_name() and self.word(1) in ASSIGNS | {b"[", b"."}:
            self.assign()
        elif word in STATEMENTS:
            self.position += 1
            STATEMENTS[word](self)
        elif self.is_name():
            self.sql()
        else:
            raise Unread

    # -- control

    def condition(self) -> None:
        self.found("stmt_if")
        self.expression(b"then")
        self.take(b"then")
        self.several(b"elsif", b"elseif", b"else", b"end")
        while self.skip(b"elsif") or self.skip(b"elseif"):
            self.found("if_elsif")
            self.expression(b"then")
            self.take(b"then")
            self.several(b"elsif", b"elseif", b"else", b"end")
        if self.skip(b"else"):
            self.several(b"end")
        self.take(b"end", b"if", b";")

    def case(self) -> None:
        self.found("stmt_case")
        searched = self.word() == b"when"
        if not searched:
            self.expression(b"when")
        while self.skip(b"when"):
            self.found("case_when")
            first, last = self.until(b"then")
            self.take(b"then")
            text = self.between(first, last)
            sql = b"select " + text if searched else b"select 0 in (" + text + b")"
            self.body.fragments.append(Fragment(key=self.key(first, last), sql=(sql,)))
            self.several(b"when", b"else", b"end")
        if self.skip(b"else"):
            self.several(b"end")
        self.take(b"end", b"case", b";")

    def loop(self) -> None:
        self.found("stmt_loop")
        self.position -= 1
        self.repeated()

    def repeated(self) -> None:
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise Unread
        self.take(b"loop")
        self.several(b"end")
        self.take(b"end", b"loop")
        if self.is_name():
            self.name()
        self.take(b";")
        self.depth -= 1

    def while_loop(self) -> None:
        self.found("stmt_while")
        self.expression(b"loop")
        self.repeated()

    def for_loop(self) -> None:
        self.target()
        while self.skip(b","):
            self.target()
        self.take(b"in")
        if self.word() == b"execute":
            self.dynamic()
        if self.word() in self.cursors:
            self.for_cursor()
            return
        reverse = self.skip(b"reverse")
        first, last = self.until(b"..", b"loop")
        if self.skip(b".."):
            self.found("stmt_fori")
            self.add(first, last)
            self.expression(b"by", b"loop")
            if self.skip(b"by"):
                self.expression(b"loop")
        elif reverse:
            raise Unread
        else:
            self.found("stmt_fors")
            self.query(first, last)
        self.repeated()

    def for_cursor(self) -> None:
        self.found("stmt_forc")
        self.name()
        self.arguments()
        self.repeated()

    def foreach(self) -> None:
        self.found("stmt_foreach_a")
        self.target()
        while self.skip(b","):
            self.target()
        if self.skip(b"slice") and not self.next().isdigit():
            raise Unread
        self.take(b"in", b"array")
        self.expression(b"loop")
        self.repeated()

    def exit(self) -> None:
        self.found("stmt_exit")
        if self.is_name():
            self.name()
        if self.skip(b"when"):
            self.expression(b";")
        self.take(b";")


LOOPS: dict[bytes, Callable[[_Block], None]] = {
    b"for": _Block.for_loop,
    b"foreach": _Block.foreach,
    b"loop": _Block.loop,
    b"while": _Block.while_loop,
}

STATEMENTS: dict[bytes, Callable[[_Block], None]] = {
    b"assert": _Block.asserts,
    b"call": _Block.call,
    b"case": _Block.case,
    b"close": _Block.close,
    b"commit": _Block.ends_transaction,
    b"continue": _Block.exit,
    b"do": _Block.call,
    b"execute": _Block.dynamic,
    b"exit": _Block.exit,
    b"fetch": _Block.fetch,
    b"get": _Block.diagnostics,
    b"if": _Block.condition,
    b"move": _Block.move,
    b"null": _Block.null,
    b"open": _Block.open,
    b"perform": _Block.perform,
    b"raise": _Block.raises,
    b"return": _Block.returns,
    b"rollback": _Block.ends_transaction,
}
