"""Reads what DO runs, and what a function or a procedure that is created will run, statement by statement.

A DO block does what its statements do. A created function does it later, whoever calls it, so its effect says whether it was
read to its end and does nothing but read, compute and insert (docs/decisions/0011-bodies.md); why not, otherwise. What
its body does is told as well, so that every rule has a look at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from dbshield.model import Effect, ObjectKind, ObjectName, Operation
from dbshield.sqltext import bodies_parsed
from dbshield.sqltext.blocks import MAX_BODY_BYTES, Unread, Why
from dbshield.sqltext.bodies_plpgsql import cut
from dbshield.sqltext.collector import Collector, object_name
from dbshield.sqltext.normal import check_characters
from dbshield.sqltext.postgres_nodes import Node, names
from dbshield.sqltext.postgres_session import options, set_variable
from dbshield.sqltext.statement import Statement, Unreadable

Reader = Callable[[bytes], tuple[Statement, ...]]
"""Reads a text. Raises Unreadable."""

TreeReader = Callable[[Node], Statement]
"""Reads one statement of a parsed tree."""

READ = {"volatile": "body read", "stable": "body read, stable", "immutable": "body read, immutable"}
"""The detail of CREATE of a function whose body was read and does nothing that may not run uncounted, by its volatility."""

READ_DETAILS = frozenset(READ.values())

CHANGES = "may change or destroy something whenever it is called"
DEFINER = "security definer"
OPTION = "has options that are not read"
EVENT_TRIGGER = "is for event triggers"

LATER = "later"
"""The detail of a CALL in the body of a created function: it comes when nobody counts."""

READ_OPTIONS = frozenset({"as", "cost", "language", "parallel", "rows", "security", "set", "strict", "volatility"})
"""Options of CREATE FUNCTION that say nothing of what it does, or that are looked at."""


def handlers(read: Reader, read_tree: TreeReader) -> Mapping[str, Callable[[Collector, Node], str]]:
    """The statements of this module by node type; the pieces of a body are read by `read` and `read_tree`."""
    return {
        "DoStmt": partial(_do, read),
        "CreateFunctionStmt": partial(_create_function, read, read_tree),
    }


def _do(read: Reader, collector: Collector, body: Node) -> str:
    given = options(body["args"])
    language = given.get("language", "plpgsql")
    try:
        _merge(collector, _plpgsql(read, language, given.get("as", ""), lambda dotted: bodies_parsed.DO))
    except Unread as unread:
        collector.add(Operation.EXECUTE, ObjectKind.FUNCTION, ObjectName(name="do"), frozenset(), unread.why)
    return "do"


def _create_function(read: Reader, read_tree: TreeReader, collector: Collector, body: Node) -> str:
    operation = Operation.REPLACE if body.get("replace") else Operation.CREATE
    name = object_name(names(body["funcname"]))
    given: dict[str, Any] = {item["DefElem"]["defname"]: item["DefElem"].get("arg", {}) for item in body.get("options", ())}
    language = given.get("language", {}).get("String", {}).get("sval", "sql")
    for item in body.get("options", ()):
        if item["DefElem"]["defname"] == "set":
            set_variable(collector, item["DefElem"]["arg"]["VariableSetStmt"])
    try:
        found = _body(read, read_tree, body, language, given.get("as", {}))
    except Unread as unread:
        detail: str = unread.why
    else:
        volatility = given.get("volatility", {}).get("String", {}).get("sval", "volatile")
        detail = READ[volatility] if all(map(_harmless, _effects(found))) else CHANGES
        if "sql_body" in body and any(effect.operation is Operation.INSERT for effect in _effects(found)):
            detail = CHANGES  # There is no text of it that the second reader could be given.
        _merge(collector, [(text, tuple(map(_later, statements))) for text, statements in found])
    if "boolval" in given.get("security", {}).get("Boolean", {}):
        detail = DEFINER
    elif given.keys() - READ_OPTIONS:
        detail = OPTION
    elif "event_trigger" in names(body.get("returnType", {}).get("names")):
        detail = EVENT_TRIGGER
    collector.add(operation, ObjectKind.FUNCTION, name, frozenset(), detail)
    return "create procedure" if body.get("is_procedure") else "create function"


Found = list[tuple[bytes, tuple[Statement, ...]]]
"""Pieces of a body, each with what it does."""


def _body(read: Reader, read_tree: TreeReader, node: Node, language: str, given: Node) -> Found:
    """What a created function runs. Raises Unread."""
    if "sql_body" in node:
        return [(b"", tuple(map(read_tree, _atomic(node["sql_body"]))))]
    strings = names(given.get("List", {}).get("items"))
    body = strings[0] if len(strings) == 1 else ""  # C has two strings, and none of them is read.
    if language == "sql":
        return [_sql(read, body)]
    return _plpgsql(read, language, body, lambda dotted: bodies_parsed.routine_head(node, dotted))


def _atomic(body: Node) -> Iterable[Node]:
    """The statements of BEGIN ATOMIC, or of RETURN."""
    stack: list[Any] = [body]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        elif "List" in node:
            stack += node["List"].get("items", [])
        elif "ReturnStmt" in node:
            yield {"SelectStmt": {"targetList": [node["ReturnStmt"].get("returnval", {})]}}
        elif node:
            yield node


def _sql(read: Reader, body: str) -> tuple[bytes, tuple[Statement, ...]]:
    text = body.encode()
    if len(text) > MAX_BODY_BYTES:
        raise Unread
    try:
        check_characters(text)
        statements = read(text)
    except Unreadable as error:
        raise Unread from error
    if any(effect.operation is Operation.TRANSACTION for statement in statements for effect in statement.effects):
        raise Unread(Why.TRANSACTION)
    return text, statements


def _plpgsql(read: Reader, language: str, body: str, head: Callable[[frozenset[bytes]], str]) -> Found:
    """What a PL/pgSQL body does, piece by piece. Raises Unread, for other languages too."""
    if language != "plpgsql":
        raise Unread(Why.LANGUAGE)
    parts = cut(body)
    bodies_parsed.check(parts, head(parts.dotted))
    found = [_sql(read, sql.decode()) for fragment in parts.fragments for sql in fragment.sql]
    if any(len(statements) != 1 for _, statements in found):
        raise Unread
    return found


def _effects(found: Found) -> Iterable[Effect]:
    return (effect for _, statements in found for statement in statements for effect in statement.effects)


def _merge(collector: Collector, found: Found) -> None:
    for text, statements in found:
        for statement in statements:
            collector.effects.update(dict.fromkeys(statement.effects))
            collector.attributes |= statement.attributes
            collector.literal |= statement.literal
        collector.bodies.append((text, statements))


def _harmless(effect: Effect) -> bool:
    """What a function may do that runs when nobody counts: an INSERT fires triggers, and is not counted itself."""
    if effect.operation is Operation.LOCK:
        return effect.detail == "rows"
    return effect.operation in {Operation.READ, Operation.CALL, Operation.CURSOR, Operation.INSERT, Operation.NOTIFY}


def _later(statement: Statement) -> Statement:
    """The same statement with its plain calls marked."""
    return replace(
        statement,
        effects=tuple(
            replace(effect, detail=LATER) if effect.operation is Operation.CALL and not effect.detail else effect
            for effect in statement.effects
        ),
    )
