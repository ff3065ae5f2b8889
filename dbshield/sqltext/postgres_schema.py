"""Effects of statements that define objects, from PostgreSQL's tree.

What an ALTER does is its `detail`, in the words of PostgreSQL's own command types (`AT_DropColumn` is "drop column"); the policy
knows which of them add and lose nothing. An object kind that this module does not know becomes OTHER with its name as detail.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from dbshield.model import Flag, ObjectKind, ObjectName, Operation
from dbshield.sqltext.bounds import target_scope
from dbshield.sqltext.collector import Collector, object_name, relation_flags, relation_name
from dbshield.sqltext.postgres_nodes import Node, names

KINDS = {
    "OBJECT_TABLE": ObjectKind.TABLE,
    "OBJECT_FOREIGN_TABLE": ObjectKind.TABLE,
    "OBJECT_COLUMN": ObjectKind.COLUMN,
    "OBJECT_VIEW": ObjectKind.VIEW,
    "OBJECT_MATVIEW": ObjectKind.MATERIALIZED_VIEW,
    "OBJECT_INDEX": ObjectKind.INDEX,
    "OBJECT_SEQUENCE": ObjectKind.SEQUENCE,
    "OBJECT_SCHEMA": ObjectKind.SCHEMA,
    "OBJECT_DATABASE": ObjectKind.DATABASE,
    "OBJECT_FUNCTION": ObjectKind.FUNCTION,
    "OBJECT_PROCEDURE": ObjectKind.FUNCTION,
    "OBJECT_ROUTINE": ObjectKind.FUNCTION,
    "OBJECT_AGGREGATE": ObjectKind.FUNCTION,
    "OBJECT_TYPE": ObjectKind.TYPE,
    "OBJECT_DOMAIN": ObjectKind.TYPE,
    "OBJECT_TRIGGER": ObjectKind.TRIGGER,
    "OBJECT_POLICY": ObjectKind.POLICY,
    "OBJECT_RULE": ObjectKind.RULE,
    "OBJECT_TABCONSTRAINT": ObjectKind.CONSTRAINT,
    "OBJECT_DOMCONSTRAINT": ObjectKind.CONSTRAINT,
    "OBJECT_EXTENSION": ObjectKind.EXTENSION,
    "OBJECT_ROLE": ObjectKind.ROLE,
    "OBJECT_LARGEOBJECT": ObjectKind.LARGE_OBJECT,
}
"""PostgreSQL's ObjectType (src/include/nodes/parsenodes.h) in our words."""

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


def object_words(kind: str) -> str:
    """`OBJECT_EVENT_TRIGGER` is "event trigger"."""
    return kind.removeprefix("OBJECT_").replace("_", " ").lower()


def command_words(command: str) -> str:
    """`AT_DropColumn` is "drop column"."""
    return _CAPITAL.sub(" ", command.removeprefix("AT_")).lower()


def dotted(node: Any) -> tuple[str, ...]:
    """The name parts of an object in any of the forms that the grammar gives it."""
    if isinstance(node, list):
        return names(node)
    if not isinstance(node, dict):
        return ()
    if "String" in node:
        return names([node])
    if "List" in node:
        return names(node["List"].get("items"))
    for key in ("objname", "names"):
        if key in node:
            return names(node[key])
    for key in ("ObjectWithArgs", "TypeName"):
        if key in node:
            return dotted(node[key])
    return ()


def _member_name(relation: ObjectName, member: str) -> ObjectName:
    """A part of a table (a column, a constraint) is named `table.part`."""
    return ObjectName(schema=relation.schema, name=f"{relation.name}.{member}")


def _cascade(body: Node) -> frozenset[Flag]:
    flags = {Flag.CASCADE} if body.get("behavior") == "DROP_CASCADE" else set()
    if body.get("missing_ok"):
        flags.add(Flag.IF_EXISTS)
    if body.get("concurrent"):
        flags.add(Flag.CONCURRENT)
    return frozenset(flags)


def drop(collector: Collector, body: Node) -> str:
    """DROP of everything that has no statement of its own."""
    what = body["removeType"]
    kind = KINDS.get(what, ObjectKind.OTHER)
    for item in body["objects"]:
        parts = dotted(item)
        name = object_name(parts)
        if what in {"OBJECT_TRIGGER", "OBJECT_POLICY", "OBJECT_RULE"}:
            name = _member_name(object_name(parts[:-1]), parts[-1])
        flags = _cascade(body) | (frozenset({Flag.TEMPORARY}) if name.schema == "pg_temp" else frozenset())
        collector.add(Operation.DROP, kind, name, flags, object_words(what))
    return f"drop {object_words(what)}"


def alter_table(collector: Collector, body: Node) -> str:
    kind = KINDS.get(body.get("objtype", "OBJECT_TABLE"), ObjectKind.OTHER)
    table, flags = relation_name(body["relation"]), relation_flags(body["relation"])
    for item in body["cmds"]:
        command = item["AlterTableCmd"]
        what, member = command["subtype"], command.get("name", "")
        own = flags | (_cascade(command) - {Flag.IF_EXISTS})
        match what:
            case "AT_DropColumn":
                collector.add(Operation.DROP, ObjectKind.COLUMN, _member_name(table, member), own, "drop column")
            case "AT_DropConstraint":
                collector.add(Operation.DROP, ObjectKind.CONSTRAINT, _member_name(table, member), own, "drop constraint")
            case "AT_AlterColumnType":
                rewrite = own | {Flag.REWRITE}
                collector.add(Operation.ALTER, ObjectKind.COLUMN, _member_name(table, member), rewrite, command_words(what))
            case "AT_SetRelOptions" | "AT_ResetRelOptions":
                detail = f"{command_words(what)}\n{_option_names(command)}"
                collector.add(Operation.ALTER, kind, table, own, detail)
            case _:
                collector.add(Operation.ALTER, kind, table, own, command_words(what))
    return f"alter {object_words(body.get('objtype', 'OBJECT_TABLE'))}"


def _option_names(command: Node) -> str:
    """The names of the storage parameters that a command sets, one a line, with the word before the dot if there is one."""
    found = [item["DefElem"] for item in command.get("def", {}).get("List", {}).get("items", ())]
    return "\n".join(".".join(filter(None, (option.get("defnamespace", ""), option["defname"]))) for option in found)


def rename(collector: Collector, body: Node) -> str:
    what = body["renameType"]
    if "relation" in body:
        name = relation_name(body["relation"])
        if body.get("subname"):
            name = _member_name(name, body["subname"])
    else:
        name = object_name(dotted(body.get("object"))) if body.get("object") else ObjectName(name=body.get("subname", ""))
    collector.add(Operation.ALTER, KINDS.get(what, ObjectKind.OTHER), name, frozenset(), "rename")
    whole = {
        "OBJECT_COLUMN": body.get("relationType"),
        "OBJECT_TABCONSTRAINT": "OBJECT_TABLE",
        "OBJECT_DOMCONSTRAINT": "OBJECT_DOMAIN",
    }
    return f"alter {object_words(whole.get(what) or what)}"


def set_schema(collector: Collector, body: Node) -> str:
    what = body["objectType"]
    name = relation_name(body["relation"]) if "relation" in body else object_name(dotted(body.get("object")))
    collector.add(Operation.ALTER, KINDS.get(what, ObjectKind.OTHER), name, frozenset(), "set schema")
    return f"alter {object_words(what)}"


def change_owner(collector: Collector, body: Node) -> str:
    what = body["objectType"]
    name = relation_name(body["relation"]) if "relation" in body else object_name(dotted(body.get("object")))
    collector.add(Operation.ALTER, KINDS.get(what, ObjectKind.OTHER), name, frozenset(), "change owner")
    return f"alter {object_words(what)}"


def truncate(collector: Collector, body: Node) -> str:
    for item in body["relations"]:
        collector.relation(Operation.TRUNCATE, item["RangeVar"], *_cascade(body))
    return "truncate"


def create_table(collector: Collector, body: Node) -> str:
    collector.relation(Operation.CREATE, body["relation"])
    if "ofTypename" in body:
        collector.unknown("create table of type")
    return "create table"


def create_foreign_table(collector: Collector, body: Node) -> str:
    table = relation_name(body["base"]["relation"])
    collector.add(Operation.CREATE, ObjectKind.OTHER, table, frozenset(), "foreign table")
    return "create foreign table"


def create_table_as(collector: Collector, body: Node) -> str:
    materialized = body.get("objtype") == "OBJECT_MATVIEW"
    into = body["into"]["rel"]
    kind = ObjectKind.MATERIALIZED_VIEW if materialized else ObjectKind.TABLE
    collector.add(Operation.CREATE, kind, relation_name(into), relation_flags(into))
    return "create materialized view" if materialized else "create table as"


def create_view(collector: Collector, body: Node) -> str:
    flags = relation_flags(body["view"])
    operation = Operation.REPLACE if body.get("replace") else Operation.CREATE
    collector.add(operation, ObjectKind.VIEW, relation_name(body["view"]), flags)
    return "create view"


def create_index(collector: Collector, body: Node) -> str:
    flags = relation_flags(body["relation"]) | (frozenset({Flag.CONCURRENT}) if body.get("concurrent") else frozenset())
    table = relation_name(body["relation"])
    name = ObjectName(schema=table.schema, name=body.get("idxname", f"{table.name} (index)"))
    collector.add(Operation.CREATE, ObjectKind.INDEX, name, flags)
    return "create index"


def create_schema(collector: Collector, body: Node) -> str:
    collector.add(Operation.CREATE, ObjectKind.SCHEMA, ObjectName(name=body.get("schemaname", "")))
    if "authrole" in body:
        collector.add(
            Operation.GRANT, ObjectKind.SCHEMA, ObjectName(name=body.get("schemaname", "")), frozenset(), "authorization"
        )
    return "create schema"


def create_sequence(collector: Collector, body: Node) -> str:
    name = relation_name(body["sequence"])
    collector.add(Operation.CREATE, ObjectKind.SEQUENCE, name, relation_flags(body["sequence"]))
    return "create sequence"


def alter_sequence(collector: Collector, body: Node) -> str:
    options = " ".join(item["DefElem"]["defname"] for item in body.get("options", ()))
    collector.add(Operation.ALTER, ObjectKind.SEQUENCE, relation_name(body["sequence"]), frozenset(), options)
    return "alter sequence"


def create_policy(collector: Collector, body: Node) -> str:
    """A policy whose condition constrains nothing opens every row, or closes every row."""
    table = relation_name(body["table"])
    conditions = [body[key] for key in ("qual", "with_check") if body.get(key)]
    scope = target_scope(table.schema, table.name, "")
    detail = "" if conditions and all(collector.conditions.constrains(item, scope) for item in conditions) else "open"
    collector.add(Operation.CREATE, ObjectKind.POLICY, _member_name(table, body["policy_name"]), frozenset(), detail)
    return "create policy"


def create_trigger(collector: Collector, body: Node) -> str:
    operation = Operation.REPLACE if body.get("replace") else Operation.CREATE
    name = _member_name(relation_name(body["relation"]), body["trigname"])
    collector.add(operation, ObjectKind.TRIGGER, name)
    return "create trigger"


def create_rule(collector: Collector, body: Node) -> str:
    collector.add(Operation.CREATE, ObjectKind.RULE, _member_name(relation_name(body["relation"]), body["rulename"]))
    return "create rule"


def grant(collector: Collector, body: Node) -> str:
    word = "grant" if body.get("is_grant") else "revoke"
    what = body.get("objtype", "OBJECT_TABLE")
    objects = body.get("objects") or [{}]
    for item in objects:
        name = relation_name(item["RangeVar"]) if "RangeVar" in item else object_name(dotted(item))
        collector.add(Operation.GRANT, KINDS.get(what, ObjectKind.OTHER), name, frozenset(), word)
    return word


def grant_role(collector: Collector, body: Node) -> str:
    word = "grant" if body.get("is_grant") else "revoke"
    for item in body["granted_roles"]:
        collector.add(
            Operation.GRANT, ObjectKind.ROLE, ObjectName(name=item["AccessPriv"].get("priv_name", "")), frozenset(), word
        )
    return word


def comment(collector: Collector, body: Node) -> str:
    kind = KINDS.get(body["objtype"], ObjectKind.OTHER)
    collector.add(Operation.ALTER, kind, object_name(dotted(body["object"])), frozenset(), "comment")
    return "comment"


def refresh(collector: Collector, body: Node) -> str:
    detail = "no data" if body.get("skipData") else ""
    name = relation_name(body["relation"])
    collector.add(Operation.MAINTAIN, ObjectKind.MATERIALIZED_VIEW, name, frozenset(), f"refresh {detail}".strip())
    return "refresh"


def drop_owned(collector: Collector, body: Node) -> str:
    for item in body["roles"]:
        name = ObjectName(name=item["RoleSpec"].get("rolename", "current_user"))
        collector.add(Operation.DROP, ObjectKind.ROLE, name, _cascade(body), "owned")
    return "drop owned"


def drop_role(collector: Collector, body: Node) -> str:
    for item in body["roles"]:
        collector.add(Operation.DROP, ObjectKind.ROLE, ObjectName(name=item["RoleSpec"].get("rolename", "current_user")))
    return "drop role"


Handler = Callable[[Collector, Node], str]

HANDLERS: dict[str, Handler] = {
    "AlterObjectSchemaStmt": set_schema,
    "AlterOwnerStmt": change_owner,
    "AlterSeqStmt": alter_sequence,
    "AlterTableStmt": alter_table,
    "CommentStmt": comment,
    "CreateForeignTableStmt": create_foreign_table,
    "CreatePolicyStmt": create_policy,
    "CreateSchemaStmt": create_schema,
    "CreateSeqStmt": create_sequence,
    "CreateStmt": create_table,
    "CreateTableAsStmt": create_table_as,
    "CreateTrigStmt": create_trigger,
    "DropOwnedStmt": drop_owned,
    "DropRoleStmt": drop_role,
    "DropStmt": drop,
    "GrantRoleStmt": grant_role,
    "GrantStmt": grant,
    "IndexStmt": create_index,
    "RefreshMatViewStmt": refresh,
    "RenameStmt": rename,
    "RuleStmt": create_rule,
    "TruncateStmt": truncate,
    "ViewStmt": create_view,
}
