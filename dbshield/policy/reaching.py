"""Which functions that people wrote may change rows when they are called, and what calls one of them while it is only read.

A SELECT destroys nothing by itself. But a view or a row policy may call a VOLATILE function that deletes, and a STABLE one, whose
own statements the server keeps from writing, may call a VOLATILE one that does. So what reaches such a function is counted like a
change. It begins with VOLATILE functions whose body has a word that a change needs, and goes on to all that depends on them: by
the catalogue (views, policies, operators, casts, aggregates, domains, types), and by name, since the catalogue knows nothing of
what stands in a body that is a string. A keyword has one spelling in every body, and so has a name unless it is written `U&"…"`
or put together while the body runs; bodies that may do so count as if they named everything. What has the name or the number of
something else is counted needlessly, and never left out. Sources: PostgreSQL manual, 36.7 (Function Volatility Categories), 41.2
(rules of views), `catalog-pg-depend`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dbshield.policy.settings import OWN_SCHEMA

BODY: Final = "b"
"""In place of an OID: the row has the body of a function that somebody wrote."""
EDGES: Final = "e"
"""In place of an OID: the row has pairs of OIDs, `16500>16501`: who reaches the first reaches the second."""
NAMED: Final = "n"
"""In place of an OID: the row names a relation (`r`), a materialized view (`m`), or a type or an operator (`t`), by its OID."""

CHANGES: Final = frozenset(
    {
        *("insert", "update", "delete", "merge", "copy", "truncate", "create", "alter", "drop", "import", "do", "call"),
        *("analyze", "analyse", "cluster", "refresh", "reindex"),
    }
)
"""Words without one of which no body changes a row, nor has one changed by what stands on it (a trigger, a rule, an index)."""
UNSEEN: Final = frozenset(
    {
        *("execute", "fetch", "move", "ts_stat", "ts_rewrite", "crosstab", "connectby", "xpath_table"),
        *("query_to_xml", "query_to_xml_and_xmlschema", "cursor_to_xml", "cursor_to_xmlschema"),
        *("table_to_xml", "table_to_xml_and_xmlschema", "schema_to_xml", "schema_to_xml_and_xmlschema"),
        *("database_to_xml", "database_to_xml_and_xmlschema", "pg_input_is_valid", "pg_input_error_info"),
    }
)
"""Words in a body that runs what stands elsewhere: a text that it puts together, or somebody's cursor."""
ESCAPED: Final = 'u&"'
READ_BODIES: Final = frozenset({"sql", "plpgsql"})
"""Languages whose bodies have these words. What those in others do is not read."""
NAME_LENGTH: Final = 63
"""Bytes of a name that the server looks at: NAMEDATALEN - 1."""
FIRST_USER_OID: Final = 16_384
"""FirstNormalObjectId: what initdb made has smaller numbers."""

CODECS: Final = {
    "LATIN1": "latin-1",
    "LATIN2": "iso8859-2",
    "LATIN5": "iso8859-9",
    "LATIN9": "iso8859-15",
    "WIN1250": "cp1250",
    "WIN1251": "cp1251",
    "WIN1252": "cp1252",
    "WIN1253": "cp1253",
    "WIN1254": "cp1254",
    "WIN1257": "cp1257",
    "KOI8R": "koi8-r",
    "EUC_JP": "euc-jp",
    "EUC_KR": "euc-kr",
    "EUC_CN": "gb2312",
}
"""Python's names for encodings of databases. In others, as in SQL_ASCII, letters outside ASCII are taken for UTF-8."""

_ESCAPED: Final = re.compile(rb"\\(\\|[0-7]{3})")
_WORD: Final = re.compile(r"[\w$]+")

_QUERY: Final = """\
select '<body>', l.lanpltrusted::pg_catalog.text, p.proname::pg_catalog.text, p.provolatile::pg_catalog.text,
    p.oid::pg_catalog.text, l.lanname::pg_catalog.text, pg_catalog.getdatabaseencoding()::pg_catalog.text, '', '',
    -- Bytes in a comment that stand for no letter would make an error of the whole answer.
    case when pg_catalog.getdatabaseencoding() operator(pg_catalog.=) 'UTF8' then source.text
        else pg_catalog.encode(pg_catalog.convert_to(source.text, pg_catalog.getdatabaseencoding()), 'escape') end
from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid operator(pg_catalog.=) p.prolang
cross join lateral (
    select case when p.prosqlbody is null then p.prosrc else pg_catalog.pg_get_function_sqlbody(p.oid) end as text
) source
where p.oid operator(pg_catalog.>=) <first>::pg_catalog.oid
    and l.lanname operator(pg_catalog.<>) all (array['c', 'internal']::pg_catalog.name[])
    and p.prorettype operator(pg_catalog.<>) all (
        array['pg_catalog.trigger'::pg_catalog.regtype, 'pg_catalog.event_trigger'::pg_catalog.regtype]::pg_catalog.oid[])
    -- Nobody calls the guard's own by reading, and no agent makes anything in its schema (DS404).
    and p.pronamespace is distinct from pg_catalog.to_regnamespace('<guard>')::pg_catalog.oid
union all
select '<edges>', '', '', '', '', '', '', '', '', pg_catalog.string_agg(
    edge.from_oid::pg_catalog.text operator(pg_catalog.||) '>' operator(pg_catalog.||) edge.to_oid::pg_catalog.text,
    ' ' order by edge.from_oid using operator(pg_catalog.<), edge.to_oid using operator(pg_catalog.<))
from (
    select d.refobjid as from_oid, d.objid as to_oid from pg_catalog.pg_depend d
    -- Who reads a materialized view calls nothing of what fills it.
    left join pg_catalog.pg_class m on m.oid operator(pg_catalog.=) d.refobjid and m.relkind operator(pg_catalog.=) 'm'
        and d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
    where m.oid is null and d.refobjid operator(pg_catalog.>=) <first>::pg_catalog.oid
        and d.refclassid operator(pg_catalog.=) any (array[
            'pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_class'::pg_catalog.regclass,
            'pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass]::pg_catalog.oid[])
        and (d.classid operator(pg_catalog.=) any (array[
                'pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_rewrite'::pg_catalog.regclass,
                'pg_catalog.pg_policy'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass,
                'pg_catalog.pg_cast'::pg_catalog.regclass]::pg_catalog.oid[])
            -- A relation has its columns' types, but not what else stands on it.
            or (d.classid operator(pg_catalog.=) any (array[
                    'pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_class'::pg_catalog.regclass]::pg_catalog.oid[])
                and d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass))
    union
    select d.refobjid, k.contypid from pg_catalog.pg_constraint k join pg_catalog.pg_depend d
        on d.objid operator(pg_catalog.=) k.oid
        and d.classid operator(pg_catalog.=) 'pg_catalog.pg_constraint'::pg_catalog.regclass
    where k.contypid operator(pg_catalog.<>) 0 and d.refobjid operator(pg_catalog.<>) k.contypid
    union
    select r.oid, r.ev_class from pg_catalog.pg_rewrite r
    where r.ev_type operator(pg_catalog.=) '1' and r.ev_class operator(pg_catalog.>=) <first>::pg_catalog.oid
    union
    select y.oid, y.polrelid from pg_catalog.pg_policy y
    union
    select c.oid, t.oid from pg_catalog.pg_cast c
    join pg_catalog.pg_type t on t.oid operator(pg_catalog.=) any (array[c.castsource, c.casttarget])
    where c.oid operator(pg_catalog.>=) <first>::pg_catalog.oid
    union
    -- The type of a table's rows is not what reaches; that of CREATE TYPE is nothing else.
    select c.oid, c.reltype from pg_catalog.pg_class c where c.relkind operator(pg_catalog.=) 'c'
) edge
union all
select '<named>', '', c.relname::pg_catalog.text, case when c.relkind operator(pg_catalog.=) 'm' then 'm' else 'r' end,
    c.oid::pg_catalog.text, '', '', '', '', null
from (
    select v.oid from pg_catalog.pg_class v where v.relkind operator(pg_catalog.=) any ('{v,m,c}'::pg_catalog."char"[])
    union
    select y.polrelid from pg_catalog.pg_policy y
    union
    select d.objid from pg_catalog.pg_depend d where d.classid operator(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
        and d.refclassid operator(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass
) named join pg_catalog.pg_class c on c.oid operator(pg_catalog.=) named.oid
where c.oid operator(pg_catalog.>=) <first>::pg_catalog.oid
union all
select '<named>', '', t.typname::pg_catalog.text, 't', t.oid::pg_catalog.text, '', '', '', '', null from pg_catalog.pg_type t
where t.oid operator(pg_catalog.>=) <first>::pg_catalog.oid and t.typrelid operator(pg_catalog.=) 0
    and t.typtype operator(pg_catalog.=) any ('{d,r,m,e}'::pg_catalog."char"[])
union all
select '<named>', '', o.oprname::pg_catalog.text, 't', o.oid::pg_catalog.text, '', '', '', '', null from pg_catalog.pg_operator o
where o.oid operator(pg_catalog.>=) <first>::pg_catalog.oid"""

REACHING_QUERY: Final = (
    _QUERY.replace("<body>", BODY)
    .replace("<edges>", EDGES)
    .replace("<named>", NAMED)
    .replace("<first>", str(FIRST_USER_OID))
    .replace("<guard>", OWN_SCHEMA)
)
"""What `reach` reads; the columns are those of the query for functions, which it is sent with."""

ROWS: Final = frozenset({BODY, EDGES, NAMED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The names of functions that may change rows when they are called although they are not VOLATILE (whose calls have a rule of
    their own), of relations that do so when they are read, and of materialized views that do so when they are filled."""

    functions: frozenset[str] = frozenset()
    relations: frozenset[str] = frozenset()
    filled: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.functions or self.relations or self.filled)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    """`text` in small letters, and its words."""

    text: str
    words: frozenset[str]
    volatile: bool
    language: str
    trusted: bool

    @property
    def unseen(self) -> bool:
        """Whether it may call what it does not name."""
        return self.language not in READ_BODIES or ESCAPED in self.text or not self.words.isdisjoint(UNSEEN)

    @property
    def writes(self) -> bool:
        """Whether it may change rows without calling a function that does. The server keeps all but VOLATILE ones from that, in
        languages that it is trusted with."""
        if not self.volatile:
            return not self.trusted
        return self.unseen or not self.words.isdisjoint(CHANGES)


def reach(functions: Mapping[str, str], rows: Iterable[Sequence[str | None]]) -> Reach:
    """From the names of all functions of a database by OID, and the rows of REACHING_QUERY."""
    bodies: dict[str, _Body] = {}
    relations: dict[str, str] = {}
    filled: dict[str, str] = {}
    names = dict(functions)
    edges: dict[str, list[str]] = {}
    for row in rows:
        kind, trusted, name, letter, oid, language, encoding, *_, text = (value or "" for value in row)
        if kind == BODY:
            names.setdefault(oid, name)
            text = _letters(text, encoding)
            bodies[oid] = _body(text.lower(), volatile=letter == "v", language=language, trusted=trusted.startswith("t"))
        elif kind == EDGES:
            for edge in text.split():
                begin, _, end = edge.partition(">")
                edges.setdefault(begin, []).append(end)
        elif kind == NAMED:
            names[oid] = name
            if letter != "t":
                (filled if letter == "m" else relations)[oid] = name
    reached = _closure(bodies, names, edges)
    return Reach(
        functions=frozenset(
            functions[oid] for oid in reached & functions.keys() if oid not in bodies or not bodies[oid].volatile
        ),
        relations=frozenset(relations[oid] for oid in reached & relations.keys()),
        filled=frozenset(filled[oid] for oid in reached & filled.keys()),
    )


def _closure(bodies: Mapping[str, _Body], names: Mapping[str, str], edges: Mapping[str, Sequence[str]]) -> set[str]:
    """The OIDs of all that reaches a function which writes."""
    waiting = [oid for oid, body in bodies.items() if body.writes]
    if not waiting:
        return set()
    waiting += [oid for oid, body in bodies.items() if body.unseen]
    naming: dict[str, list[str]] = {}
    for oid, body in bodies.items():
        for word in body.words:
            naming.setdefault(word, []).append(oid)
    reached: set[str] = set()
    spoken: set[str] = set()
    while waiting:
        oid = waiting.pop()
        if oid in reached:
            continue
        reached.add(oid)
        waiting += edges.get(oid, ())
        name = names.get(oid, "").lower()
        if name and name not in spoken:
            spoken.add(name)
            if _WORD.fullmatch(name):
                waiting += naming.get(name, ())
            else:
                quoted = name.replace('"', '""')
                waiting += [other for other, body in bodies.items() if quoted in body.text]
    return reached


def _letters(text: str, encoding: str) -> str:
    """A body as it was written. From a database that is not in UTF-8 its bytes come escaped."""
    if encoding in {"", "UTF8"}:
        return text
    data = _ESCAPED.sub(lambda found: b"\\" if found[1] == b"\\" else bytes([int(found[1], 8)]), text.encode())
    return data.decode(CODECS.get(encoding, "utf-8"), "replace")


def _body(text: str, *, volatile: bool, language: str, trusted: bool) -> _Body:
    words = set(_WORD.findall(text))
    # A longer name is cut by the server, between characters.
    words |= {word.encode()[:NAME_LENGTH].decode("utf-8", "ignore") for word in words if len(word) > NAME_LENGTH // 4}
    return _Body(text=text, words=frozenset(words), volatile=volatile, language=language, trusted=trusted)
