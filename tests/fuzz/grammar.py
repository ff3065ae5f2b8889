"""A grammar of PostgreSQL's statements that makes texts from bytes.

A symbol stands in angle brackets; the first alternative of each is its simplest and ends every recursion. Bytes decide between
the alternatives, so that hypothesis shrinks a text by shrinking bytes, and no byte at all is the simplest text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GRAMMAR: dict[str, tuple[str, ...]] = {}

GRAMMAR["literal"] = (
    "1", "'x'", "null", "true", "2.5", "-7", "E'y\\n'", "b'101'", "date '2026-01-01'", "interval '1' day", "'%'", "N'z'", "x'1f'",
    "U&'\\0061'", "''", "false", "1e9",
)  # fmt: skip
GRAMMAR["column"] = ("a", "b", "t.a", "u.c", '"C d"', "s.t.b")
GRAMMAR["type"] = ("int", "text", "numeric(10, 2)", "timestamptz", "s.mood", "int[]", "character varying(3)", "double precision")
GRAMMAR["operator"] = ("=", "<", "<>", "+", "||", "->>", "@>", "~", "operator(pg_catalog.+)", "<=", "&&", "?", "#>", "<->")
GRAMMAR["function"] = ("lower", "s.f", "coalesce", "greatest", "now_or", "array_agg", '"F"', "pg_catalog.upper")
GRAMMAR["expr"] = (
    "<column>",
    "<literal>",
    "<expr> <operator> <expr>",
    "(<expr>)",
    "<function>(<expr>)",
    "<function>(<expr>, <expr>)",
    "f(x => <expr>)",
    "f(variadic <expr>)",
    "sum(distinct <expr>)",
    "array_agg(<expr> order by <expr> desc)",
    "count(*) filter (where <condition>)",
    "mode() within group (order by <expr>)",
    "sum(<expr>) over (partition by <expr> order by <expr>)",
    "max(a) over (order by b rows between <expr> preceding and <expr> following exclude ties)",
    "case when <condition> then <expr> else <expr> end",
    "case <expr> when <expr> then <expr> end",
    "coalesce(<expr>, <expr>)",
    "nullif(<expr>, <expr>)",
    "greatest(<expr>, <expr>)",
    "(<expr>)::<type>",
    "cast(<expr> as <type>)",
    '(<expr>) collate "C"',
    "array[<expr>, <expr>]",
    "row(<expr>, <expr>)",
    "(<expr>)[<expr>]",
    "(array[<expr>])[<expr>:<expr>]",
    "(<expr>).x",
    "(<query>)",
    "array(<query>)",
    "exists (<query>)",
    "- (<expr>)",
    "@ (<expr>)",
    "(<expr>) at time zone (<expr>)",
    "extract(year from <expr>)",
    "substring(<expr> from <expr> for <expr>)",
    "overlay(<expr> placing <expr> from <expr>)",
    "trim(both <expr> from <expr>)",
    "position(<literal> in (<expr>))",
    "xmlelement(name x, xmlattributes(<expr> as y), <expr>)",
    "xmlforest(<expr> as y)",
    "xmlserialize(content <expr> as text)",
    "xmlparse(content <expr>)",
    "json_object('k' : <expr>, (<expr>) value <expr>)",
    "json_array(<expr>, <expr> absent on null)",
    "json_array(<query>)",
    "json_arrayagg(<expr> order by <expr>)",
    "json_objectagg('k' : <expr>)",
    "json_value(<expr>, '$' passing <expr> as v default (<expr>) on empty default (<expr>) on error)",
    "json_query(<expr>, '$' passing <expr> as v default (<expr>) on empty error on error)",
    "json_exists(<expr>, '$' passing <expr> as v)",
    "json_scalar(<expr>)",
    "json(<expr>)",
    "json_serialize(<expr>)",
    "grouping(<expr>)",
    "normalize(<expr>)",
)
GRAMMAR["condition"] = (
    "<column> = <expr>",
    "<expr>",
    "<condition> and <condition>",
    "<condition> or <condition>",
    "not (<condition>)",
    "(<condition>)",
    "<expr> <operator> <expr>",
    "<expr> in (<expr>, <expr>)",
    "<column> in (<query>)",
    "<column> not in (<query>)",
    "<column> = any (<query>)",
    "(<expr>) <> all (array[<expr>])",
    "<column> = any ($1)",
    "<column> between <literal> and <expr>",
    "<column> not between symmetric <literal> and <literal>",
    "<column> like <literal>",
    "<column> not ilike (<expr>)",
    "<column> similar to <literal>",
    "(<expr>) is null",
    "(<expr>) is not null",
    "(<condition>) is true",
    "(<expr>) is distinct from <expr>",
    "(<expr>, <expr>) = (<expr>, <expr>)",
    "(a, b) in (<query>)",
    "exists (<query>)",
    "(<expr>) is json",
    "(<expr>) is document",
    "true",
    "1 = 1",
    "a = a",
    "(a, b) overlaps (<expr>, <expr>)",
)
GRAMMAR["items"] = ("<expr>", "*", "<expr> as x, <expr>", "distinct <expr>", "distinct on (<expr>) <expr>", "t.*", "")
GRAMMAR["table"] = ("t", "s.t", "u", "only v", "t as x", '"My table"')
GRAMMAR["from"] = (
    "<table>",
    "<table>, <table>",
    "<table> join <table> on <condition>",
    "<table> left join (<table> cross join <table>) on <condition>",
    "t join u using (a) as j",
    "(<query>) x",
    "lateral (<query>) as x (y)",
    "f(<expr>)",
    "u, lateral s.f(<expr>) with ordinality",
    "rows from (f(<expr>), g(<expr>) as (a int))",
    "generate_series(<expr>, <expr>) g",
    "t tablesample system (<expr>) repeatable (<expr>)",
    "xmltable('/x' passing (<expr>) columns y int path (<expr>) default (<expr>))",
    "json_table(<expr>, '$' passing <expr> as v columns (d int path '$' default (<expr>) on empty default (<expr>) on error,"
    " nested path '$' columns (e int path '$' default (<expr>) on empty))) j",
    "(values (<expr>, <expr>)) v(a, b)",
    "w",
)
GRAMMAR["source"] = ("u", "<table>", "(<query>) q", "f(<expr>) q", "(t join u on <condition>) q")
GRAMMAR["tail"] = (
    "",
    "where <condition>",
    "where <condition> group by <expr> having <condition>",
    "group by grouping sets ((<expr>), rollup (<expr>), ())",
    "group by cube (<expr>, <expr>) order by <expr> desc",
    "window w1 as (partition by <expr> order by <expr>)",
    "order by <expr> using <, <expr> nulls first",
    "limit <expr> offset <expr>",
    "order by a fetch first (<expr>) rows with ties",
    "where <condition> for update of t skip locked",
    "for share",
)
GRAMMAR["query"] = (
    "select <items> from <from>",
    "select <expr>",
    "select <items> from <from> <tail>",
    "values (<expr>), (<expr>)",
    "select <expr> union all select <expr>",
    "(<query>) intersect (<query>)",
    "with w as (<query>) select <items> from w <tail>",
    "with recursive w (a) as ((<query>) union all select <expr> from w) search depth first by a set o select <items> from w",
    "with w as materialized (<query>), w2 as not materialized (<query>) select 1 from w, w2",
    "table t",
)
GRAMMAR["returning"] = (
    "",
    "returning <expr>",
    "returning with (old as o, new as n) o.a, <expr>",
    "returning *",
    "returning old.a, <expr>",
)
GRAMMAR["with"] = (
    "",
    "with w as (<query>)",
    "with w as (<write>)",
    "with recursive w as (<query>)",
    "with w as (<query>), w2 as (<write>)",
)
GRAMMAR["set"] = (
    "a = <expr>",
    "a = <expr>, b = default",
    "(a, b) = (<expr>, <expr>)",
    "(a, b) = (select <expr>, <expr>)",
    "a[<expr>] = <expr>",
    "(a, b) = row(<expr>, default)",
    "a.x = <expr>",
)
GRAMMAR["conflict"] = (
    "",
    "on conflict do nothing",
    "on conflict (a) do update set <set>",
    "on conflict (a, (lower(b))) where <condition> do update set <set> where <condition>",
    "on conflict on constraint k do update set a = excluded.a",
)
GRAMMAR["insert"] = (
    "insert into t values (<expr>)",
    "insert into t (a, b) values (<expr>, default), (<expr>, <expr>) <conflict> <returning>",
    "insert into s.t as x <query> <conflict> <returning>",
    "insert into t default values <conflict>",
    "insert into t (a) overriding system value select <expr> <conflict>",
)
GRAMMAR["update"] = (
    "update t set <set> where <condition>",
    "update only s.t as x set <set> from <from> where <condition> <returning>",
    "update t set <set> <returning>",
)
GRAMMAR["delete"] = (
    "delete from t where <condition>",
    "delete from s.t as x using <from> where <condition> <returning>",
    "delete from only t <returning>",
)
GRAMMAR["when"] = (
    "when matched then delete",
    "when matched and <condition> then update set <set>",
    "when not matched and <condition> then insert (a) values (<expr>)",
    "when not matched by source and <condition> then update set <set>",
    "when not matched then insert default values",
    "when matched then do nothing",
)
GRAMMAR["merge"] = (
    "merge into t using u on t.a = u.a <when>",
    "merge into s.t as x using <source> on <condition> <when> <when> <returning>",
    "merge into t using (<query>) as q on <condition> <when>",
)
GRAMMAR["write"] = ("<insert>", "<update>", "<delete>", "<merge>")
GRAMMAR["row statement"] = ("<query>", "<with> <insert>", "<with> <update>", "<with> <delete>", "<with> <merge>")
GRAMMAR["option"] = (
    "",
    "(analyze)",
    "analyze verbose",
    "(costs off)",
    "(analyze false)",
    "(analyze, buffers)",
    "(analyze off, analyze)",
)
GRAMMAR["constraint"] = (
    "default <expr>",
    "check (<condition>)",
    "generated always as (<expr>) stored",
    "not null",
    "primary key",
    "references u (a)",
    "unique nulls not distinct",
)
GRAMMAR["definition"] = (
    "create table x (a int <constraint>)",
    "create temp table x (a <type> <constraint>, check (<condition>), exclude using gist (a with =) where (<condition>))",
    "create table if not exists x (like t including all)",
    "create table x partition of t (a <constraint>) for values from (<expr>) to (<expr>)",
    "create table x partition of t for values in (<expr>)",
    "create table x (a int) partition by range ((<expr>))",
    "create table x as <row query>",
    "create table x as execute p (<expr>)",
    "create materialized view x as <query>",
    "create view x as <query>",
    "create or replace view x as <query> with local check option",
    "create recursive view x (a) as <query>",
    "create index concurrently i on t ((<expr>)) include (b) where <condition>",
    "create unique index on t (a, lower(<expr>)) where <condition>",
    "create statistics st on (<expr>), a from t",
    "create domain d as text default <expr> check (<condition>)",
    "create policy p on t for update using (<condition>) with check (<condition>)",
    "create publication p for table t where (<condition>)",
    "create trigger g before update on t for each row when (<condition>) execute function f()",
    "create rule r as on update to t where <condition> do also (<write>; <query>)",
    "create schema x create table y (a int <constraint>) create view z as <query>",
    "create foreign table x (a int default <expr>) server s",
    "alter table t add column x int <constraint>, alter column a set default <expr>",
    "alter table t alter a type text using <expr>",
    "alter table t add constraint k check (<condition>) not valid",
    "alter table t alter a add generated always as identity",
    "alter table t alter a set expression as (<expr>)",
    "alter table t attach partition x for values from (<expr>) to (<expr>)",
    "alter table t drop column a cascade",
    "alter domain d add check (<condition>)",
    "alter domain d set default <expr>",
    "alter policy p on t using (<condition>) with check (<condition>)",
    "alter publication p set table t where (<condition>)",
    "alter view x alter a set default <expr>",
    "drop table if exists t cascade",
    "drop table pg_temp.x",
    "drop index concurrently i",
    "drop owned by x",
    "truncate t, u cascade",
    "truncate pg_temp.x",
    "comment on table t is 'x'",
    "alter table t rename to x",
    "alter table t disable trigger all",
    "refresh materialized view x",
    "grant select on t to x",
)
GRAMMAR["row query"] = ("<query>", "with w as (<write>) select 1 from w")
GRAMMAR["session"] = (
    "explain <option> <row statement>",
    "explain <option> create table x as <query>",
    "explain <option> execute p (<expr>)",
    "explain <option> declare c cursor for <query>",
    "prepare p (int) as <row statement>",
    "execute p (<expr>, <expr>)",
    "declare c cursor with hold for <query>",
    "fetch 5 from c",
    "copy (<row statement>) to stdout",
    "copy t from stdin where <condition>",
    "copy t (a, b) from stdin with (format csv)",
    "copy t to stdout",
    "copy t from program 'x'",
    "copy (<query>) to '/x'",
    "call s.p(<expr>, x => <expr>)",
    "set work_mem = '1MB'",
    "set role x",
    "begin",
    "commit",
    "lock table t",
    "vacuum t",
    "analyze t",
    "notify x, 'y'",
    "discard all",
    "reset all",
    "show all",
)
GRAMMAR["statement"] = ("<row statement>", "<definition>", "<session>")

SYMBOL = re.compile(r"<([a-z ]+)>")
MAX_DEPTH = 7
"""How deep symbols nest before only the simplest alternatives are taken."""


class Choices:
    """Decisions from bytes; nothing but zeros once they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    def below(self, number: int) -> int:
        return next(self._data, 0) % number


@dataclass(frozen=True, slots=True)
class Place:
    """Where one expression or query stands in a text, from `start` to `end`."""

    symbol: str
    start: int
    end: int


class Text:
    """One text made from bytes, with the places of its expressions, conditions and queries."""

    def __init__(self, data: bytes, symbol: str = "statement", grammar: dict[str, tuple[str, ...]] = GRAMMAR) -> None:
        self._grammar = grammar
        self.places: list[Place] = []
        self._pieces: list[str] = []
        self._length = 0
        self._choices = Choices(data)
        self._expand(f"<{symbol}>", 0)
        self.text = "".join(self._pieces)

    def with_probe(self, expression: str, query: str) -> str:
        """The text with one of its places, chosen by what is left of the bytes, replaced by a probe; as it is without places."""
        if not self.places:
            return self.text
        place = self.places[(self._choices.below(256) << 8 | self._choices.below(256)) % len(self.places)]
        probe = query if place.symbol == "query" else f"({expression})"
        return f"{self.text[: place.start]}{probe}{self.text[place.end :]}"

    def _expand(self, template: str, depth: int) -> None:
        position = 0
        for found in SYMBOL.finditer(template):
            self._put(template[position : found.start()])
            symbol = found[1]
            alternatives = self._grammar[symbol]
            chosen = alternatives[self._choices.below(len(alternatives))] if depth < MAX_DEPTH else alternatives[0]
            start = self._length
            self._expand(chosen, depth + 1)
            if symbol in {"expr", "condition", "query"}:
                self.places.append(Place(symbol, start, self._length))
            position = found.end()
        self._put(template[position:])

    def _put(self, piece: str) -> None:
        self._pieces.append(piece)
        self._length += len(piece)
