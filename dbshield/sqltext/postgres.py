"""The first reader: PostgreSQL's own grammar. Raw bytes in, statements with their effects out.

It must not guess: a statement type without a handler has one effect, whose operation is UNKNOWN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from dbshield.sqltext import bodies, native, postgres_schema, postgres_session, postgres_simple
from dbshield.sqltext.collector import Collector
from dbshield.sqltext.normal import blanked_comments
from dbshield.sqltext.postgres_nodes import Node
from dbshield.sqltext.shorten import shortened
from dbshield.sqltext.statement import Statement, Trouble, Unreadable

MAX_DEPTH = 800
"""How deep a tree may be, in the brackets of its JSON form: about 400 operators in a row, about 90 nested subqueries. The
decoder gives up at about 1,000 (Python's recursion limit) and printing the tree was seen to die past 1,000 operators."""

LONG_JSON = 8 << 10
"""JSON shorter than this cannot reach MAX_DEPTH: a level of it takes at least eleven bytes."""

MAX_TREE_BYTES = 16 << 20
"""How long a tree may be in its JSON form. Decoded it takes twenty times as much memory, and walking it takes seconds: a megabyte
of `select 1, 1, 1, …` makes one of 47 MB, a megabyte of short statements one of 15."""

QUERIES = {
    "SelectStmt": "select",
    "InsertStmt": "insert",
    "UpdateStmt": "update",
    "DeleteStmt": "delete",
    "MergeStmt": "merge",
}
"""Statements that the collector reads wherever it meets them."""

Handler = Callable[[Collector, Node], str]


def _read_piece(text: bytes) -> tuple[Statement, ...]:
    return read(text)


def _read_piece_of_tree(node: Node) -> Statement:
    return read_tree(node)


HANDLERS: dict[str, Handler] = {
    **postgres_schema.HANDLERS,
    **postgres_session.HANDLERS,
    **postgres_simple.HANDLERS,
    **bodies.handlers(_read_piece, _read_piece_of_tree),
}
"""Statements that are no queries, by node type."""

OPENING = frozenset({ord(character) for character in "(["})
CLOSING = frozenset({ord(character) for character in ")]"})
SEPARATORS = frozenset({ord(character) for character in ",;"})
CONSTANTS = frozenset({258, 259, 260, 261, 262, 263, 264, 266, 267})
"""Token numbers of names, constants and parameters (IDENT to PARAM without Op), which make no level of their own."""

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')
OPENING_BRACKETS = frozenset(b"[{")
FLATTENING_PASSES = 20
NO_BRACKETS = bytes(character for character in range(256) if character not in b"[]{}")


def read(text: bytes) -> tuple[Statement, ...]:
    """The statements of `text` (valid UTF-8 without NUL; empty ones do not count). Raises Unreadable."""
    try:
        return tuple(read_tree(item["stmt"]) for item in _tree(text) if "stmt" in item)
    except RecursionError as error:
        raise Unreadable(Trouble.TOO_DEEP, "deeper than what can be walked") from error


def _tree(text: bytes) -> list[Node]:
    """The raw statements of `text`. Raises Unreadable."""
    try:
        text = shortened(blanked_comments(text))
        if len(text) > native.MAX_UNCOUNTED_BYTES:
            _count_levels(text)
        tree = native.parse(text)
    except native.GrammarError as error:
        trouble = Trouble.TOO_DEEP if "memory exhausted" in error.message else Trouble.SYNTAX
        raise Unreadable(trouble, error.message) from error
    if len(tree) > MAX_TREE_BYTES:
        raise Unreadable(Trouble.TOO_LONG, f"a tree of {len(tree)} bytes, {MAX_TREE_BYTES} are read")
    if len(tree) > LONG_JSON:
        _check_depth(tree)
    statements: list[Node] = json.loads(tree)["stmts"]
    return statements


def _collect(collector: Collector, node: Node) -> str:
    """Collect the effects of one statement; its kind."""
    ((tag, body),) = node.items()
    if tag in QUERIES:
        collector.walk(node)
        return QUERIES[tag]
    return collector.statement(tag, body)


def read_tree(node: Node) -> Statement:
    """What one statement of a parsed tree does."""
    collector = Collector(HANDLERS)
    kind = _collect(collector, node)
    return Statement(
        kind=kind,
        effects=tuple(collector.effects),
        attributes=frozenset(collector.attributes),
        literal=collector.literal or collector.conditions.literal,
        bodies=tuple(collector.bodies),
    )


def _check_depth(tree: bytes) -> None:
    """Stop a tree whose brackets nest deeper than MAX_DEPTH.

    Wide trees, which are honest and large, fall together when their innermost brackets are taken away a few times; what is left
    is walked until it is too deep.
    """
    brackets = _STRINGS.sub(b"", tree).translate(None, NO_BRACKETS)
    for _ in range(FLATTENING_PASSES):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    depth = 0
    for bracket in brackets:
        depth += 1 if bracket in OPENING_BRACKETS else -1
        if depth > MAX_DEPTH - FLATTENING_PASSES:
            raise Unreadable(Trouble.TOO_DEEP, f"deeper than {MAX_DEPTH} levels")


def _count_levels(text: bytes) -> None:
    """Stop a long text whose tokens could make a tree that the C code dies of. Raises GrammarError where there are no tokens.

    Siblings are separated by commas, so a level holds at most the tokens since the last comma of each open bracket.
    """
    tokens = native.scan(text.decode())
    outer: list[int] = []
    levels = here = 0
    for _, _, token in tokens:
        if token in SEPARATORS:
            levels -= here
            here = 0
        elif token in OPENING:
            outer.append(here)
            here = 1
            levels += 1
        elif token in CLOSING:
            levels -= here
            here = (outer.pop() if outer else 0) + 1
            levels += 1
        elif token not in CONSTANTS:
            here += 1
            levels += 1
        if levels > native.MAX_LEVELS:
            raise Unreadable(Trouble.TOO_DEEP, f"more than {native.MAX_LEVELS} levels")
