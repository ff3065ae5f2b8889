"""Applies the laws of `bounds` to conditions in PostgreSQL's tree (the JSON form that libpg_query prints).

Recursive, because conditions are; the depth is what the JSON decoder let through, and RecursionError is the caller's to name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from dbshield.sqltext.bounds import (
    NEVER_NULL,
    NO_NAMES,
    NOTHING,
    TRUTH,
    Columns,
    Known,
    Scope,
    Work,
    arithmetic,
    matches_everything,
    target_scope,
    varies,
)
from dbshield.sqltext.postgres_nodes import Node, calls, conditions_of, constants_of, names, refers

Queries = Mapping[str, tuple[Node, ...]]

PATTERN_OPERATORS = frozenset({"~~", "~~*", "~", "~*", "!~~", "!~~*", "!~", "!~*"})
"""LIKE, ILIKE, the regular expressions, and their negations, which match nothing where these match everything."""

COMPARISONS = frozenset({"=", "<", ">", "<=", ">=", "<>"})

NULL_TESTED = frozenset({"ColumnRef", "FuncCall", "A_Expr", "TypeCast", "A_Indirection"})
"""What can be null because a column is; a CASE or a COALESCE need not be."""

PASSED_THROUGH = frozenset({"TypeCast", "CollateClause", "NamedArgExpr", "A_Indirection"})
"""Nodes whose value depends on what their argument depends on."""

LISTS = {
    "FuncCall": "args",
    "RowExpr": "args",
    "MinMaxExpr": "args",
    "XmlExpr": "args",
    "A_ArrayExpr": "elements",
    "List": "items",
}
"""Nodes whose value depends on every element of the list in this field."""


def _computes(body: Node) -> bool:
    """True for an operator whose value is not simply true or false."""
    return body["kind"] == "AEXPR_OP" and names(body["name"])[-1] not in COMPARISONS | PATTERN_OPERATORS


class PostgresConditions:
    """Conditions of one statement. `ctes` are the queries that a WITH anywhere in it gives a name, all of those with one name:
    which one is meant is not worked out. `literal` turns true when a constant was read."""

    def __init__(self, ctes: Queries, work: Work | None = None) -> None:
        self.ctes = ctes
        self.work = work or Work()
        self.literal = False
        self.known: Known = {}
        self._others: dict[str, PostgresConditions] = {}

    # -- conditions

    def constrains(self, node: Node | None, scope: Scope, *, negated: bool = False) -> bool:
        """True when the condition constrains the table of `scope`, whatever its constants are."""
        if not node:
            return False
        self.work.spend()
        ((tag, body),) = node.items()
        match tag:
            case "BoolExpr":
                return self._boolean(body, scope, negated)
            case "A_Expr":
                return self._comparison(body, scope, negated)
            case "ColumnRef" | "FuncCall" | "XmlExpr":
                return bool(self.columns(node, scope).target)
            case "JsonIsPredicate":
                return bool(self.columns(body["expr"], scope).target)
            case "NullTest":
                return self._null_test(body, scope)
            case "BooleanTest":
                return self._boolean_test(body, scope, negated)
            case "SubLink":
                return self._sublink(body, scope)
            case "CoalesceExpr":
                return self.constrains(body["args"][0], scope, negated=negated)
            case "CaseExpr":
                return self._case(body, scope, negated)
            case "TypeCast":
                return self.constrains(body["arg"], scope, negated=negated)
            case "CurrentOfExpr":
                return True
            case _:
                return False

    def _boolean(self, body: Node, scope: Scope, negated: bool) -> bool:
        operator = body["boolop"]
        if operator == "NOT_EXPR":
            return self.constrains(body["args"][0], scope, negated=not negated)
        parts = [self.constrains(part, scope, negated=negated) for part in body["args"]]
        return any(parts) if (operator == "AND_EXPR") is not negated else all(parts)

    def _comparison(self, body: Node, scope: Scope, negated: bool) -> bool:
        kind = body["kind"]
        operator = names(body["name"])[-1]
        left_node, right_node = body.get("lexpr"), body["rexpr"]
        if kind == "AEXPR_NULLIF":
            return False
        if kind == "AEXPR_DISTINCT":
            operator = "is distinct from"
        elif kind == "AEXPR_NOT_DISTINCT":
            operator = "is not distinct from"
        if not left_node:
            return bool(self.columns(right_node, scope).target)
        if operator in PATTERN_OPERATORS and self._blind_pattern(right_node):
            return False
        left = self.columns(left_node, scope)
        if kind == "AEXPR_IN" or "BETWEEN" in kind:
            every = operator == "=" if kind == "AEXPR_IN" else kind != "AEXPR_BETWEEN"
            return self._listed(left, right_node, scope, every=every is not negated, always="SYM" in kind)
        if kind in {"AEXPR_OP_ANY", "AEXPR_OP_ALL"}:
            return self._array(operator, left, right_node, scope, every=(kind == "AEXPR_OP_ANY") is not negated)
        return varies(left, self.columns(right_node, scope), operator)

    def _listed(self, left: Columns, right: Any, scope: Scope, *, every: bool, always: bool) -> bool:
        """IN and BETWEEN; either end of a symmetric BETWEEN may be the one that decides, so both must."""
        items = right["List"]["items"] if isinstance(right, dict) else right
        parts = [varies(left, self.columns(item, scope), "=") for item in items]
        return all(parts) if every or always else any(parts)

    def _array(self, operator: str, left: Columns, right: Node, scope: Scope, *, every: bool) -> bool:
        array = right
        while "TypeCast" in array:
            array = array["TypeCast"]["arg"]
        if "A_ArrayExpr" in array:
            parts = [varies(left, self.columns(item, scope), operator) for item in array["A_ArrayExpr"].get("elements", ())]
            return bool(parts) and (all(parts) if every else any(parts))
        if "SubLink" in array:
            return self._member(left, array["SubLink"]["subselect"], operator, scope)
        return varies(left, self.columns(right, scope), operator)

    def _blind_pattern(self, node: Node) -> bool:
        """True when the pattern is made of constants alone and matches everything. Reads literals."""
        self.literal = True
        pieces = constants_of(node, self.work)
        return bool(pieces) and all(matches_everything(piece) for piece in pieces)

    def _null_test(self, body: Node, scope: Scope) -> bool:
        argument = body["arg"]
        if not NULL_TESTED & argument.keys():
            return False
        return bool(self.columns(argument, scope).target - NEVER_NULL)

    def _boolean_test(self, body: Node, scope: Scope, negated: bool) -> bool:
        kind, argument = body["booltesttype"], body["arg"]
        if kind in {"IS_UNKNOWN", "IS_NOT_UNKNOWN"}:
            return "ColumnRef" in argument and bool(self.columns(argument, scope).target)
        return self.constrains(argument, scope, negated=negated is not (kind in {"IS_FALSE", "IS_NOT_TRUE"}))

    def _case(self, body: Node, scope: Scope, negated: bool) -> bool:
        results = [when["CaseWhen"]["result"] for when in body["args"]]
        if body.get("defresult"):
            results.append(body["defresult"])
        return all(self.constrains(result, scope, negated=negated) for result in results)

    # -- subqueries

    def _sublink(self, body: Node, scope: Scope) -> bool:
        kind, query = body["subLinkType"], body["subselect"]
        if kind == "EXISTS_SUBLINK":
            return self._exists(query["SelectStmt"], scope)
        if kind in {"ANY_SUBLINK", "ALL_SUBLINK"}:
            operator = names(body["operName"])[-1] if body.get("operName") else "="
            return self._member(self.columns(body["testexpr"], scope), query, operator, scope)
        return False

    def _exists(self, select: Node, scope: Scope) -> bool:
        """EXISTS constrains when its WHERE ties the table to what it reads, and it can find nothing."""
        self.learn(select)
        if select.get("op", "SETOP_NONE") != "SETOP_NONE":
            return self._exists(select["larg"], scope) and self._exists(select["rarg"], scope)
        grouped = select.get("groupClause")
        if grouped and any("GroupingSet" in item for item in grouped):
            return False
        if not grouped and any(calls(item, self.work) for item in select.get("targetList", ())):
            return False
        inner = self._inner(select, scope)
        return any(self.constrains(condition, inner) for condition in conditions_of(select))

    def _member(self, left: Columns, query: Node, operator: str, scope: Scope) -> bool:
        """`left operator ANY (query)` constrains unless the query surely gives back the table's own value."""
        if not left.target:
            return False
        select = query["SelectStmt"]
        given = self._outer_columns(select, scope)
        return varies(left, given, operator) and self.narrows(select, scope)

    def _scalar(self, select: Node, scope: Scope) -> Columns:
        """A subquery as a value: it may find the very row outside when it looks for it in the same table."""
        found = self._outer_columns(select, scope)
        again = refers(select.get("whereClause"), scope.names, self.work) and not self.narrows(select, scope)
        return found._replace(given=True) if again else found

    def _outer_columns(self, select: Node, scope: Scope) -> Columns:
        """What the result of a subquery depends on of the row outside."""
        key = ("outer", id(select), scope)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = self._given_back(select, scope)
        return cast("Columns", found)

    def _given_back(self, select: Node, scope: Scope) -> Columns:
        if select.get("op", "SETOP_NONE") != "SETOP_NONE":
            return self._outer_columns(select["larg"], scope) | self._outer_columns(select["rarg"], scope)
        inner = self._inner(select, scope)._replace(twins=NO_NAMES)
        found = NOTHING
        for item in select.get("targetList", ()):
            found |= self.columns(item["ResTarget"]["val"], inner)
        for row in select.get("valuesLists", ()):
            for item in row["List"]["items"]:
                found |= self.columns(item, inner)
        return found

    def narrows(self, select: Node, scope: Scope) -> bool:
        """True unless the query gives back rows of the scope's own table that nothing narrowed."""
        self.learn(select)
        key = ("narrows", id(select), scope)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = self._narrows(select, scope)
        return cast("bool", found)

    def _narrows(self, select: Node, scope: Scope) -> bool:
        if select.get("op", "SETOP_NONE") != "SETOP_NONE":
            return self.narrows(select["larg"], scope) and self.narrows(select["rarg"], scope)
        limit = select.get("limitCount")
        if limit is not None and not refers(select, scope.names, self.work):
            self.literal = True
            if not limit.get("A_Const", {}).get("isnull"):
                return True
        return all(self._item_narrows(item, select, scope) for item in select.get("fromClause", ()))

    def learn(self, statement: Node) -> None:
        """Take in the queries that the WITH of `statement` names."""
        if "withClause" in statement:
            for item in statement["withClause"]["ctes"]:
                name, query = item["CommonTableExpr"]["ctename"], item["CommonTableExpr"]["ctequery"]
                others = self.ctes.get(name, ())
                if not any(query is other for other in others):
                    self.ctes = {**self.ctes, name: (*others, query)}
                    self.known.clear()  # Answers may have been about a table with this name.
                    self._others.clear()

    def _item_narrows(self, item: Node, select: Node, scope: Scope) -> bool:
        ((tag, body),) = item.items()
        if tag == "JoinExpr":
            return self._item_narrows(body["larg"], select, scope) and self._item_narrows(body["rarg"], select, scope)
        if tag == "RangeTableSample":
            return self._item_narrows(body["relation"], select, scope)
        if not self.reads_again(item, scope):
            return True
        alias = body.get("alias", {}).get("aliasname", "")
        own = target_scope(scope.schema, scope.table, alias or scope.table)
        alone = len(select.get("fromClause", ())) == 1 and tag in {"RangeVar", "RangeSubselect"} and "JoinExpr" not in item
        own = own._replace(alone=alone and item is select["fromClause"][0], twins=scope.names | scope.twins)
        return any(self.constrains(condition, own) for condition in conditions_of(select))

    def reads_again(self, item: Node, scope: Scope) -> bool:
        """True when a FROM item gives rows of the scope's own table that nothing narrowed."""
        ((tag, body),) = item.items()
        if tag == "RangeVar":
            schema, table = body.get("schemaname", ""), body["relname"]
            if not schema and table in self.ctes:
                selects = [query["SelectStmt"] for query in self.ctes[table] if "SelectStmt" in query]
                inner = self._without(table)
                return scope.same_table("", table) or not all(inner.narrows(select, scope) for select in selects)
            return scope.same_table(schema, table)
        if tag == "RangeSubselect":
            return "SelectStmt" in body["subquery"] and not self.narrows(body["subquery"]["SelectStmt"], scope)
        if tag == "JoinExpr":
            return self.reads_again(body["larg"], scope) or self.reads_again(body["rarg"], scope)
        return False

    def _without(self, name: str) -> PostgresConditions:
        """The same, for the body of a WITH query, which must not be followed into itself."""
        self.literal = True
        if name not in self._others:
            others = {key: queries for key, queries in self.ctes.items() if key != name}
            self._others[name] = PostgresConditions(others, self.work)
        return self._others[name]

    def _inner(self, select: Node, scope: Scope) -> Scope:
        self.learn(select)
        return self.beside(select.get("fromClause", ()), scope, subquery=True)

    def beside(self, items: Any, scope: Scope, *, subquery: bool = False) -> Scope:
        """`scope` with the relations of FROM, USING or a subquery's FROM beside the table."""
        found: set[str] = set()
        twins: set[str] = set()
        given: set[str] = set()
        stack = list(items)
        while stack:
            item = stack.pop()
            ((tag, body),) = item.items()
            alias = body.get("alias", {}).get("aliasname", "")
            if tag == "JoinExpr":
                stack += [body["larg"], body["rarg"]]
                if alias:
                    found.add(alias)
                continue
            if tag == "RangeTableSample":
                stack.append(body["relation"])
                continue
            own = {alias} if alias else {body["relname"]} if tag == "RangeVar" else {"?"}
            found |= own
            if self.reads_again(item, scope):
                twins |= own
            if self._handed_down(item, scope):
                given |= own
        if not subquery and found:
            return scope._replace(twins=scope.twins | (frozenset(twins) - scope.names), alone=False)
        return scope.inner(frozenset(found), frozenset(twins), frozenset(given))

    def _handed_down(self, item: Node, scope: Scope) -> bool:
        """True when a FROM item is made from the row outside: a subquery, a function or a WITH query that refers to it."""
        if "RangeVar" in item:
            name = item["RangeVar"]["relname"]
            if "schemaname" in item["RangeVar"] or name not in self.ctes:
                return False
            return refers(list(self.ctes[name]), scope.names, self.work)
        return refers(item, scope.names, self.work)

    # -- values

    def columns(self, node: Any, scope: Scope) -> Columns:
        """The columns whose value really changes the value of `node`."""
        if isinstance(node, list):
            found = NOTHING
            for item in node:
                found |= self.columns(item, scope)
            return found
        if not node:
            return NOTHING
        self.work.spend()
        ((tag, body),) = node.items()
        if tag in PASSED_THROUGH:
            return self.columns(body["arg"], scope)
        if tag in LISTS:
            return self.columns(body.get(LISTS[tag]), scope)
        match tag:
            case "ColumnRef":
                parts = names(body["fields"])
                return NOTHING if parts[-1] == "*" else scope.column(parts)
            case "A_Expr" if body["kind"] == "AEXPR_NULLIF" or _computes(body):
                return arithmetic(self.columns(body.get("lexpr"), scope), self.columns(body["rexpr"], scope))
            case "A_Expr" | "BoolExpr" | "NullTest" | "BooleanTest":
                return self._as_truth(node, scope)
            case "CoalesceExpr":
                return self.columns(body["args"][0], scope) | self.columns(body["args"][1:], scope).uncertain()
            case "CaseExpr":
                results = [when["CaseWhen"]["result"] for when in body["args"]]
                decided = self.columns([when["CaseWhen"]["expr"] for when in body["args"]], scope)
                return self.columns([*results, body.get("defresult")], scope) | decided.uncertain()
            case "SubLink":
                if body["subLinkType"] in {"EXPR_SUBLINK", "ARRAY_SUBLINK"} and "SelectStmt" in body["subselect"]:
                    return self._scalar(body["subselect"]["SelectStmt"], scope)
                return self._as_truth(node, scope)
            case "A_Const" | "ParamRef" | "SQLValueFunction" | "TypeName":
                return NOTHING
            case _:
                return self._inside(body, scope).uncertain()

    def _inside(self, body: Any, scope: Scope) -> Columns:
        """What stands anywhere inside a node that nothing better is known of."""
        found = NOTHING
        for value in body.values():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, dict) and item:
                    tagged = len(item) == 1 and next(iter(item))[0].isupper()
                    found |= self.columns(item, scope) if tagged else self._inside(item, scope)
        return found

    def _as_truth(self, node: Node, scope: Scope) -> Columns:
        """A condition used as a value: it varies with the row when it constrains, by a column without a name."""
        key = ("truth", id(node), scope)
        found = self.known.get(key)
        if found is None:
            ((_, body),) = node.items()
            inside = NOTHING if "subselect" in body else self._inside(body, scope).uncertain()
            found = inside | Columns(frozenset({TRUTH}) if self.constrains(node, scope) else NO_NAMES)
            self.known[key] = found
        return cast("Columns", found)
