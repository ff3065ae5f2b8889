"""Applies the laws of `bounds` to conditions in sqlglot's tree.

It reads another tree by its own hand and shares only the laws, so that a mistake in reading one tree shows as a disagreement.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from sqlglot import exp

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
from dbshield.sqltext.glot_nodes import Queries, bare, conditions_of, from_items, members_of, operands, refers, select_of

COMPARISONS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.NullSafeEQ: "is not distinct from",
    exp.NullSafeNEQ: "is distinct from",
    exp.ArrayContainsAll: "@>",
    exp.ArrayContainedBy: "<@",
    exp.ArrayOverlaps: "&&",
}
"""Comparisons that PostgreSQL's grammar spells as an operator; the name decides what holds between a value and itself."""

PATTERNS = (exp.Like, exp.ILike, exp.SimilarTo, exp.RegexpLike, exp.RegexpILike)
TRUTHS = (*tuple(COMPARISONS)[:8], *PATTERNS, exp.And, exp.Or, exp.Not, exp.Is, exp.In, exp.Between, exp.Exists)
"""What is true or false where it stands as a value."""

AGGREGATING = (exp.Func, exp.Anonymous)


class GlotConditions:
    """Conditions of one statement; `ctes` are the queries that WITH names."""

    def __init__(self, ctes: Queries, work: Work | None = None) -> None:
        self.ctes = ctes
        self.work = work or Work()
        self.known: Known = {}
        self._others: dict[str, GlotConditions] = {}

    # -- conditions

    def constrains(self, node: exp.Expr | None, scope: Scope, *, negated: bool = False) -> bool:
        """True when the condition constrains the table of `scope`, whatever its constants are."""
        self.work.spend()
        match node:
            case None:
                return False
            case exp.Paren() | exp.Cast() | exp.Escape():
                return self.constrains(node.this, scope, negated=negated)
            case exp.And() | exp.Or():
                parts = [self.constrains(part, scope, negated=negated) for part in operands(node)]
                return any(parts) if isinstance(node, exp.And) is not negated else all(parts)
            case exp.Not():
                return self.constrains(node.this, scope, negated=not negated)
            case exp.Is():
                return self._is(node, scope, negated)
            case exp.Exists():
                return self._exists(node.this, scope)
            case exp.Coalesce():
                return self.constrains(node.this, scope, negated=negated)
            case exp.Case():
                results = [branch.args["true"] for branch in node.args["ifs"]]
                results += [node.args["default"]] if node.args.get("default") else []
                return all(self.constrains(result, scope, negated=negated) for result in results)
            case exp.In() | exp.Between():
                return self._listed(node, scope, negated)
            case exp.Nullif() | exp.Subquery() | exp.Query():
                return False
            case _:
                return self._leaf(node, scope, negated)

    def _leaf(self, node: exp.Expr, scope: Scope, negated: bool) -> bool:
        if isinstance(node, PATTERNS):
            if self._blind_pattern(node.expression):
                return False
            return varies(self.columns(node.this, scope), self.columns(node.expression, scope), "~~")
        if isinstance(node, exp.Operator) or (isinstance(node, exp.Binary) and not isinstance(node, exp.Dot)):
            return self._comparison(node, scope, negated)
        if isinstance(node, (exp.Column, exp.Func, exp.Unary, exp.Dot, exp.Bracket)):
            return bool(self.columns(node, scope).target)
        return False

    def _comparison(self, node: exp.Expr, scope: Scope, negated: bool) -> bool:
        operator = COMPARISONS.get(type(node), "")
        if isinstance(node, exp.Operator):
            operator = str(node.args["operator"]).rpartition(".")[2]
        left, right = self.columns(node.this, scope), node.args.get("expression")
        members, some = members_of(right)
        if members is not None:
            every = some is not negated
            select = select_of(members)
            if select is not None:
                return self._member(left, select, operator, scope)
            if isinstance(members, exp.Array):
                parts = [varies(left, self.columns(item, scope), operator) for item in members.expressions]
                return bool(parts) and (all(parts) if every else any(parts))
            right = members
        return varies(left, self.columns(right, scope), operator)

    def _listed(self, node: exp.Expr, scope: Scope, negated: bool) -> bool:
        left = self.columns(node.this, scope)
        if isinstance(node, exp.Between):
            parts = [varies(left, self.columns(node.args[end], scope), "=") for end in ("low", "high")]
            return all(parts) if negated or node.args.get("symmetric") else any(parts)
        query = node.args.get("query")
        if query is not None:
            select = select_of(query)
            return select is not None and self._member(left, select, "=", scope)
        parts = [varies(left, self.columns(item, scope), "=") for item in node.expressions]
        return any(parts) if negated else all(parts)

    def _is(self, node: exp.Is, scope: Scope, negated: bool) -> bool:
        argument = bare(node.this)
        if isinstance(node.expression, exp.Boolean):
            return self.constrains(argument, scope, negated=negated is not (not node.expression.this))
        if isinstance(argument, (exp.Coalesce, exp.Case, exp.Subquery)):
            return False
        return bool(self.columns(argument, scope).target - NEVER_NULL)

    def _blind_pattern(self, node: exp.Expr) -> bool:
        if any(node.find_all(exp.Parameter, exp.Placeholder, exp.Column, exp.Subquery)):
            return False
        literals = list(node.find_all(exp.Literal))
        return bool(literals) and all(matches_everything(str(literal.this)) for literal in literals)

    # -- subqueries

    def _exists(self, query: exp.Expr, scope: Scope) -> bool:
        select = select_of(query)
        if isinstance(select, exp.SetOperation):
            return self._exists(select.this, scope) and self._exists(select.expression, scope)
        if not isinstance(select, exp.Select):
            return False
        group = select.args.get("group")
        if group and any(True for _ in group.find_all(exp.GroupingSets, exp.Cube, exp.Rollup)):
            return False
        if group and any(isinstance(item, exp.Tuple) and not item.expressions for item in group.expressions):
            return False
        if not group and any(item.find(*AGGREGATING) for item in select.expressions):
            return False
        inner = self._inner(select, scope)
        return any(self.constrains(condition, inner) for condition in conditions_of(select))

    def _member(self, left: Columns, select: exp.Expr, operator: str, scope: Scope) -> bool:
        if not left.target:
            return False
        return varies(left, self._outer_columns(select, scope), operator) and self.narrows(select, scope)

    def _outer_columns(self, select: exp.Expr | None, scope: Scope) -> Columns:
        key = ("outer", id(select), scope)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = self._given_back(select, scope)
        return cast("Columns", found)

    def _given_back(self, select: exp.Expr | None, scope: Scope) -> Columns:
        if isinstance(select, exp.SetOperation):
            both = (select_of(select.this), select_of(select.expression))
            return self._outer_columns(both[0], scope) | self._outer_columns(both[1], scope)
        found = NOTHING
        if isinstance(select, exp.Select):
            inner = self._inner(select, scope)._replace(twins=NO_NAMES)
            for item in select.expressions:
                found |= self.columns(item, inner)
        elif isinstance(select, exp.Values):
            for item in select.expressions:
                found |= self.columns(item, scope)
        return found

    def narrows(self, select: exp.Expr | None, scope: Scope) -> bool:
        """True unless the query gives back rows of the scope's own table that nothing narrowed."""
        key = ("narrows", id(select), scope)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = self._narrows(select, scope)
        return cast("bool", found)

    def _narrows(self, select: exp.Expr | None, scope: Scope) -> bool:
        if isinstance(select, exp.SetOperation):
            return self.narrows(select_of(select.this), scope) and self.narrows(select_of(select.expression), scope)
        if not isinstance(select, exp.Select):
            return True
        limit = select.args.get("limit")
        if (
            limit is not None
            and not isinstance(limit.args.get("expression"), exp.Null)
            and not refers(select, scope.names, self.work)
        ):
            return True
        items = list(from_items(select))
        for item in items:
            if self.reads_again(item, scope):
                own = target_scope(scope.schema, scope.table, item.alias or scope.table)
                alone = len(items) == 1 and isinstance(item, (exp.Table, exp.Subquery))
                own = own._replace(alone=alone, twins=scope.names | scope.twins)
                if not any(self.constrains(condition, own) for condition in conditions_of(select)):
                    return False
        return True

    def reads_again(self, item: exp.Expr, scope: Scope) -> bool:
        """True when a FROM item gives rows of the scope's own table that nothing narrowed."""
        if isinstance(item, exp.Table) and isinstance(item.this, exp.Identifier):
            if not item.db and item.name in self.ctes:
                selects = [select for select in map(select_of, self.ctes[item.name]) if select is not None]
                inner = self._without(item.name)
                return scope.same_table("", item.name) or not all(inner.narrows(select, scope) for select in selects)
            return scope.same_table(item.db, item.name)
        if isinstance(item, exp.Subquery):
            select = select_of(item)
            return select is not None and not self.narrows(select, scope)
        return False

    def _without(self, name: str) -> GlotConditions:
        """The same, for the body of a WITH query, which must not be followed into itself."""
        if name not in self._others:
            others = {key: queries for key, queries in self.ctes.items() if key != name}
            self._others[name] = GlotConditions(others, self.work)
        return self._others[name]

    def _inner(self, select: exp.Expr, scope: Scope) -> Scope:
        return self.beside(from_items(select), scope, subquery=True)

    def beside(self, items: Iterator[exp.Expr], scope: Scope, *, subquery: bool = False) -> Scope:
        """`scope` with the relations of FROM, USING or a subquery's FROM beside the table."""
        found: set[str] = set()
        twins: set[str] = set()
        given: set[str] = set()
        for item in items:
            own = item.alias or (item.name if isinstance(item, exp.Table) else "") or "?"
            found.add(own)
            if self.reads_again(item, scope):
                twins.add(own)
            if self._handed_down(item, scope):
                given.add(own)
        if not subquery and found:
            return scope._replace(twins=scope.twins | (frozenset(twins) - scope.names), alone=False)
        return scope.inner(frozenset(found), frozenset(twins), frozenset(given))

    def _handed_down(self, item: exp.Expr, scope: Scope) -> bool:
        """True when a FROM item is made from the row outside: a subquery, a function or a WITH query that refers to it."""
        if isinstance(item, exp.Table) and isinstance(item.this, exp.Identifier):
            queries = () if item.db else self.ctes.get(item.name, ())
            return any(refers(query, scope.names, self.work) for query in queries)
        return refers(item, scope.names, self.work)

    def _scalar(self, select: exp.Expr | None, scope: Scope) -> Columns:
        """A subquery as a value: it may find the very row outside when it looks for it in the same table."""
        found = self._outer_columns(select, scope)
        where = select.args.get("where") if select else None
        again = refers(where, scope.names, self.work) and not self.narrows(select, scope)
        return found._replace(given=True) if again else found

    # -- values

    def columns(self, node: exp.Expr | None, scope: Scope) -> Columns:
        """The columns whose value really changes the value of `node`."""
        self.work.spend()
        match node:
            case None | exp.Literal() | exp.Parameter() | exp.Null() | exp.Boolean() | exp.Identifier() | exp.DataType():
                return NOTHING
            case exp.Column():
                parts = tuple(part.name for part in node.parts)
                return NOTHING if isinstance(node.this, exp.Star) else scope.column(parts)
            case exp.Nullif():
                return arithmetic(self.columns(node.this, scope), self.columns(node.expression, scope))
            case exp.Coalesce():
                return self.columns(node.this, scope) | self._union(list(node.expressions), scope).uncertain()
            case exp.Cast() | exp.Collate() | exp.Bracket() | exp.Kwarg() | exp.Dot() | exp.Escape():
                return self.columns(node.this if not isinstance(node, exp.Kwarg) else node.expression, scope)
            case exp.Case():
                results = [branch.args["true"] for branch in node.args["ifs"]]
                decided = self._union([branch.this for branch in node.args["ifs"]], scope)
                return self._union([*results, node.args.get("default")], scope) | decided.uncertain()
            case exp.Subquery() | exp.Query():
                return self._scalar(select_of(node), scope)
            case exp.Operator():
                operator = str(node.args["operator"]).rpartition(".")[2]
                if operator in COMPARISONS.values():
                    return self._as_truth(node, scope)
                return arithmetic(self.columns(node.this, scope), self.columns(node.args["expression"], scope))
            case _ if isinstance(node, TRUTHS):
                return self._as_truth(node, scope)
            case exp.Binary():
                return arithmetic(self.columns(node.left, scope), self.columns(node.right, scope))
            case _:
                return self._union(list(node.iter_expressions()), scope)

    def _union(self, nodes: list[exp.Expr | None], scope: Scope) -> Columns:
        found = NOTHING
        for node in nodes:
            found |= self.columns(node, scope)
        return found

    def _as_truth(self, node: exp.Expr, scope: Scope) -> Columns:
        key = ("truth", id(node), scope)
        found = self.known.get(key)
        if found is None:
            inside = NOTHING if node.find(exp.Query) else self._union(list(node.iter_expressions()), scope).uncertain()
            found = inside | Columns(frozenset({TRUTH}) if self.constrains(node, scope) else NO_NAMES)
            self.known[key] = found
        return cast("Columns", found)
