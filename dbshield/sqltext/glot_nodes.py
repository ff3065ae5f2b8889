"""Small questions about sqlglot's tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlglot import exp

from dbshield.sqltext.bounds import Work

Queries = Mapping[str, tuple[exp.Expr, ...]]
"""Every query that a WITH anywhere in a statement names, all of those with one name together."""


def select_of(node: exp.Expr | None) -> exp.Expr | None:
    """The query inside parentheses and arrays; None where there is none."""
    while isinstance(node, (exp.Subquery, exp.Paren)):
        node = node.this
    if isinstance(node, exp.Array) and len(node.expressions) == 1:
        return select_of(node.expressions[0]) if isinstance(node.expressions[0], (exp.Query, exp.Paren)) else None
    return node if isinstance(node, (exp.Query, exp.Values)) else None


def operands(node: exp.Expr) -> list[exp.Expr]:
    """What a chain of one AND or OR connects: a thousand of them are a tree that is a thousand levels deep."""
    found: list[exp.Expr] = []
    stack = [node]
    while stack:
        item = stack.pop()
        if type(item) is type(node):
            stack += [item.args["expression"], item.this]
        else:
            found.append(item)
    return found


def refers(node: exp.Expr | None, qualifiers: frozenset[str], work: Work) -> bool:
    """True when anything in `node` names a column by one of `qualifiers`, or by none where there is no FROM of its own."""
    for column in node.walk() if node else ():
        work.spend()
        if not isinstance(column, exp.Column):
            continue
        parts = tuple(part.name for part in column.parts)
        select = column.find_ancestor(exp.Query)
        own = len(parts) == 1 and isinstance(select, exp.Select) and not select.args.get("from_")
        if ".".join(parts[:-1]) in qualifiers or own:
            return True
    return False


def conditions_of(select: exp.Expr) -> list[exp.Expr]:
    """What every row of a query's FROM fulfils: its WHERE and the conditions of its inner joins."""
    where = select.args.get("where")
    found = [where.this] if where else []
    clause = select.args.get("from_")
    joins = list(select.args.get("joins") or ())
    joins += (clause.this.args.get("joins") or ()) if clause else ()
    inner = not any(join.side for join in joins)
    return found + [join.args["on"] for join in joins if inner and join.args.get("on")]


def from_items(select: exp.Expr) -> Iterator[exp.Expr]:
    """The relations of FROM and its joins, those that sqlglot hangs on a table included."""
    clause = select.args.get("from_")
    stack = [clause.this] if clause else []
    stack += [join.this for join in select.args.get("joins") or ()]
    stack += select.args.get("laterals") or []
    yield from spread(stack)


def spread(items: list[exp.Expr]) -> Iterator[exp.Expr]:
    """`items` and the joins that hang on them; a join in parentheses is its parts."""
    stack = list(items)
    while stack:
        item = stack.pop()
        stack += [join.this for join in item.args.get("joins") or ()]
        inner = item.this if isinstance(item, (exp.Subquery, exp.Paren)) else None
        if isinstance(inner, exp.Table):
            stack.append(inner)
        else:
            yield item


def bare(node: exp.Expr) -> exp.Expr:
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def members_of(node: exp.Expr | None) -> tuple[exp.Expr | None, bool]:
    """What ANY or ALL ranges over, and whether it was ANY; None for any other value."""
    if isinstance(node, exp.Any):
        return bare(node.this), True
    if isinstance(node, exp.All):
        return bare(node.this), False
    if isinstance(node, exp.Anonymous) and str(node.this).upper() == "ALL" and node.expressions:
        return bare(node.expressions[0]), False
    return None, False
