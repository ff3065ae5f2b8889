"""The second reader: sqlglot, on the canonical text that PostgreSQL's grammar prints from its own tree.

It derives the kind of a statement, what it writes, and whether that is bounded, on its own. It must not be given the raw text: it
reads white space, quotes and several statements otherwise than PostgreSQL does.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Iterator
from typing import NamedTuple

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from dbshield.model import Operation
from dbshield.sqltext import native
from dbshield.sqltext.bounds import Scope, target_scope
from dbshield.sqltext.glot_conditions import GlotConditions
from dbshield.sqltext.glot_nodes import spread
from dbshield.sqltext.statement import Trouble, Unreadable

# Its warnings quote the statement, with everything that is in it.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL)

CURRENT_OF = re.compile(r" WHERE CURRENT OF (?:\"(?:[^\"]|\"\")+\"|[^ ]+)(?= RETURNING |$)")
OVERRIDING = re.compile(r" OVERRIDING (?:SYSTEM|USER) VALUE(?= )")
RETURNING_NAMES = re.compile(r"(?<= RETURNING )WITH \([^()]*\) ")
COPY_CONDITION = re.compile(r"(?<= FROM STDIN)(.*?) WHERE .*$", re.DOTALL)
VIEW_OPTIONS = re.compile(r"^(CREATE (?:OR REPLACE )?VIEW [^ ]+) WITH \([^()]*\)(?= AS )")
CLAUSES = (
    (" CURRENT OF ", CURRENT_OF, ""),
    (" OVERRIDING ", OVERRIDING, ""),
    (" RETURNING WITH (", RETURNING_NAMES, ""),
    (" FROM STDIN", COPY_CONDITION, r"\1"),
)
"""Clauses that sqlglot has no grammar for, cut from its text: what to look for, what to cut, what stays of it. A cut in the wrong
place can only make the readers differ."""


FAILURES = (SqlglotError, TypeError, ValueError, AttributeError, LookupError)
"""What sqlglot raises on texts that it was not written for."""

OPERATOR_TOKEN = 265
"""The grammar's number for an operator that has no token of its own (Op)."""

KEPT_OPERATORS = frozenset({b"||", b"->", b"->>", b"~", b"~*", b"!~", b"!~*"})
"""Operators that the conditions look at, or that every version of sqlglot reads."""

OPENING = frozenset({TokenType.L_PAREN, TokenType.L_BRACKET})
CLOSING = frozenset({TokenType.R_PAREN, TokenType.R_BRACKET})
FEW_TOKENS = 30
MAX_BRACKET_WORK = 60_000
"""sqlglot reads what stands in square brackets, or in parentheses behind the name of a type (`json(`), twice or more often: 8**n
times for n in each other was seen. So each counts that from the second on, and the sum is bounded; what is shorter than
FEW_TOKENS cannot reach it. Six fit, which is how many dimensions an array of PostgreSQL has at most (MAXDIM)."""

NO_OPERAND = frozenset({b"(", b"[", b",", b"=", b"<", b">", b"<=", b">=", b"<>", b"+", b"-", b"*", b"/", b"%", b"^"})
BEFORE_OPERAND = frozenset(
    b"all and any as between by case distinct else from having ilike in is like limit not offset on or returning select set then "
    b"using values when where".split()
)
"""After these an operator stands before its only operand."""


class Written(NamedTuple):
    """One write: what it does to which table, and whether a condition bounds it."""

    operation: Operation
    schema: str
    table: str
    bounded: bool


class Reading(NamedTuple):
    """What sqlglot says of one statement. `kind` is the class of its tree in lower case (`delete`, `create`, `command`)."""

    kind: str
    object_kind: str
    names: frozenset[tuple[str, str]]
    destroys: bool
    written: frozenset[Written]


def read(text: str) -> Reading:
    """The reading of one canonical statement. Raises Unreadable where sqlglot fails or sees several statements."""
    for mark, clause, kept in CLAUSES:
        if mark in text:
            text = clause.sub(kept, text)
    if text.startswith("CREATE"):
        text = VIEW_OPTIONS.sub(r"\1", text)
    try:
        trees = _parse(text)
    except FAILURES:
        trees = _parse_spelled_out(text)
    if len(trees) != 1:
        raise Unreadable(Trouble.DISAGREEMENT, f"the second reader sees {len(trees)} statements in one")
    tree = trees[0]
    return Reading(
        kind=type(tree).__name__.lower(),
        object_kind=str(tree.args.get("kind") or "").lower() if not isinstance(tree, (exp.Command, exp.Select)) else "",
        names=frozenset(_names(tree)),
        destroys=_destroys(tree),
        written=frozenset(_written(tree)),
    )


def _count_brackets(tokens: list[Token], types: Container[TokenType]) -> None:
    work = depth = 0
    costly: list[bool] = []
    before = TokenType.SEMICOLON
    for token in tokens:
        kind = token.token_type
        if kind in OPENING:
            costly.append(kind is TokenType.L_BRACKET or before in types)
            if costly[-1]:
                depth += 1
                work += 8 ** max(1, depth - 1)
                if work > MAX_BRACKET_WORK:
                    raise Unreadable(Trouble.TOO_DEEP, "arrays or types that nest too deep for the second reader")
        elif kind in CLOSING and costly:
            depth -= costly.pop()
        before = kind


class _Sqlglot:
    """sqlglot's tokenizer and parser, kept between statements; after a failure new ones are made, whose state is known."""

    def __init__(self) -> None:
        self.dialect = Dialect.get_or_raise("postgres")
        self.renew()

    def renew(self) -> None:
        self.tokenizer, self.parser = self.dialect.tokenizer(), self.dialect.parser()

    def parse(self, text: str) -> list[exp.Expr]:
        try:
            tokens = self.tokenizer.tokenize(text)
            if len(tokens) > FEW_TOKENS:
                _count_brackets(tokens, self.parser.TYPE_TOKENS)
            trees = self.parser.parse(tokens, text)
        except BaseException:
            self.renew()
            raise
        return [tree for tree in trees if tree is not None]


_parse = _Sqlglot().parse


def _parse_spelled_out(text: str) -> list[exp.Expr]:
    """A second try, with operators that sqlglot has no token for in the form OPERATOR(pg_catalog.name)."""
    try:
        return _parse(_spelled_out(text.encode()).decode())
    except (*FAILURES, native.GrammarError) as error:
        raise Unreadable(Trouble.SECOND_READER, "the second reader does not accept the statement") from error


def _spelled_out(text: bytes) -> bytes:
    """`text` with its rarer operators spelled out; one before its operand becomes a minus, which depends on the same columns."""
    pieces: list[bytes] = []
    position = 0
    operand = False
    for start, end, token in native.scan(text.decode()):
        word = text[start:end]
        if token == OPERATOR_TOKEN and word not in KEPT_OPERATORS:
            pieces += (text[position:start], b" OPERATOR(pg_catalog." + word + b") " if operand else b"- ")
            position = end
        operand = token != OPERATOR_TOKEN and word not in NO_OPERAND and word.lower() not in BEFORE_OPERAND
    pieces.append(text[position:])
    return b"".join(pieces)


def _table(node: exp.Expr | None) -> exp.Table | None:
    """The table that a statement aims at, without its list of columns."""
    if isinstance(node, exp.Schema):
        node = node.this
    return node if isinstance(node, exp.Table) else None


def _names(tree: exp.Expr) -> Iterator[tuple[str, str]]:
    """The objects that a definition names, as schema and name."""
    if not isinstance(tree, (exp.Create, exp.Alter, exp.Drop, exp.Comment, exp.TruncateTable, exp.Copy)):
        return
    for node in [tree.this, *tree.expressions]:
        table = _table(node)
        if table is not None:
            yield table.db, table.name


def _destroys(tree: exp.Expr) -> bool:
    """True when a definition drops or renames something, as sqlglot reads it."""
    if not isinstance(tree, exp.Alter):
        return False
    return any(isinstance(action, (exp.Drop, exp.AlterRename, exp.RenameColumn)) for action in tree.args.get("actions") or ())


WRITES = frozenset({exp.Insert, exp.Update, exp.Delete, exp.Merge})


def _written(tree: exp.Expr) -> Iterator[Written]:
    queries: dict[str, tuple[exp.Expr, ...]] = {}
    writes: list[exp.Expr] = []
    for node in tree.walk():
        kind = type(node)
        if kind in WRITES:
            writes.append(node)
        elif kind is exp.CTE:
            queries[node.alias] = (*queries.get(node.alias, ()), node.this)
    conditions = GlotConditions(queries)
    for node in writes:
        table = _table(node.this)
        if table is None:
            continue  # An action inside MERGE, which the MERGE itself reads.
        scope = target_scope(table.db, table.name, table.alias)
        if isinstance(node, exp.Merge):
            yield from _merged(node, table, conditions, scope)
        elif isinstance(node, exp.Insert):
            yield Written(Operation.INSERT, table.db, table.name, False)
            conflict = node.args.get("conflict")
            if conflict and str(conflict.args.get("action") or "").upper() == "DO UPDATE":
                yield Written(Operation.UPDATE, table.db, table.name, True)
        else:
            yield _bounded(node, table, conditions, scope)


def _bounded(node: exp.Expr, table: exp.Table, conditions: GlotConditions, scope: Scope) -> Written:
    if isinstance(node, exp.Delete):
        operation, items = Operation.DELETE, list(node.args.get("using") or [])
    else:
        operation = Operation.UPDATE
        items = [node.args["from_"].this] if node.args.get("from_") else []
        items += [join.this for join in table.args.get("joins") or ()]
    where = node.args.get("where")
    bounded = conditions.constrains(where.this if where else None, conditions.beside(spread(items), scope))
    return Written(operation, table.db, table.name, bounded)


def _merged(node: exp.Merge, table: exp.Table, conditions: GlotConditions, scope: Scope) -> Iterator[Written]:
    scope = conditions.beside(spread([node.args["using"]]), scope)
    joined = conditions.constrains(node.args.get("on"), scope)
    for when in node.args["whens"].expressions:
        action = when.args["then"]
        if isinstance(action, exp.Insert):
            yield Written(Operation.INSERT, table.db, table.name, False)
            continue
        word = str(action).upper() if isinstance(action, exp.Var) else ""
        if isinstance(action, exp.Update):
            operation = Operation.UPDATE
        elif word == "DELETE":
            operation = Operation.DELETE
        elif word == "DO NOTHING":
            continue
        else:
            raise Unreadable(Trouble.DISAGREEMENT, "the second reader sees another action in MERGE")
        bounded = conditions.constrains(when.args.get("condition"), scope)
        by_source = when.args.get("source") and not when.args.get("matched")
        yield Written(operation, table.db, table.name, bounded or (joined and not by_source))
