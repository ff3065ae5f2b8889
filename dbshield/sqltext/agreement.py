"""A write is let through only where both readers say the same of it: its kind, what it writes, and that it is bounded.

Row writes must agree in full. Definitions (CREATE, ALTER and the like) must agree in kind and in the objects they name wherever
sqlglot has a tree for them; for the many that it keeps as an opaque command, it must at least see the same command words. Reads,
and statements that steer the session, pass on PostgreSQL's grammar alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from dbshield.model import ObjectKind, Operation
from dbshield.sqltext import glot, native
from dbshield.sqltext.glot import Reading, Written
from dbshield.sqltext.normal import blanked_comments
from dbshield.sqltext.postgres import QUERIES
from dbshield.sqltext.shorten import shortened
from dbshield.sqltext.statement import Statement, Trouble, Unreadable

MESSAGES = import_module("postgast.pg_query_pb2").DESCRIPTOR.message_types_by_name
"""The messages of libpg_query's protobuf form. Its stub file is no valid Python, so the module is not imported by name."""

ROW_WRITES = frozenset({Operation.INSERT, Operation.UPDATE, Operation.DELETE})
DEFINITIONS = frozenset({Operation.CREATE, Operation.REPLACE, Operation.ALTER, Operation.DROP, Operation.TRUNCATE})

ROWS = frozenset(QUERIES.values())

WRAPPERS: dict[str, str] = {
    "prepare": "PrepareStmt",
    "explain analyze": "ExplainStmt",
    "declare": "DeclareCursorStmt",
    "copy to": "CopyStmt",
    "create table as": "CreateTableAsStmt",
    "create materialized view": "CreateTableAsStmt",
}
"""Statements that carry a query, whose text is read on its own: sqlglot keeps most of these as an opaque command."""

BODIES = frozenset({"do", "create function", "create procedure"})
"""Statements with a body, whose pieces are read on their own."""

QUERY_FIELD: dict[str, int] = {name: MESSAGES[name].fields_by_name["query"].number for name in set(WRAPPERS.values())}

CREATED = {
    ObjectKind.TABLE: "table",
    ObjectKind.VIEW: "view",
    ObjectKind.MATERIALIZED_VIEW: "view",
    ObjectKind.SEQUENCE: "sequence",
}
"""Objects whose names sqlglot's tree gives in a form that can be compared."""


def needs_second_reader(statement: Statement) -> bool:
    """True for a statement that writes rows or defines objects."""
    return any(effect.operation in ROW_WRITES or effect.operation in DEFINITIONS for effect in statement.effects)


def agree(text: bytes, statements: tuple[Statement, ...]) -> None:
    """Read the writes among `statements` a second time. Raises Unreadable where the readers differ or the second one fails."""
    trees = list(_split(native.parse_protobuf(shortened(blanked_comments(text)))))
    if len(trees) != len(statements):
        raise Unreadable(Trouble.DISAGREEMENT, f"{len(trees)} statements in one form, {len(statements)} in the other")
    readings: Readings | None = {} if len(trees) > 1 else None
    for tree, statement in zip(trees, statements, strict=True):
        if needs_second_reader(statement):
            _agree_on(tree, statement, readings)


Readings = dict[bytes, Reading]
"""What the second reader said, by the shape of the canonical text: a dump is thousands of statements of one shape."""


def _read(canonical: str, statement: Statement, readings: Readings | None) -> Reading:
    """The second reading. It is shared between equal shapes where no literal decides; a text with `$` has no safe shape."""
    long = len(canonical) > native.MAX_NORMALISED_BYTES
    if readings is None or long or "$" in canonical or statement.literal or statement.kind not in ROWS:
        return glot.read(canonical)
    shape = native.normalise(canonical.encode())
    found = readings.get(shape)
    if found is None:
        found = readings[shape] = glot.read(canonical)
    return found


def _agree_on(tree: bytes, statement: Statement, readings: Readings | None) -> None:
    if statement.kind in BODIES:
        _agree_on_bodies(statement)
        return
    rows = any(effect.operation in ROW_WRITES for effect in statement.effects)
    kind = statement.kind
    if rows and kind in WRAPPERS:
        tree = _inner(tree, QUERY_FIELD[WRAPPERS[kind]])
    if kind == "insert" and len(tree) > LONG_TREE:
        tree = _fewer_rows(tree)
    canonical = _canonical(tree)
    reading = _read(canonical, statement, readings)
    if rows:
        _same_rows(reading, statement)
    else:
        _same_definition(reading, statement, canonical)


def _agree_on_bodies(statement: Statement) -> None:
    """The second reader sees nothing in a body, which is a string to it: it is given the pieces that the first one found."""
    for text, statements in statement.bodies:
        if any(map(needs_second_reader, statements)):
            agree(text, statements)


def _same_rows(reading: Reading, statement: Statement) -> None:
    ours = frozenset(
        Written(
            effect.operation,
            effect.name.schema,
            effect.name.name,
            effect.bounded and effect.detail != "current of",
        )
        for effect in statement.effects
        if effect.operation in ROW_WRITES
    )
    if statement.kind == "copy from":
        theirs = frozenset(Written(Operation.INSERT, *name, False) for name in reading.names)
        if reading.kind != "copy" or ours != theirs:
            raise Unreadable(Trouble.DISAGREEMENT, "the readers see different tables")
        return
    if statement.kind in ROWS and reading.kind != statement.kind:
        raise Unreadable(Trouble.DISAGREEMENT, f"one reader sees {statement.kind}, the other {reading.kind}")
    if statement.kind not in ROWS and statement.kind not in WRAPPERS:
        raise Unreadable(Trouble.DISAGREEMENT, f"{statement.kind} writes rows")
    if ours != reading.written:
        targets = {(written.operation, written.schema, written.table) for written in ours}
        same = targets == {(written.operation, written.schema, written.table) for written in reading.written}
        raise Unreadable(Trouble.DISAGREEMENT, "the readers see different bounds" if same else "the readers see different writes")


def _same_definition(reading: Reading, statement: Statement, canonical: str) -> None:
    command, words = statement.kind.split(" ")[0], statement.kind.upper()
    if reading.written:
        raise Unreadable(Trouble.DISAGREEMENT, "one reader sees a write of rows")
    if reading.kind == "command":
        _same_words(canonical, words)
        return
    if statement.kind == "select":  # SELECT INTO
        command = "select"
    destroys = any(effect.operation is Operation.DROP or effect.detail == "rename" for effect in statement.effects)
    if {"truncate": "truncatetable"}.get(command, command) != reading.kind or (reading.destroys and not destroys):
        raise Unreadable(Trouble.DISAGREEMENT, f"one reader sees {statement.kind}, the other {reading.kind}")
    defined = {effect.kind: effect for effect in statement.effects if effect.operation in DEFINITIONS}
    for kind, effect in defined.items():
        if kind in CREATED and reading.kind in {"create", "alter", "drop"}:
            if reading.object_kind != CREATED[kind]:
                raise Unreadable(Trouble.DISAGREEMENT, f"one reader sees {kind}, the other {reading.object_kind}")
            if reading.names and (effect.name.schema, effect.name.name) not in reading.names:
                raise Unreadable(Trouble.DISAGREEMENT, "the readers see different objects")


def _same_words(canonical: str, words: str) -> None:
    """An opaque command must begin with the words of the kind; some may stand between them (CREATE TEMPORARY TABLE)."""
    given = iter(canonical.upper().split(" ")[:8])
    if not all(any(word == other for other in given) for word in words.split(" ")):
        raise Unreadable(Trouble.DISAGREEMENT, "the readers see different commands")


def _canonical(tree: bytes) -> str:
    try:
        return native.deparse(tree).decode()
    except native.GrammarError as error:
        raise Unreadable(Trouble.SECOND_READER, "the statement has no canonical form") from error


# -- the protobuf form, cut without decoding it: its messages nest deeper than Python's decoder goes
# (encoding: https://protobuf.dev/programming-guides/encoding)

STATEMENTS_FIELD = MESSAGES["ParseResult"].fields_by_name["stmts"].number
STATEMENT_FIELD = MESSAGES["RawStmt"].fields_by_name["stmt"].number
LENGTH_DELIMITED = 2


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _spans(data: bytes) -> Iterator[tuple[int, int, bytes, int]]:
    """The fields of one message: number, where it starts, its content when it has a length, where it ends."""
    position = 0
    while position < len(data):
        start = position
        key, position = _varint(data, position)
        wire = key & 7
        content = b""
        if wire == LENGTH_DELIMITED:
            size, position = _varint(data, position)
            content = data[position : position + size]
            position += size
        elif wire == 0:
            _, position = _varint(data, position)
        else:
            position += {1: 8, 5: 4}[wire]
        yield key >> 3, start, content, position


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of one message that have a length: number and content."""
    return ((number, content) for number, _, content, _ in _spans(data) if content)


def _message(number: int, content: bytes) -> bytes:
    head = bytearray()
    for value in ((number << 3) | LENGTH_DELIMITED, len(content)):
        rest = value
        while rest > 0x7F:
            head.append(rest & 0x7F | 0x80)
            rest >>= 7
        head.append(rest)
    return bytes(head) + content


def _split(tree: bytes) -> Iterator[bytes]:
    """One tree for each statement of a tree; empty statements are left out."""
    for number, raw in _fields(tree):
        if number == STATEMENTS_FIELD:
            for inner, node in _fields(raw):
                if inner == STATEMENT_FIELD:
                    yield _message(STATEMENTS_FIELD, _message(STATEMENT_FIELD, node))


INSERTED_FIELD = MESSAGES["InsertStmt"].fields_by_name["select_stmt"].number
ROWS_FIELD = MESSAGES["SelectStmt"].fields_by_name["values_lists"].number
LONG_TREE = 8 << 10
"""Bytes from which it pays to look for rows to leave out."""

ENOUGH_ROWS = 20
"""A long VALUES is shown to the second reader by its first rows. The first reader saw them all, and a row cannot write."""


PATH_TO_ROWS = (STATEMENTS_FIELD, STATEMENT_FIELD, None, INSERTED_FIELD, None)
"""Down from a tree: RawStmt, Node, InsertStmt (whichever field of Node it is), Node, SelectStmt."""


def _fewer_rows(tree: bytes, path: tuple[int | None, ...] = PATH_TO_ROWS) -> bytes:
    """The tree of an INSERT with at most ENOUGH_ROWS of its VALUES; `path` leads from here to the message that holds them."""
    pieces: list[bytes] = []
    rows = 0
    for number, start, content, end in _spans(tree):
        field = tree[start:end]
        if not path and number == ROWS_FIELD:
            rows += 1
            field = field if rows <= ENOUGH_ROWS else b""
        elif path and number == (path[0] or number) and content:
            field = _message(number, _fewer_rows(content, path[1:]))
        pieces.append(field)
    return b"".join(pieces)


def _inner(tree: bytes, field: int) -> bytes:
    """The tree of the query that a wrapping statement carries in `field`."""
    raw = next(content for _, content in _fields(tree))
    node = next(content for _, content in _fields(raw))
    statement = next(content for _, content in _fields(node))
    query = next(content for number, content in _fields(statement) if number == field)
    return _message(STATEMENTS_FIELD, _message(STATEMENT_FIELD, query))
