"""Walks PostgreSQL's tree without recursion and collects the effects of everything in it.

Every node type is named in `postgres_fields`, in HANDLERS here or among the statements; one that is not becomes an effect whose
operation is UNKNOWN, so that a new grammar never passes unread. Statements inside others (in WITH, EXPLAIN, CREATE
SCHEMA, a rule) are read where they are met.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dbshield.model import Effect, Flag, ObjectKind, ObjectName, Operation
from dbshield.sqltext.bounds import target_scope
from dbshield.sqltext.postgres_conditions import PostgresConditions
from dbshield.sqltext.postgres_fields import NOTHING_LEFT_OUT, PLAIN, UNWALKED
from dbshield.sqltext.postgres_nodes import Node, names
from dbshield.sqltext.statement import Statement, Trouble, Unreadable

Names = frozenset[str]
NO_NAMES: Names = frozenset()

MAX_WITH = 1_000
"""Queries that WITH may name in one statement. Each sees the names before it, which takes room and time by the square of them."""


def object_name(parts: tuple[str, ...]) -> ObjectName:
    """A dotted name; what stands before the last dot is the schema (a catalogue before it may only be the own database)."""
    return ObjectName(schema=parts[-2] if len(parts) > 1 else "", name=parts[-1] if parts else "")


def relation_name(body: Node) -> ObjectName:
    """The name in a RangeVar."""
    return ObjectName(schema=body.get("schemaname", ""), name=body.get("relname", ""))


def relation_flags(body: Node) -> frozenset[Flag]:
    temporary = body.get("relpersistence") == "t" or body.get("schemaname") == "pg_temp"
    return frozenset({Flag.TEMPORARY}) if temporary else frozenset()


class Collector:
    """Effects of one statement. `planned` is true inside EXPLAIN without ANALYZE, where nothing is executed. `statements` read
    what is no query, by node type, and say its kind."""

    def __init__(self, statements: Mapping[str, Callable[[Collector, Node], str]]) -> None:
        self.statements = statements
        self.effects: dict[Effect, None] = {}
        self.attributes: set[str] = {EQUALITY}
        self.conditions = PostgresConditions({})
        self.planned = False
        self.literal = False
        self.bodies: list[tuple[bytes, tuple[Statement, ...]]] = []
        self._queries = 0
        """How many queries have a name of WITH so far."""
        self._stack: list[tuple[Any, Names]] = []

    # -- what handlers call

    def add(
        self,
        operation: Operation,
        kind: ObjectKind,
        name: ObjectName,
        flags: frozenset[Flag] = frozenset(),
        detail: str = "",
    ) -> None:
        """Record one effect; inside a plan that is only shown, everything but calls is a read."""
        if self.planned and operation not in {Operation.CALL, Operation.UNKNOWN}:
            operation, flags, detail = Operation.READ, frozenset(), ""
        self.effects[Effect(operation=operation, kind=kind, name=name, flags=flags, detail=detail)] = None

    def relation(self, operation: Operation, body: Node, *flags: Flag, detail: str = "") -> None:
        """Record an effect on the table that a RangeVar names."""
        self.add(operation, ObjectKind.TABLE, relation_name(body), relation_flags(body) | frozenset(flags), detail)

    def call(self, parts: tuple[str, ...], detail: str = "", *flags: Flag) -> None:
        self.add(Operation.CALL, ObjectKind.FUNCTION, object_name(parts), frozenset(flags), detail)

    def unknown(self, what: str) -> None:
        self.add(Operation.UNKNOWN, ObjectKind.OTHER, ObjectName(name=what))

    def later(self, node: Any, scope: Names = NO_NAMES) -> None:
        """Walk `node` too; `scope` are the names that WITH gives there."""
        if node:
            self._stack.append((node, scope))

    # -- the walk

    def statement(self, tag: str, body: Node) -> str:
        """Collect from a statement that is no query; its kind. What its handler did not take is walked."""
        handler = self.statements.get(tag)
        if handler is None:
            self.unknown(tag)
            return "unknown"
        kind = handler(self, body)
        left_out = UNWALKED.get(tag, NOTHING_LEFT_OUT)
        self.walk({key: value for key, value in body.items() if key not in left_out})
        return kind

    def walk(self, root: Any, scope: Names = NO_NAMES) -> None:
        """Collect from `root` and everything below it; None is nothing."""
        if not root:
            return
        stack = self._stack
        base = len(stack)
        stack.append((root, scope))
        while len(stack) > base:
            node, scope = stack.pop()
            if type(node) is list:
                for item in node:
                    stack.append((item, scope))
            elif "withClause" in node:
                self._with(node, scope)
            else:
                self._fields(node, scope)

    def _fields(self, node: Node, scope: Names) -> None:
        stack = self._stack
        for key, value in node.items():
            if type(value) is not dict and type(value) is not list:
                continue
            handler = HANDLERS.get(key)
            if handler is not None:
                handler(self, value, scope)
            elif key in PLAIN or not key[0].isupper():
                stack.append((value, scope))
            elif type(value) is dict:
                self.statement(key, value)
            else:
                self.unknown(key)

    def _with(self, node: Node, scope: Names) -> None:
        """A query with WITH: each of its queries sees the ones before it (all of them when recursive), the body sees all."""
        clause = node["withClause"]
        self._queries += len(clause["ctes"])
        if self._queries > MAX_WITH:
            raise Unreadable(Trouble.TOO_DEEP, f"more than {MAX_WITH} queries in WITH")
        queries = [item["CommonTableExpr"] for item in clause["ctes"]]
        known = {query["ctename"] for query in queries}
        self.conditions.learn(node)
        visible = scope | known if clause.get("recursive") else scope
        for query in queries:
            self._stack.append(({key: value for key, value in query.items() if key != "ctename"}, visible))
            visible |= {query["ctename"]}
        self._fields({key: value for key, value in node.items() if key != "withClause"}, scope | known)


Handler = Callable[[Collector, Any, Names], None]


def _range_var(collector: Collector, body: Node, scope: Names) -> None:
    if "schemaname" in body or body["relname"] not in scope:
        collector.relation(Operation.READ, body)


def _constant(node: Node | None) -> str | None:
    """The value of a constant argument as text, or None when it is no constant."""
    while node and "TypeCast" in node:
        node = node["TypeCast"]["arg"]
    if not node or "A_Const" not in node or node["A_Const"].get("isnull"):
        return None
    constant = node["A_Const"]
    for key in ("sval", "ival", "fval", "boolval"):
        if key in constant:
            inner = constant[key]
            return str(inner.get(key, "" if key == "sval" else 0))
    return None


def _function(collector: Collector, body: Node, scope: Names) -> None:
    parts = names(body["funcname"])
    detail = ""
    flags: tuple[Flag, ...] = ()
    if parts[-1] in READ_ARGUMENTS:
        arguments = [_constant(argument) for argument in body.get("args", ())]
        detail = "\n".join("?" if value is None else value for value in arguments)
        flags = (Flag.LITERAL,)
        collector.literal = True
    collector.call(parts, detail, *flags)
    if parts == SYSTEM_JSON_OBJECT:
        collector.attributes.add("json_object()")
    for key, value in body.items():
        if key != "funcname" and type(value) in {dict, list}:
            collector.later(value, scope)


SYSTEM_JSON_OBJECT = ("pg_catalog", "json_object")
"""What the grammar of PostgreSQL 16 and newer makes of a plain `json_object(a, b)`, which an older one looks up by name."""

READ_ARGUMENTS = frozenset({"set_config", "lo_open"})
"""Functions that are judged by their constant arguments, one a line in the effect's detail (`?` where it is no constant)."""


def _expression(collector: Collector, body: Node, scope: Names) -> None:
    _operator(collector, body["name"], scope)
    if "BETWEEN" in body["kind"]:
        collector.attributes.update(ORDERING)
    collector.later(body.get("lexpr"), scope)
    collector.later(body.get("rexpr"), scope)


def _operator(collector: Collector, body: list[Node], scope: Names) -> None:
    """OPERATOR(schema.name): outside pg_catalog it is a function that somebody wrote. A bare one may be, so it is told."""
    if len(body) == 1:
        collector.attributes.add(body[0]["String"]["sval"])
        return
    parts = names(body)
    if parts[0] != "pg_catalog":
        collector.call(parts, "operator")


ORDERING = ("<=", ">=")
"""The operators that BETWEEN stands for."""

EQUALITY = "="
"""Looked up by name in JOIN USING, CASE, IN, NULLIF and more: so every statement may use it."""


def _type(collector: Collector, body: Any, scope: Names) -> None:
    """A type that is not PostgreSQL's own may have a cast that somebody wrote."""
    if type(body) is list:  # The name of a type that is defined.
        collector.later(body, scope)
        return
    parts = body["names"]
    if parts[0]["String"]["sval"] != "pg_catalog":
        collector.attributes.add(f"{parts[-1]['String']['sval']}::")
    for key in ("typmods", "arrayBounds"):
        collector.later(body.get(key), scope)


def _column(collector: Collector, body: Node, scope: Names) -> None:
    fields = body["fields"]
    if len(fields) > 1 and "String" in fields[-1]:
        collector.attributes.add(fields[-1]["String"].get("sval", ""))


def _indirection(collector: Collector, body: Node, scope: Names) -> None:
    for item in body["indirection"]:
        if "String" in item:
            collector.attributes.add(item["String"].get("sval", ""))
        else:
            collector.later(item, scope)
    collector.later(body["arg"], scope)


def _insert(collector: Collector, body: Node, scope: Names) -> None:
    collector.relation(Operation.INSERT, body["relation"])
    conflict = body.get("onConflictClause", {})
    if conflict.get("action") == "ONCONFLICT_UPDATE":
        collector.relation(Operation.UPDATE, body["relation"], Flag.BOUNDED, detail="upsert")
    _rest(collector, body, scope)


def _update(collector: Collector, body: Node, scope: Names) -> None:
    _bounded(collector, body, Operation.UPDATE, body.get("fromClause", ()))
    _rest(collector, body, scope)


def _delete(collector: Collector, body: Node, scope: Names) -> None:
    _bounded(collector, body, Operation.DELETE, body.get("usingClause", ()))
    _rest(collector, body, scope)


def _bounded(collector: Collector, body: Node, operation: Operation, beside: Any) -> None:
    relation, conditions = body["relation"], collector.conditions
    conditions.learn(body)
    own = target_scope(relation.get("schemaname", ""), relation["relname"], relation.get("alias", {}).get("aliasname", ""))
    where = body.get("whereClause")
    bounded = conditions.constrains(where, conditions.beside(beside, own))
    detail = "current of" if where and "CurrentOfExpr" in where else ""
    collector.relation(operation, relation, *((Flag.BOUNDED,) if bounded else ()), detail=detail)


def _merge(collector: Collector, body: Node, scope: Names) -> None:
    """A row is bounded by the join; a row that no source row matches only by its own condition."""
    relation, conditions = body["relation"], collector.conditions
    conditions.learn(body)
    alias = relation.get("alias", {}).get("aliasname", "")
    own = target_scope(relation.get("schemaname", ""), relation["relname"], alias)
    own = conditions.beside([body["sourceRelation"]], own)
    joined = conditions.constrains(body["joinCondition"], own)
    operations = {"CMD_INSERT": Operation.INSERT, "CMD_UPDATE": Operation.UPDATE, "CMD_DELETE": Operation.DELETE}
    for item in body["mergeWhenClauses"]:
        clause = item["MergeWhenClause"]
        operation = operations.get(clause["commandType"])
        if operation is None:
            if clause["commandType"] != "CMD_NOTHING":
                collector.unknown(clause["commandType"])
            continue
        bounded = conditions.constrains(clause.get("condition"), own)
        if clause["matchKind"] != "MERGE_WHEN_NOT_MATCHED_BY_SOURCE":
            bounded = bounded or joined
        flags = (Flag.BOUNDED,) if bounded and operation is not Operation.INSERT else ()
        collector.relation(operation, relation, *flags, detail="" if operation is Operation.INSERT else "merge")
    _rest(collector, body, scope)


def _rest(collector: Collector, body: Node, scope: Names) -> None:
    """Walk everything of a data-changing statement but the relation that it writes."""
    collector.later({key: value for key, value in body.items() if key != "relation"}, scope)


def _sample(collector: Collector, body: Node, scope: Names) -> None:
    """TABLESAMPLE: a method of an extension is a function with that name."""
    method = names(body["method"])
    if method[-1] not in SAMPLE_METHODS:
        collector.call(method, "sample")
    collector.later(body, scope)


SAMPLE_METHODS = frozenset({"bernoulli", "system"})
"""PostgreSQL's own (manual, SELECT, TABLESAMPLE)."""


def _exclusions(collector: Collector, body: list[Node], scope: Names) -> None:
    """EXCLUDE (element WITH operator, …): the operator runs whenever a row is written."""
    for pair in body:
        _, operator = pair["List"]["items"]
        _operator(collector, operator["List"]["items"], scope)
        collector.later(pair, scope)


def _into(collector: Collector, body: Node, scope: Names) -> None:
    collector.relation(Operation.CREATE, body["rel"])
    collector.later(body.get("options"), scope)


def _locking(collector: Collector, body: Node, scope: Names) -> None:
    collector.add(Operation.LOCK, ObjectKind.TABLE, ObjectName(name=""), frozenset(), "rows")


SYNTAX_FUNCTIONS = {
    "JsonArrayAgg": ("json_arrayagg",),
    "JsonArrayConstructor": ("json_array",),
    "JsonArrayQueryConstructor": ("json_array",),
    "JsonFuncExpr": ("json_exists", "json_query", "json_value"),
    "JsonObjectAgg": ("json_objectagg",),
    "JsonObjectConstructor": ("json_object",),
    "JsonParseExpr": ("json",),
    "JsonScalarExpr": ("json_scalar",),
    "JsonSerializeExpr": ("json_serialize",),
    "JsonTable": ("json_table",),
    "MergeSupportFunc": ("merge_action",),
}
"""Syntax of newer servers that an older one takes for a call of a function with that name."""


def _syntax_function(node: str) -> Handler:
    marked = tuple(f"{name}()" for name in SYNTAX_FUNCTIONS[node])

    def handler(collector: Collector, body: Any, scope: Names) -> None:
        collector.attributes.update(marked)
        collector.later(body, scope)

    return handler


def _nothing(collector: Collector, body: Any, scope: Names) -> None:
    """A field that holds names only."""


HANDLERS: dict[str, Handler] = {
    "A_Expr": _expression,
    "A_Indirection": _indirection,
    "A_Const": _nothing,
    "ColumnRef": _column,
    "DeleteStmt": _delete,
    "exclusions": _exclusions,
    "FuncCall": _function,
    "InsertStmt": _insert,
    "LockingClause": _locking,
    "MergeStmt": _merge,
    "RangeTableSample": _sample,
    "RangeVar": _range_var,
    "SelectStmt": lambda collector, body, scope: collector.later(body, scope),
    "TypeName": _type,
    "typeName": _type,
    "UpdateStmt": _update,
    "intoClause": _into,
    "operName": _operator,
    "alias": _nothing,
    "useOp": _operator,
    **{node: _syntax_function(node) for node in SYNTAX_FUNCTIONS},
}
"""What is read where it is met, by node type or by the field that holds a node of one type."""
