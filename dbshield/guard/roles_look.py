"""What making a role has to know of one database: its schemas, what is in them, who owns it, and whether the guard stands.

It only reads. The mark is how dbshield knows a role again that it made: a comment on the role, which no agent can change (COMMENT
ON ROLE takes CREATEROLE or ADMIN on the role).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from psycopg import errors

from dbshield.errors import ConfigError
from dbshield.guard.install import Connection, installed_version
from dbshield.guard.roles_rights import On
from dbshield.guard.steps import AGENTS
from dbshield.guard.verify import verify

MARK: Final = "dbshield agent"
KINDS: Final = {"r": On.TABLE, "p": On.TABLE, "v": On.VIEW, "m": On.MATERIALIZED_VIEW, "S": On.SEQUENCE}
"""pg_class.relkind of what rights are given on; foreign tables are left out, they are another database's."""

SCHEMAS: Final = """
    select nspname::text from pg_catalog.pg_namespace n
    where nspname !~ '^pg_' and nspname not in ('information_schema', 'dbshield')
        and not exists (
            select from pg_catalog.pg_depend d
            where d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.objid = n.oid and d.deptype = 'e'
        )
    order by 1"""
"""Those of people: neither the system's, nor the guard's, nor an extension's."""

RELATIONS: Final = """
    select relkind::text, nspname::text, relname::text, rolname::text
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = relnamespace join pg_catalog.pg_roles o on o.oid = relowner
    where relkind in ('r', 'p', 'v', 'm', 'S', 'f') and relpersistence <> 't' and nspname = any(%s)
    order by 2, 3"""

CREATORS: Final = """
    with meant as (select * from pg_catalog.pg_namespace where nspname = any(%(schemas)s))
    select o.rolname::text from pg_catalog.pg_roles o
    where o.rolname !~ '^pg_' and (
        o.oid in (select relowner from pg_catalog.pg_class join meant on meant.oid = relnamespace
            where relkind in ('r', 'p', 'v', 'm', 'S'))
        or o.oid in (select nspowner from meant)
        or (not o.rolsuper and pg_catalog.pg_has_role(o.oid, pg_catalog.to_regrole(%(group)s), 'member')
            and o.oid in (select grantee from meant, pg_catalog.aclexplode(nspacl) where privilege_type = 'CREATE'))
    )
    order by 1"""
"""Who makes the tables to come: the owners of those that are there and of the schemas, and agents that may create in them."""

_ELEMENT: Final = re.compile(r'"(?:[^"]|"")*"|[^,\s"]+')


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What the comment on a role says: whose it is, over which schemas (empty: all of people's), and the day of its password."""

    id: str
    agent: str
    environment: str
    schemas: tuple[str, ...]
    password_set: str

    def __str__(self) -> str:
        values = asdict(self)
        return json.dumps({MARK: values.pop("id"), **values})


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """One table, view, materialized view or sequence."""

    kind: On
    schema: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One database: the schemas that are meant, and what is in them. `owners` own tables or materialized views, `creators` make
    tables to come. `problems` are the guard's: none where it stands. `installed` is whether there is one."""

    database: str
    schemas: tuple[str, ...]
    relations: tuple[Relation, ...]
    foreign: tuple[str, ...]
    owners: tuple[str, ...]
    creators: tuple[str, ...]
    installed: bool
    problems: tuple[str, ...]


def look(conn: Connection, wanted: Sequence[str]) -> Place:
    """The database of `conn`; `wanted` are the schemas that are meant, none: all of people's."""
    schemas = tuple(name for (name,) in conn.execute(SCHEMAS.encode()).fetchall() if not wanted or name in wanted)
    found = conn.execute(RELATIONS.encode(), [list(schemas)]).fetchall()
    creators = conn.execute(CREATORS.encode(), {"schemas": list(schemas), "group": AGENTS}).fetchall()
    installed, problems = _guard(conn)
    return Place(
        database=conn.info.dbname,
        schemas=schemas,
        relations=tuple(Relation(kind=KINDS[kind], schema=schema, name=name) for kind, schema, name, _ in found if kind in KINDS),
        foreign=tuple(f"{schema}.{name}" for kind, schema, name, _ in found if kind not in KINDS),
        owners=tuple(sorted({owner for kind, _, _, owner in found if kind in "rpm"})),
        creators=tuple(name for (name,) in creators),
        installed=installed,
        problems=problems,
    )


def _guard(conn: Connection) -> tuple[bool, tuple[str, ...]]:
    """Whether a guard is installed, and what is not as it should be; what may not be looked at is."""
    try:
        with conn.transaction():
            return installed_version(conn) is not None, tuple(problem.what for problem in verify(conn))
    except errors.InsufficientPrivilege as error:
        return True, (f"{conn.info.user} may not look at the guard: {error.diag.message_primary}",)


def known_schemas(places: Sequence[Place], wanted: Sequence[str]) -> None:
    """ConfigError for a schema that no database has: its rights would be given to nobody, silently."""
    for name in wanted:
        if not any(name in place.schemas for place in places):
            raise ConfigError(
                f'there is no schema "{name}" in {", ".join(place.database for place in places)}',
                hint="Name schemas that exist, and none of the system's, an extension's or the guard's.",
            )


def mark_of(conn: Connection, role: str) -> Mark | None:
    """What the comment says; nothing for a role that dbshield did not make, or that is not there."""
    row = conn.execute(
        "select pg_catalog.shobj_description(oid, 'pg_authid') from pg_catalog.pg_roles where rolname = %s", [role]
    ).fetchone()
    try:
        values: Any = json.loads(row[0]) if row is not None and row[0] else {}
        return Mark(
            id=str(UUID(values[MARK])),
            agent=str(values["agent"]),
            environment=str(values["environment"]),
            schemas=tuple(map(str, values["schemas"])),
            password_set=str(values["password_set"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def exists(conn: Connection, role: str) -> bool:
    return conn.execute("select from pg_catalog.pg_roles where rolname = %s", [role]).fetchone() is not None


def search_path(conn: Connection, schemas: Sequence[str]) -> tuple[str, ...]:
    """What the role finds without naming a schema: the schemas named, else what the database says; pg_temp last of all."""
    found = tuple(schemas)
    if not found:
        row = conn.execute(
            "select substr(s, length('search_path=') + 1) from pg_catalog.pg_db_role_setting, unnest(setconfig) as s"
            " where setrole = 0 and setdatabase = (select oid from pg_catalog.pg_database"
            " where datname = pg_catalog.current_database()) and s like 'search_path=%'"
        ).fetchone()
        found = tuple(_elements(row[0])) if row is not None else ("public",)
    return (*(name for name in found if name not in {"$user", "pg_temp"}), "pg_temp")


def _elements(text: str) -> Iterator[str]:
    """The names in a search_path as the server writes it."""
    for element in _ELEMENT.findall(text):
        yield element[1:-1].replace('""', '"') if element.startswith('"') else element.lower()
