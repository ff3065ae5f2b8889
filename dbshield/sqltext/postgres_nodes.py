"""Small questions about PostgreSQL's tree, in the JSON form that libpg_query prints: a node is `{"ItsType": {…its fields…}}`."""

from __future__ import annotations

from typing import Any

from dbshield.sqltext.bounds import Work

Node = dict[str, Any]


def names(nodes: list[Node] | None) -> tuple[str, ...]:
    """The texts of a list of String nodes; anything else in it (a star) becomes `*`."""
    return tuple(node["String"].get("sval", "") if "String" in node else "*" for node in nodes or ())


def refers(node: Any, qualifiers: frozenset[str], work: Work) -> bool:
    """True when anything in `node` names a column by one of `qualifiers`, or by none where there is no FROM of its own."""
    stack = [(node, False)]
    while stack:
        work.spend()
        item, bare = stack.pop()
        if isinstance(item, list):
            stack += [(inner, bare) for inner in item]
        elif isinstance(item, dict):
            if "ColumnRef" in item:
                parts = names(item["ColumnRef"]["fields"])
                if ".".join(parts[:-1]) in qualifiers or (bare and len(parts) == 1):
                    return True
            inner_bare = "fromClause" not in item if "limitOption" in item else bare
            stack += [(value, inner_bare) for value in item.values()]
    return False


def conditions_of(select: Node) -> list[Node]:
    """What every row of a query's FROM fulfils: its WHERE and the conditions of its inner joins."""
    found = [select["whereClause"]] if select.get("whereClause") else []
    stack = list(select.get("fromClause", ()))
    while stack:
        join = stack.pop().get("JoinExpr")
        if join and join["jointype"] == "JOIN_INNER":
            stack += [join["larg"], join["rarg"]]
            found += [join["quals"]] if join.get("quals") else []
    return found


def calls(node: Any, work: Work) -> bool:
    """True when a function, perhaps an aggregate, is called anywhere in `node`."""
    stack: list[Any] = [node]
    while stack:
        work.spend()
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            if "FuncCall" in item or "JsonArrayAgg" in item or "JsonObjectAgg" in item:
                return True
            stack.extend(item.values())
    return False


def constants_of(node: Node, work: Work) -> list[str]:
    """The texts of the constants in `node`; none where anything in it is no constant."""
    found: list[str] = []
    stack: list[Any] = [node]
    while stack:
        work.spend()
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
            continue
        for tag, body in item.items():
            if tag == "A_Const":
                found.append(str(body.get("sval", {}).get("sval", "")))
            elif tag in {"ParamRef", "ColumnRef", "SubLink", "SQLValueFunction"}:
                return []
            elif isinstance(body, (dict, list)):
                stack.append(body)
    return found
