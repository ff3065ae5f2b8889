"""A DELETE or UPDATE turned into the query that counts the rows it would hit. Pure: no I/O, no clock.

sqlglot reads the canonical text that PostgreSQL's grammar prints, and each clause is printed as it was read. A count is a help to
decide, never a permission: what the statement really changes is compared with it before the commit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlglot import exp

from dbshield.sqltext import glot, native
from dbshield.sqltext.statement import Unreadable

COUNTED_MOST = 16 << 10
"""Characters; a longer text would keep everybody else's preview waiting for seconds."""
WRITES = (exp.Insert, exp.Update, exp.Delete, exp.Merge)
_PARAMETER = re.compile(r"\$(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """The query, the table that it counts rows of, and the numbers of the parameters that it uses."""

    query: str
    table: str
    parameters: frozenset[int]


def counting(statement: str) -> Count | None:
    """The query for a statement; None where it is no single DELETE or UPDATE that can be read this way."""
    try:
        canonical = native.deparse(native.parse_protobuf(statement.encode())).decode()
        # The second reader's own way in, which stops texts that sqlglot would read for hours.
        trees = glot._parse(canonical) if len(canonical) <= COUNTED_MOST else []
    except (*glot.FAILURES, native.GrammarError, Unreadable, RecursionError):
        return None
    if len(trees) != 1 or not isinstance(trees[0], (exp.Delete, exp.Update)) or not isinstance(trees[0].this, exp.Table):
        return None
    tree = trees[0]
    if sum(isinstance(node, WRITES) for node in tree.walk()) > 1 or "WHERE CURRENT OF" in canonical:
        return None
    target = tree.this
    name = exp.to_identifier(target.alias_or_name, quoted=True).sql(dialect="postgres")
    others = list(tree.args.get("using") or [])
    source = tree.args.get("from_") or tree.args.get("from")
    if isinstance(source, exp.From):
        others.append(source.this)
    tables = ", ".join(each.sql(dialect="postgres") for each in (target, *others))
    before = tree.args.get("with_") or tree.args.get("with")
    where = tree.args.get("where")
    query = " ".join(
        part
        for part in (
            before.sql(dialect="postgres") if before is not None else "",
            f"select count(*) from (select distinct {name}.tableoid, {name}.ctid from {tables}",  # noqa: S608  (run read-only)
            where.sql(dialect="postgres") if where is not None else "",
            ") as rows",
        )
        if part
    )
    bare = target.copy()
    for part in ("alias", "only", "joins"):
        bare.set(part, None)
    used = _PARAMETER.findall(query)
    return Count(query=query, table=bare.sql(dialect="postgres"), parameters=frozenset(map(int, used)))
