"""Which functions there are, and what the catalogue says of them (PostgreSQL manual, 36.7 Function Volatility Categories).

PostgreSQL's own functions come from a file that ships with dbshield, everybody else's from the protected server's pg_proc. A name
without a schema may resolve to any schema, and between overloads the argument types decide, so it is judged by the hardest of
all functions with that name; only an overload with the very arguments of a built-in one is left out, because pg_catalog comes
first in the search path and agents cannot change that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from functools import cache
from importlib.resources import files

from dbshield.model import Effect, Flag, ObjectKind, ObjectName, Operation
from dbshield.policy.firing import BUILT_OF_IT, FIRING, FIRING_QUERY
from dbshield.policy.made import RELATIONS
from dbshield.policy.reaching import REACHING_QUERY, ROWS, Reach, reach
from dbshield.policy.settings import TAKEN_QUERY
from dbshield.sqltext.bodies import READ

FUNCTIONS_QUERY = """\
select p.oid::pg_catalog.text, n.nspname::pg_catalog.text, p.proname::pg_catalog.text, p.provolatile::pg_catalog.text,
    p.prosecdef::pg_catalog.text, l.lanname::pg_catalog.text, pg_catalog.pg_get_userbyid(p.proowner)::pg_catalog.text,
    (exists (select 1 from pg_catalog.pg_proc b where b.proname operator(pg_catalog.=) p.proname
        and b.proargtypes operator(pg_catalog.=) p.proargtypes
        and b.pronamespace operator(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace))::pg_catalog.text,
    (p.pronargs operator(pg_catalog.>=) 1 and p.pronargs operator(pg_catalog.-) p.pronargdefaults operator(pg_catalog.<=) 1
        and exists (select 1 from pg_catalog.pg_type t where t.oid operator(pg_catalog.=) p.proargtypes[0]
            and t.typtype operator(pg_catalog.=) any ('{c,p}'::pg_catalog."char"[])))::pg_catalog.text,
    hidden.names
from pg_catalog.pg_proc p
join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) p.pronamespace
join pg_catalog.pg_language l on l.oid operator(pg_catalog.=) p.prolang
left join (
    select each.code, pg_catalog.string_agg(each.name, E'\\n' order by each.name using operator(pg_catalog.<)) as names
    from (
        select o.oprcode::pg_catalog.oid as code, o.oprname::pg_catalog.text as name from pg_catalog.pg_operator o
        union
        select c.castfunc, t.typname::pg_catalog.text operator(pg_catalog.||) '::'
        from pg_catalog.pg_cast c
        join pg_catalog.pg_type t on t.oid operator(pg_catalog.=) any (array[c.castsource, c.casttarget])
        union
        select checked.code, t.typname::pg_catalog.text operator(pg_catalog.||) '::'
        from (
            with recursive built as (
                select d.refobjid as code, k.contypid as objid,
                    'pg_catalog.pg_type'::pg_catalog.regclass::pg_catalog.oid as classid
                from pg_catalog.pg_constraint k
                join pg_catalog.pg_depend d on d.objid operator(pg_catalog.=) k.oid
                    and d.classid operator(pg_catalog.=) 'pg_catalog.pg_constraint'::pg_catalog.regclass
                    and d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                where k.contypid operator(pg_catalog.<>) 0
                union
                select built.code, more.objid, more.classid from built <built of it>
            )
            select built.code, built.objid from built
            where built.classid operator(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass
        ) checked
        join pg_catalog.pg_type t on t.oid operator(pg_catalog.=) checked.objid
    ) each
    group by each.code
) hidden on hidden.code operator(pg_catalog.=) p.oid
where n.nspname operator(pg_catalog.<>) 'pg_catalog' and n.nspname operator(pg_catalog.<>) 'information_schema'""".replace(
    "<built of it>", BUILT_OF_IT
)
"""The functions of a database; all columns are text. The last column are the operators (`+`) and the types of casts, and of
domains and what is built of them (`mood::`), behind which the function stands, one a line."""

CATALOGUE_QUERY = "\nunion all\n".join((FUNCTIONS_QUERY, TAKEN_QUERY, FIRING_QUERY, REACHING_QUERY))
"""What the proxy asks the protected server. The rows are what `FunctionCatalogue.from_rows` takes. Rows whose OID is 0 are no
functions but words that settings of the server's own begin with; those of FIRING are relations, those of ROWS tell what reaches
functions that write."""

KEPT_TO_THEIR_WORD = frozenset({"internal", "c", "sql", "plpgsql", "plperl", "pltcl", "plv8"})
"""Languages in which STABLE means something: the server enforces it, or a superuser vouched for it. What the untrusted ones
(plpython3u, plperlu) do, nobody enforces."""

VOUCHED_FOR = frozenset({"internal", "c"})
"""Languages in which only a superuser creates functions."""

NO_FUNCTION = "0"
"""In place of an OID: the row is about settings."""

SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema"})


@unique
class Volatility(StrEnum):
    """PostgreSQL's own letters, from the softest to the hardest."""

    IMMUTABLE = "i"
    STABLE = "s"
    VOLATILE = "v"


VOLATILITIES = {READ[volatility.name.lower()]: volatility for volatility in Volatility}


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function, or all overloads of a built-in one. `shadowed`: a built-in one has the same name and arguments.
    `of_row`: it can be called as `row.name`. `behind`: operators and types of casts (`mood::`) that call it without its name.
    `fresh`: an agent has just created it, and the catalogue does not show it yet, or never will."""

    schema: str
    name: str
    volatility: Volatility
    security_definer: bool = False
    language: str = "internal"
    owner: str = ""
    shadowed: bool = False
    of_row: bool = False
    behind: tuple[str, ...] = ()
    fresh: bool = False

    @property
    def sly(self) -> bool:
        """Whether an operator or a cast in front of it may hide a change. A superuser vouched for what is written in C."""
        if self.security_definer:
            return True
        return self.language not in VOUCHED_FOR and (
            self.volatility is Volatility.VOLATILE or self.language not in KEPT_TO_THEIR_WORD
        )

    @property
    def built_in(self) -> bool:
        return self.schema in SYSTEM_SCHEMAS


class FunctionCatalogue:
    """Functions by name and by OID, the words that the server's own settings begin with (`taken`), the names of the relations
    on which an INSERT runs more than itself (`firing`), and what reaches functions that write (`reach`); the last two are None
    where nobody knows."""

    def __init__(
        self,
        functions: Iterable[tuple[int, Function]],
        *,
        taken: Iterable[str] = (),
        firing: Iterable[str] | None = (),
        reach: Reach | None = Reach(),  # noqa: B008 - a value
    ) -> None:
        self.taken = frozenset(taken)
        self.firing = None if firing is None else frozenset(firing)
        self.reach = reach
        self.reaches = reach is None or bool(reach)
        """Whether anything here changes rows when it is only called or read, as far as anybody knows."""
        self._own: dict[str, list[Function]] = {}
        self._by_oid: dict[int, Function] = {}
        self.row_functions: set[str] = set()
        """What may be a call without looking like it: `row.name`, `name()` for what newer servers have as syntax, and operators
        and casts in front of functions that are sly. Of these there are usually none."""
        self._behind: dict[str, tuple[ObjectName, ...]] = {}
        for oid, function in functions:
            self._own.setdefault(function.name, []).append(function)
            self._by_oid[oid] = function
            if function.of_row:
                self.row_functions.add(function.name)
            self.row_functions.add(f"{function.name}()")
            if function.behind and (function.sly or self.writes_when_called(function)):
                name = ObjectName(schema=function.schema, name=function.name)
                self._behind |= {spelled: (*self._behind.get(spelled, ()), name) for spelled in function.behind}
        self.row_functions |= self._behind.keys()

    def called_by(self, name: str) -> tuple[ObjectName, ...]:
        """The functions that one of `row_functions` calls."""
        return self._behind.get(name) or (ObjectName(name=name.removesuffix("()")),)

    @classmethod
    def builtin(cls) -> FunctionCatalogue:
        """Only what PostgreSQL brings: for a judge without a database. Every other function is unknown to it."""
        return cls(())

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[str | None]]) -> FunctionCatalogue:
        """From the rows of CATALOGUE_QUERY, in its order of columns. Booleans may be spelled t or true."""
        told = list(rows)
        named = {kind: [row[2] or "" for row in told if row[0] == kind] for kind in (NO_FUNCTION, FIRING)}
        others = named.keys() | ROWS
        functions = [row for row in told if row[0] not in others]
        reached = reach({row[0] or "": row[2] or "" for row in functions}, (row for row in told if row[0] in ROWS))
        return cls(
            map(_function, functions),
            taken=named[NO_FUNCTION],
            # A server that tells nothing at all was not asked, or did not answer.
            firing=named[FIRING] if told else None,
            reach=reached if told else None,
        )

    def fires(self, relation: str) -> bool:
        """Whether an INSERT into a relation of this name, in whichever schema, may run more than itself."""
        return self.firing is None or relation in self.firing

    def writes_when_read(self, relation: str) -> bool:
        """Whether reading a relation of this name, in whichever schema, may change rows."""
        return self.reach is None or relation in self.reach.relations

    def writes_when_filled(self, view: str) -> bool:
        """Whether REFRESH of a materialized view of this name may change rows of others."""
        return self.reach is None or view in self.reach.filled

    def writes_when_called(self, function: Function) -> bool:
        """Whether calling a function may change rows; of PostgreSQL's own the rules for functions speak, and so they do of those
        in C. What one calls that was just created, nobody has looked up."""
        if function.built_in or not self.reaches:
            return False
        return self.reach is None or function.fresh or function.name in self.reach.functions

    def named(self, schema: str, name: str) -> tuple[Function, ...]:
        """Every function that a call by this name may mean; empty when there is none."""
        system, _ = _built_in()
        own = self._own.get(name, ())
        if schema in SYSTEM_SCHEMAS:
            found = system.get(name if schema == "pg_catalog" else f"{schema}.{name}")
            return (found,) if found else ()
        if schema:
            return tuple(function for function in own if function.schema == schema)
        found = system.get(name)
        if found is None:
            return tuple(own)
        return (found, *(function for function in own if not function.shadowed))

    def with_created(self, created: Iterable[Function]) -> FunctionCatalogue:
        """The same, and functions that were just created under names that nobody had; itself where there are none."""
        new = [function for function in created if not self.named("", function.name)]
        if not new:
            return self
        catalogue = FunctionCatalogue((), taken=self.taken, firing=self.firing, reach=self.reach)
        catalogue._own = dict(self._own)
        catalogue._by_oid = self._by_oid
        catalogue._behind = self._behind
        catalogue.row_functions = set(self.row_functions)
        for function in new:
            catalogue._own[function.name] = [*catalogue._own.get(function.name, ()), function]
            catalogue.row_functions |= {function.name, f"{function.name}()"}
        return catalogue

    def names(self) -> Iterable[str]:
        """The names of PostgreSQL's own functions."""
        return (name for name, function in _built_in()[0].items() if function.schema == "pg_catalog")

    def numbered(self, oid: int) -> Function | None:
        """The function with this OID, or None."""
        return self._by_oid.get(oid) or _built_in()[1].get(oid)


def redefines(effect: Effect) -> bool:
    """Whether `effect` may change which functions there are, or what calls one, so that the catalogue is to be read again. Of a
    temporary relation no other session need hear."""
    if effect.operation not in {Operation.CREATE, Operation.REPLACE, Operation.ALTER, Operation.DROP}:
        return False
    if effect.kind in RELATIONS:
        return Flag.TEMPORARY not in effect.flags
    return effect.kind in REDEFINING or (effect.kind is ObjectKind.OTHER and effect.detail.startswith(REDEFINING_OTHERS))


REDEFINING = frozenset(
    {
        ObjectKind.FUNCTION,
        ObjectKind.EXTENSION,
        ObjectKind.SCHEMA,
        ObjectKind.TYPE,
        ObjectKind.TRIGGER,
        ObjectKind.RULE,
        ObjectKind.POLICY,
    }
)
REDEFINING_OTHERS = ("aggregate", "cast", "operator")


def harder(one: Function, other: Function | None) -> Function:
    """The one of two functions with the harder volatility; the first where they are equal."""
    return one if other is None or HARDNESS.index(one.volatility) >= HARDNESS.index(other.volatility) else other


HARDNESS = tuple(Volatility)
"""From the softest to the hardest."""


def created_in(effects: Iterable[Effect]) -> tuple[Function, ...]:
    """The functions among `effects` that are created and whose body was read: what the catalogue will say of them."""
    return tuple(
        Function(
            schema=effect.name.schema,
            name=effect.name.name,
            volatility=VOLATILITIES[effect.detail],
            language="sql",
            of_row=True,
            fresh=True,
        )
        for effect in effects
        if effect.operation is Operation.CREATE and effect.kind is ObjectKind.FUNCTION and effect.detail in VOLATILITIES
    )


def _function(row: Sequence[str | None]) -> tuple[int, Function]:
    oid, schema, name, volatility, definer, language, owner, shadowed, of_row, behind = (value or "" for value in row)
    return int(oid), Function(
        schema=schema,
        name=name,
        volatility=Volatility(volatility),
        security_definer=definer.startswith("t"),
        language=language,
        owner=owner,
        shadowed=shadowed.startswith("t"),
        of_row=of_row.startswith("t"),
        behind=tuple(behind.split("\n")) if behind else (),
    )


def argument(value: bytes | None, index: int, formats: Sequence[int]) -> str:
    """One argument as text: integers of the binary format in decimal, `?` for what is null or no text."""
    if value is None:
        return "?"
    kind = formats[index] if len(formats) > 1 and index < len(formats) else formats[0] if len(formats) == 1 else 0
    if kind == 1 and len(value) == 4:
        return str(int.from_bytes(value, "big", signed=True))
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return "?"


@cache
def _built_in() -> tuple[Mapping[str, Function], Mapping[int, Function]]:
    """PostgreSQL's own functions by name (schema-qualified outside pg_catalog) and by OID, from the data file.

    A number that two versions give to functions of different names is left out, so that it counts as unknown.
    """
    names: dict[str, Function] = {}
    known: dict[int, list[Function]] = {}
    for line in (files("dbshield.policy") / "data" / "functions.txt").read_text("utf-8").splitlines():
        key, volatility, *numbers = line.split(" ")
        schema, _, name = key.rpartition(".")
        function = Function(schema=schema or "pg_catalog", name=name, volatility=Volatility(volatility))
        names[key] = function
        for number in map(int, numbers):
            known.setdefault(number, []).append(function)
    return names, {number: functions[0] for number, functions in known.items() if len(functions) == 1}
