"""Effects of statements that steer the session, wrap another statement or maintain the server, from PostgreSQL's tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbshield.model import Flag, ObjectKind, ObjectName, Operation
from dbshield.sqltext.collector import Collector, object_name, relation_name
from dbshield.sqltext.postgres_nodes import Node, names
from dbshield.sqltext.postgres_schema import dotted

TRANSACTION_WORDS = {
    "TRANS_STMT_BEGIN": "begin",
    "TRANS_STMT_START": "begin",
    "TRANS_STMT_COMMIT": "commit",
    "TRANS_STMT_ROLLBACK": "rollback",
    "TRANS_STMT_SAVEPOINT": "savepoint",
    "TRANS_STMT_RELEASE": "release savepoint",
    "TRANS_STMT_ROLLBACK_TO": "rollback to savepoint",
    "TRANS_STMT_PREPARE": "prepare transaction",
    "TRANS_STMT_COMMIT_PREPARED": "commit prepared",
    "TRANS_STMT_ROLLBACK_PREPARED": "rollback prepared",
}

LOCK_MODES = (
    "",
    "access share",
    "row share",
    "row exclusive",
    "share update exclusive",
    "share",
    "share row exclusive",
    "exclusive",
    "access exclusive",
)
"""Lock modes by their number (src/include/storage/lockdefs.h)."""

FALSE_WORDS = frozenset({"false", "off", "0", "no"})
"""What turns an option of EXPLAIN off; anything else counts as on."""

OWN_STATEMENTS = "dbshield_"
"""How the names of the shield's own prepared statements begin, which count the changed rows. They are no secret
(pg_prepared_statements tells them), so they are told as objects of the shield's schema, which no agent may touch (DS404)."""

UNSPOKEN_SETTING = "."
"""A setting with this in its name belongs to an application or an extension; its value may be a secret and is not kept.

The detail of a SET is `=` and the values, one a line; of a RESET it is empty."""


def constant(node: Node) -> str:
    """The value of a constant in an option list, as text; `?` for anything else."""
    for tag in ("A_Const", "Integer", "Float", "String", "Boolean"):
        if tag in node:
            body = node[tag]
            if tag == "A_Const":
                if body.get("isnull"):
                    return "null"
                body = next((value for key, value in body.items() if isinstance(value, dict)), {})
            for key in ("sval", "fval", "ival", "boolval"):
                if key in body:
                    return str(body[key]).lower() if key == "boolval" else str(body[key])
            return "false" if tag == "Boolean" else "0" if tag != "String" else ""
    if "TypeCast" in node:
        return constant(node["TypeCast"]["arg"])
    return "?"


def options(nodes: Any) -> dict[str, str]:
    """Options as name and value; an option without a value is `true`."""
    found: dict[str, str] = {}
    for item in nodes or ():
        option = item["DefElem"]
        found[option["defname"]] = constant(option["arg"]) if "arg" in option else "true"
    return found


def set_variable(collector: Collector, body: Node) -> str:
    kind, name = body["kind"], body.get("name", "").lower()
    if kind == "VAR_SET_MULTI":
        if name == "transaction snapshot":
            collector.add(Operation.TRANSACTION, ObjectKind.SESSION, ObjectName(name=""), frozenset(), name)
            return "set"
        for option, value in options(body["args"]).items():
            collector.add(Operation.SET, ObjectKind.SETTING, ObjectName(name=option), frozenset({Flag.LITERAL}), f"={value}")
        return "set"
    if kind in {"VAR_SET_DEFAULT", "VAR_RESET", "VAR_RESET_ALL", "VAR_SET_CURRENT"}:
        collector.add(Operation.SET, ObjectKind.SETTING, ObjectName(name=name or "all"))
        return "set"
    values = [constant(item) for item in body.get("args", ())]
    detail = "" if UNSPOKEN_SETTING in name else "\n".join(values)
    collector.add(Operation.SET, ObjectKind.SETTING, ObjectName(name=name), frozenset({Flag.LITERAL}), f"={detail}")
    return "set"


def show(collector: Collector, body: Node) -> str:
    collector.add(Operation.READ, ObjectKind.SETTING, ObjectName(name=body.get("name", "")))
    return "show"


def transaction(collector: Collector, body: Node) -> str:
    word = TRANSACTION_WORDS.get(body["kind"])
    if word is None:
        collector.unknown(body["kind"])
        return "unknown"
    collector.add(Operation.TRANSACTION, ObjectKind.SESSION, ObjectName(name=""), frozenset(), word)
    for option, value in options(body.get("options")).items():
        collector.add(Operation.SET, ObjectKind.SETTING, ObjectName(name=option), frozenset({Flag.LITERAL}), f"={value}")
    return word


def explain(collector: Collector, body: Node) -> str:
    given = [item["DefElem"] for item in body.get("options", ()) if item["DefElem"]["defname"] in {"analyze", "analyse"}]
    runs = any(constant(item["arg"]).lower() not in FALSE_WORDS if "arg" in item else True for item in given)
    before, collector.planned = collector.planned, collector.planned or not runs
    collector.walk(body["query"])
    collector.planned = before
    return "explain analyze" if runs else "explain"


def prepare(collector: Collector, body: Node) -> str:
    collector.add(Operation.EXECUTE, ObjectKind.STATEMENT, _statement(body["name"]), frozenset(), "prepare")
    return "prepare"


def _statement(name: str) -> ObjectName:
    return ObjectName(schema="dbshield" if name.startswith(OWN_STATEMENTS) else "", name=name)


def execute(collector: Collector, body: Node) -> str:
    collector.add(Operation.EXECUTE, ObjectKind.STATEMENT, _statement(body["name"]))
    return "execute"


def deallocate(collector: Collector, body: Node) -> str:
    # A statement may be named "all".
    detail = "deallocate all" if body.get("isall") else "deallocate"
    collector.add(Operation.EXECUTE, ObjectKind.STATEMENT, _statement(body.get("name", "all")), frozenset(), detail)
    return "deallocate"


def discard(collector: Collector, body: Node) -> str:
    what = str(body.get("target", "")).removeprefix("DISCARD_").lower()
    collector.add(Operation.SET, ObjectKind.SESSION, ObjectName(name=what), frozenset(), "discard")
    return "discard"


WITH_HOLD = 0x0020
"""CURSOR_OPT_HOLD of src/include/nodes/parsenodes.h."""


def declare(collector: Collector, body: Node) -> str:
    detail = "declare with hold" if body.get("options", 0) & WITH_HOLD else "declare"
    collector.add(Operation.CURSOR, ObjectKind.SESSION, ObjectName(name=body["portalname"]), frozenset(), detail)
    return "declare"


def fetch(collector: Collector, body: Node) -> str:
    word = "move" if body.get("ismove") else "fetch"
    collector.add(Operation.CURSOR, ObjectKind.SESSION, ObjectName(name=body["portalname"]), frozenset(), word)
    return word


def close(collector: Collector, body: Node) -> str:
    collector.add(Operation.CURSOR, ObjectKind.SESSION, ObjectName(name=body.get("portalname", "all")), frozenset(), "close")
    return "close"


def copy(collector: Collector, body: Node) -> str:
    from_client = body.get("is_from", False)
    if body.get("is_program"):
        collector.add(Operation.PROGRAM, ObjectKind.OTHER, ObjectName(name="copy"))
    elif "filename" in body:
        collector.add(Operation.FILE, ObjectKind.OTHER, ObjectName(name="copy"))
    if "query" not in body:
        collector.relation(
            Operation.INSERT if from_client else Operation.READ, body["relation"], detail="copy" if from_client else ""
        )
    return "copy from" if from_client else "copy to"


def lock(collector: Collector, body: Node) -> str:
    mode = body["mode"]
    for item in body["relations"]:
        detail = LOCK_MODES[mode] if 0 < mode < len(LOCK_MODES) else "?"
        collector.relation(Operation.LOCK, item["RangeVar"], detail=detail)
    return "lock"


def vacuum(collector: Collector, body: Node) -> str:
    word = "vacuum" if body.get("is_vacuumcmd") else "analyze"
    given = options(body.get("options"))
    full = given.get("full", "false").lower() not in FALSE_WORDS
    detail = f"{word} full" if full else word
    for item in body.get("rels") or [{"VacuumRelation": {}}]:
        name = relation_name(item["VacuumRelation"].get("relation", {}))
        collector.add(Operation.MAINTAIN, ObjectKind.TABLE, name, frozenset(), detail)
    return word


def reindex(collector: Collector, body: Node) -> str:
    concurrent = options(body.get("params")).get("concurrently", "false").lower() not in FALSE_WORDS
    flags = frozenset({Flag.CONCURRENT}) if concurrent else frozenset()
    name = relation_name(body["relation"]) if "relation" in body else ObjectName(name=body.get("name", ""))
    collector.add(Operation.MAINTAIN, ObjectKind.INDEX, name, flags, "reindex")
    return "reindex"


def call(collector: Collector, body: Node) -> str:
    function = body["funccall"]
    name = object_name(names(function["funcname"]))
    collector.add(Operation.EXECUTE, ObjectKind.FUNCTION, name, frozenset(), "procedure")
    return "call"


def alter_enum(collector: Collector, body: Node) -> str:
    detail = "rename" if "oldVal" in body else "enum"
    collector.add(Operation.ALTER, ObjectKind.TYPE, object_name(dotted(body["typeName"])), frozenset(), detail)
    return "alter type"


def define(collector: Collector, body: Node) -> str:
    """CREATE AGGREGATE, OPERATOR, base TYPE, COLLATION and text search objects."""
    what = body["kind"].removeprefix("OBJECT_").lower().replace("_", " ")
    collector.add(Operation.CREATE, ObjectKind.OTHER, object_name(names(body["defnames"])), frozenset(), what)
    return f"create {what}"


HANDLERS: dict[str, Callable[[Collector, Node], str]] = {
    "AlterEnumStmt": alter_enum,
    "CallStmt": call,
    "ClosePortalStmt": close,
    "CopyStmt": copy,
    "DeallocateStmt": deallocate,
    "DiscardStmt": discard,
    "DeclareCursorStmt": declare,
    "DefineStmt": define,
    "ExecuteStmt": execute,
    "ExplainStmt": explain,
    "FetchStmt": fetch,
    "LockStmt": lock,
    "PrepareStmt": prepare,
    "ReindexStmt": reindex,
    "TransactionStmt": transaction,
    "VacuumStmt": vacuum,
    "VariableSetStmt": set_variable,
    "VariableShowStmt": show,
}
