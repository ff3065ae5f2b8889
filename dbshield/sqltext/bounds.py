"""Does a condition constrain the rows that a statement may touch? The laws that both readers apply to their own tree.

Constants are not read: any constant can be anything, and the row limit decides what a condition really matches. So a condition
constrains a table when it compares a column of that table with something that is not the same column.

- AND constrains if one side does, OR if every side does; NOT turns the two around and leaves a comparison as it is.
- A whole row, or a system column other than ctid, is not a column.
- Where other relations stand beside the table, a column without a qualifier may be theirs, so it does not count.
- A second reading of the same table (a self-join, a subquery) equals the first one on the same column, so equality between
  the two constrains nothing; neither does what a subquery only hands down from the row outside.

The one exception to the first sentence are patterns: LIKE '%' is common and matches everything, so a pattern is read, and the
verdict then holds for the exact text alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dbshield.sqltext.statement import Trouble, Unreadable

NO_NAMES: frozenset[str] = frozenset()

SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "xmax", "cmin", "cmax"})
"""Columns that are the same, or never null, on every row (PostgreSQL manual, 5.6 System Columns)."""

TRUTH = "?"
"""Stands for the column that a condition used as a value depends on."""

NEVER_NULL = frozenset({"ctid", TRUTH})
"""What IS NOT NULL says nothing about."""

SELF_EQUAL = frozenset({"=", "<=", ">=", "is not distinct from", "~~", "~~*", "~", "@>", "<@", "&&", "~="})
"""Operators that hold between a value and itself."""

BLIND_PATTERNS = frozenset({".*", "^", "$", ".", ".+", "^.*", ".*$", "^.*$", "(.*)", "^.+$"})
"""Regular expressions that match everything, or everything that is not empty."""


MAX_STEPS = 250_000
"""How many nodes the conditions of one statement may be looked at, all looks together: about half a second. A list of 100,000
constants takes as many; the deepest honest statement of the tests a few thousand."""


class Work:
    """What reading the conditions of one statement has cost so far.

    A condition is looked at as a condition and as a value, and a subquery for what it gives back and for what it narrows: nested
    n times that would be 2**n looks. So the readers keep their answers, and this counts how often they look all the same.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_STEPS

    def spend(self, steps: int = 1) -> None:
        """Count some looks. Raises Unreadable when there were too many."""
        self.left -= steps
        if self.left < 0:
            raise Unreadable(Trouble.TOO_DEEP, f"conditions that take more than {MAX_STEPS} steps to read")


Known = dict[tuple[str, int, "Scope"], Any]
"""Answers by question, node and scope. A node is known by its identity, so only nodes of the statement's own tree may be asked
about: they live as long as the answers do."""


class Columns(NamedTuple):
    """The columns that a value depends on.

    `target` are columns of the table that surely change the value, `touched` all that may (a value on the other side that may
    be the column itself makes a comparison say nothing), `twin` columns of a second reading of the same table. `given` is true
    when the value may have been handed down from the very row that it is compared with.
    """

    target: frozenset[str] = NO_NAMES
    twin: frozenset[str] = NO_NAMES
    touched: frozenset[str] = NO_NAMES
    given: bool = False

    def __or__(self, other: Columns) -> Columns:
        return Columns(
            self.target | other.target, self.twin | other.twin, self.touched | other.touched, self.given or other.given
        )

    def uncertain(self) -> Columns:
        """The same, where none of the columns need change the value."""
        return self._replace(target=NO_NAMES, touched=self.touched | self.target)


NOTHING = Columns()


def varies(left: Columns, right: Columns, operator: str) -> bool:
    """True when comparing the two values can differ from row to row."""
    if not (left.target or right.target) or left.given or right.given:
        return False
    if (left.target | left.touched) & (right.target | right.touched):
        return False
    if operator in SELF_EQUAL:
        return not (left.target & right.twin or right.target & left.twin)
    return True


def arithmetic(left: Columns, right: Columns) -> Columns:
    """What the value of `left operator right` depends on; `id - id` depends on nothing."""
    both = left | right
    return both.uncertain() if (left.target | left.touched) & (right.target | right.touched) else both


def matches_everything(pattern: str) -> bool:
    """True for a pattern of LIKE, SIMILAR TO or a regular expression that no value fails."""
    return not pattern.strip("%") or pattern in BLIND_PATTERNS


class Scope(NamedTuple):
    """How names resolve inside one condition.

    `names` are the qualifiers that mean the table (`o`, or `orders` and `shop.orders`), `twins` those of a second reading of
    it, `given` those of relations that were made from the table's own row. `alone` is true when a column without a qualifier
    can only be the table's. `schema` and `table` are the table's name.
    """

    schema: str
    table: str
    names: frozenset[str]
    twins: frozenset[str] = NO_NAMES
    alone: bool = True
    given: frozenset[str] = NO_NAMES

    def same_table(self, schema: str, table: str) -> bool:
        """True when the name may mean the same table; a missing schema may be any."""
        return table == self.table and (not schema or not self.schema or schema == self.schema)

    def column(self, parts: tuple[str, ...]) -> Columns:
        """What the column reference `parts` (qualifiers first) depends on."""
        name = parts[-1]
        if name in SYSTEM_COLUMNS:
            return NOTHING
        if len(parts) == 1:
            if self.alone and name not in self.names:
                return Columns(frozenset({name}))
            return Columns(given=bool(self.given))
        qualifier = ".".join(parts[:-1])
        if qualifier in self.given:
            return Columns(given=True)
        if qualifier in self.names:
            return Columns(frozenset({name}))
        if qualifier in self.twins:
            return Columns(twin=frozenset({name}))
        return NOTHING

    def inner(self, names: frozenset[str], twins: frozenset[str], given: frozenset[str] = NO_NAMES) -> Scope:
        """The scope inside a subquery whose FROM gives `names`; `twins` of them read the table a second time, `given` are made
        from the row outside."""
        if not names:
            return self
        return self._replace(
            names=self.names - names, twins=(self.twins - names) | twins, given=(self.given - names) | given, alone=False
        )


def target_scope(schema: str, table: str, alias: str) -> Scope:
    """The scope of a statement that writes one table, before its other relations are known."""
    own = {alias} if alias else {table, f"{schema}.{table}"} if schema else {table}
    return Scope(schema, table, frozenset(own))
