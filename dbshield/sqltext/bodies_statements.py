"""The statements of PL/pgSQL that hold no others (src/pl/plpgsql/src/pl_gram.y of PostgreSQL 15 to 18)."""

from __future__ import annotations

from dbshield.sqltext.blocks import Body, Cursor, Fragment, Unread, Why

LEVELS = frozenset({b"exception", b"warning", b"notice", b"info", b"log", b"debug"})
ASSIGNS = frozenset({b":=", b"="})
ASSIGNS_IN_CALL = frozenset({b":=", b"=>"})
COUNTED = frozenset({b"absolute", b"relative", b"forward", b"backward"})
"""Directions of FETCH that take a number."""


class Simple(Cursor):
    """Reads one statement a method, from behind its first word; each leaves the cursor behind the semicolon."""

    def __init__(self, text: bytes, places: list[tuple[int, int]]) -> None:
        super().__init__(text, places)
        dotted = (word for word, after in zip(self.words, self.words[1:], strict=False) if after == b".")
        self.body = Body(text, dotted=frozenset(dotted))
        self.cursors: set[bytes] = set()
        self.depth = 0

    # -- what is found

    def found(self, statement: str) -> None:
        self.body.statements[statement] += 1

    def expression(self, *ends: bytes) -> None:
        """One expression up to one of `ends`."""
        self.add(*self.until(*ends))

    def add(self, first: int, last: int, *, plain: bool = False) -> None:
        fragment = Fragment(key=self.key(first, last), sql=(b"select " + self.between(first, last),), plain=plain)
        self.body.fragments.append(fragment)

    def query(self, first: int, last: int) -> None:
        self.body.fragments.append(Fragment(key=self.key(first, last), sql=(self.between(first, last),)))

    def string(self) -> None:
        if not self.next().endswith(b"'"):
            raise Unread

    # -- statements

    def assign(self) -> None:
        self.found("stmt_assign")
        first = self.position
        self.target()
        subscripted = False
        while self.word() in {b"[", b"."}:
            subscripted = True
            if self.skip(b"."):
                self.name()
            else:
                self.position += 1
                self.until(b"]")
                self.take(b"]")
        last = self.position
        if self.next() not in ASSIGNS:
            raise Unread
        value, end = self.until(b";")
        self.take(b";")
        sql = [b"select " + self.between(value, end)]
        if subscripted:  # a subscript may call a function
            sql.append(b"select " + self.between(first, last))
        self.body.fragments.append(Fragment(key=self.key(first, end), sql=tuple(sql)))

    def sql(self) -> None:
        """A statement that PL/pgSQL hands to the server, without its own INTO."""
        self.found("stmt_execsql")
        first, depth = self.position, 0
        into: tuple[int, int] | None = None
        while (word := self.word()) != b";" or depth:
            # A semicolon in parentheses, or of BEGIN ATOMIC, is not the same to every version.
            if word in {b"", b";", b"begin"} or depth < 0:
                raise Unread
            depth += (word in {b"(", b"["}) - (word in {b")", b"]"})
            self.position += 1
            if word == b"into" and self.words[self.position - 2] not in {b"insert", b"merge"} and self.words[first] != b"import":
                if into:
                    raise Unread
                start = self.position - 1
                self.targets()
                into = (start, self.position)
        last = self.position
        self.take(b";")
        if into is None:
            self.query(first, last)
            return
        key = self.key(first, into[0]) + self.key(into[1], last)
        sql = self.between(first, into[0]) + b" " + self.between(into[1], last)
        self.body.fragments.append(Fragment(key=key, sql=(sql,)))

    def whole_statement(self, name: str) -> None:
        """CALL or DO: what it runs is SQL from its first word on."""
        self.found(name)
        self.position -= 1
        self.query(*self.until(b";"))
        self.take(b";")

    def perform(self) -> None:
        self.found("stmt_perform")
        first, last = self.until(b";")
        self.take(b";")
        fragment = Fragment(key=(b"SELECT", *self.key(first, last)), sql=(b"select " + self.between(first, last),))
        self.body.fragments.append(fragment)

    def null(self) -> None:
        self.take(b";")

    def dynamic(self) -> None:
        raise Unread(Why.DYNAMIC)

    def ends_transaction(self) -> None:
        raise Unread(Why.TRANSACTION)

    def returns(self) -> None:
        if self.skip(b"query"):
            self.found("stmt_return_query")
            if self.word() == b"execute":
                self.dynamic()
            self.query(*self.until(b";"))
        else:
            self.found("stmt_return_next" if self.skip(b"next") else "stmt_return")
            if self.word() != b";":
                first, last = self.until(b";")
                self.add(first, last, plain=last - first == 1)
        self.take(b";")

    # -- messages

    def raises(self) -> None:
        self.found("stmt_raise")
        if self.skip(b";"):
            return
        if self.word() in LEVELS:
            self.position += 1
        if self.word().endswith((b"'", b"$")):
            self.position += 1
            while self.skip(b","):
                self.expression(b",", b"using", b";")
        elif self.word() != b"using" and self.name() == b"sqlstate":
            self.string()
        if self.skip(b"using"):
            while True:
                self.name()
                if self.next() not in ASSIGNS:
                    raise Unread
                self.expression(b",", b";")
                if not self.skip(b","):
                    break
        self.take(b";")

    def asserts(self) -> None:
        self.found("stmt_assert")
        self.expression(b",", b";")
        if self.skip(b","):
            self.expression(b";")
        self.take(b";")

    def diagnostics(self) -> None:
        self.found("stmt_getdiag")
        if not self.skip(b"current"):
            self.skip(b"stacked")
        self.take(b"diagnostics")
        while True:
            self.target()
            if self.next() not in ASSIGNS:
                raise Unread
            self.name()
            if not self.skip(b","):
                break
        self.take(b";")

    # -- cursors

    def arguments(self) -> None:
        """The arguments of a cursor. Named ones are put in order by the parser, which nobody does here."""
        if not self.skip(b"("):
            return
        first, last = self.until(b")")
        if ASSIGNS_IN_CALL & set(self.words[first:last]):
            raise Unread
        self.add(first, last)
        self.take(b")")

    def open(self) -> None:
        self.found("stmt_open")
        self.target()
        if self.word() in {b"no", b"scroll", b"for"}:
            self.skip(b"no")
            self.skip(b"scroll")
            self.take(b"for")
            if self.word() == b"execute":
                self.dynamic()
            self.query(*self.until(b";"))
        else:
            self.arguments()
        self.take(b";")

    def fetch(self) -> None:
        self.found("stmt_fetch")
        self.direction(b"into")
        self.take(b"into")
        self.targets()
        self.take(b";")

    def move(self) -> None:
        self.found("stmt_fetch")
        self.direction(b";")
        self.take(b";")

    def direction(self, end: bytes) -> None:
        """[direction [number] {FROM | IN}] cursor. The number may be an expression."""
        first, last = self.until(end)
        inner = [place for place in range(first, last) if self.words[place] in {b"from", b"in"}]
        if inner:
            start = first + (self.words[first] in COUNTED)
            if inner[0] > start:
                self.add(start, inner[0], plain=inner[0] - start == 1)
            self.position = inner[0] + 1
        else:
            self.position = first + (last - first > 1 and self.words[first + 1] != b".")
        self.target()
        # The variable may hold the name of one of the session's own cursors.
        self.body.fragments.append(Fragment(key=(), sql=(b"fetch next from a_cursor",), plain=True))

    def close(self) -> None:
        self.found("stmt_close")
        self.target()
        self.take(b";")

    def call(self) -> None:
        self.whole_statement("stmt_call")
