"""Gives a role the rights of its level in one database, and says what it could not give.

Granting is idempotent: it is said again whenever the rights are to be as they belong. What the administrator may not grant is
found by asking the server afterwards what the role has, so that a grant that the server took with a warning is not believed.

Source: PostgreSQL manual, GRANT ("Notes": a grant of what the grantor may not grant is a warning or an error, by how much it is)
and ALTER DEFAULT PRIVILEGES.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from psycopg import errors, sql

from dbshield.guard.install import Connection, Open
from dbshield.guard.roles_look import Place, Relation
from dbshield.guard.roles_rights import On, privileges
from dbshield.guard.steps import AGENTS
from dbshield.model import AccessLevel

CHUNK: Final = 500
"""Relations in one GRANT; ours, so that a schema of ten thousand tables makes no statement of a megabyte."""
SHOWN: Final = 5
"""Names in one line of what is open."""
INHERIT_SINCE: Final = 16
"""Memberships have INHERIT and SET of their own since 16."""

_HAS: Final = {
    On.TABLE: "has_table_privilege",
    On.VIEW: "has_table_privilege",
    On.MATERIALIZED_VIEW: "has_table_privilege",
    On.SEQUENCE: "has_sequence_privilege",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grantee:
    """Who gets the rights. `guarded` is whether the guard stands in every database of the environment."""

    role: str
    access: AccessLevel
    guarded: bool

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.role)

    def privileges(self, on: On) -> tuple[str, ...]:
        return privileges(self.access, on, guarded=self.guarded)


def give(conn: Connection, place: Place, grantee: Grantee) -> tuple[Open, ...]:
    """All rights of the level in this database; what could not be given. Inside the caller's transaction."""
    _database(conn, place, grantee)
    for schema in place.schemas:
        _grant(conn, grantee, sql.SQL("schema {}"), grantee.privileges(On.SCHEMA), [sql.Identifier(schema)])
    for kind, relations in _by_kind(place.relations):
        word = sql.SQL("sequence {}") if kind is On.SEQUENCE else sql.SQL("table {}")
        names: list[sql.Composable] = [sql.Identifier(relation.schema, relation.name) for relation in relations]
        _grant(conn, grantee, word, grantee.privileges(kind), names)
    return (*_missing(conn, place, grantee), *_to_come(conn, place, grantee), *_left_out(place))


def _database(conn: Connection, place: Place, grantee: Grantee) -> None:
    _grant(conn, grantee, sql.SQL("database {}"), grantee.privileges(On.DATABASE), [sql.Identifier(place.database)])


def _by_kind(relations: Sequence[Relation]) -> Iterator[tuple[On, list[Relation]]]:
    for kind, group in groupby(sorted(relations, key=lambda relation: relation.kind), key=lambda relation: relation.kind):
        yield kind, list(group)


def _grant(conn: Connection, grantee: Grantee, place: sql.SQL, wanted: Sequence[str], names: Sequence[sql.Composable]) -> None:
    """Grants on all, and where that is not allowed on each that it is allowed on."""
    if not wanted:
        return
    words = sql.SQL(", ").join(map(sql.SQL, wanted))
    for start in range(0, len(names), CHUNK):
        chunk = names[start : start + CHUNK]
        if not _granted(conn, grantee, place, words, chunk) and len(chunk) > 1:
            for name in chunk:
                _granted(conn, grantee, place, words, [name])


def _granted(conn: Connection, grantee: Grantee, place: sql.SQL, words: sql.Composable, names: Sequence[sql.Composable]) -> bool:
    target = place.format(sql.SQL(", ").join(names))
    return allowed(conn, sql.SQL("grant {} on {} to {}").format(words, target, grantee.identifier)) is None


def allowed(conn: Connection, statement: sql.SQL | sql.Composed) -> str | None:
    """Run one statement of the caller's transaction; why the administrator may not, and then nothing of it has happened."""
    try:
        with conn.transaction():
            conn.execute(statement)
    except errors.InsufficientPrivilege as error:
        return error.diag.message_primary or str(error)
    return None


def _missing(conn: Connection, place: Place, grantee: Grantee) -> Iterator[Open]:
    """The rights that the role has not."""
    lacking: list[tuple[str, str]] = []
    for word in grantee.privileges(On.DATABASE):
        lacking += _lacks(conn, grantee, "has_database_privilege", word, [place.database])
    for word in grantee.privileges(On.SCHEMA):
        lacking += _lacks(conn, grantee, "has_schema_privilege", word, place.schemas)
    for kind, relations in _by_kind(place.relations):
        for word in grantee.privileges(kind):
            lacking += _lacks_on(conn, grantee, _HAS[kind], word, relations)
    for word, pairs in groupby(sorted(lacking), key=lambda pair: pair[0]):
        names = [name for _, name in pairs]
        yield Open(
            what=f"{word.lower()} on {few(names)}",
            why=f"{conn.info.user} may not grant it",
            leaves=f"the agent cannot use it until their owner grants {word.lower()} to {grantee.role}",
        )


def _lacks(conn: Connection, grantee: Grantee, function: str, word: str, names: Sequence[str]) -> list[tuple[str, str]]:
    query = sql.SQL("select n from unnest(%s::text[]) n where not pg_catalog.{}(%s::text, n, %s)").format(
        sql.Identifier(function)
    )
    return [(word, str(name)) for (name,) in conn.execute(query, [list(names), grantee.role, word]).fetchall()]


def _lacks_on(
    conn: Connection, grantee: Grantee, function: str, word: str, relations: Sequence[Relation]
) -> list[tuple[str, str]]:
    query = sql.SQL(
        "select s || '.' || n from unnest(%s::text[], %s::text[]) as x(s, n)"
        " join pg_namespace on nspname = s join pg_class c on relnamespace = pg_namespace.oid and relname = n"
        " where not {}(%s::text, c.oid, %s)"
    ).format(sql.Identifier(function))
    schemas, names = [relation.schema for relation in relations], [relation.name for relation in relations]
    return [(word, str(name)) for (name,) in conn.execute(query, [schemas, names, grantee.role, word]).fetchall()]


def _to_come(conn: Connection, place: Place, grantee: Grantee) -> Iterator[Open]:
    """Default privileges: the same rights on what others make in these schemas from now on."""
    for creator in place.creators:
        if creator == grantee.role:
            continue
        why = default_privileges(conn, place, creator, grantee)
        if why is not None:
            yield Open(
                what=f"tables that {creator} makes from now on in {place.database}",
                why=why,
                leaves="the agent cannot use them until `dbshield agent rotate` has run again",
            )


def default_privileges(conn: Connection, place: Place, creator: str, grantee: Grantee) -> str | None:
    """What `creator` makes from now on; why not."""
    for schema in place.schemas:
        for word, kind in (("tables", On.TABLE), ("sequences", On.SEQUENCE)):
            wanted = grantee.privileges(kind)
            if not wanted:
                continue
            statement = sql.SQL("alter default privileges for role {} in schema {} grant {} on {} to {}").format(
                sql.Identifier(creator),
                sql.Identifier(schema),
                sql.SQL(", ").join(map(sql.SQL, wanted)),
                sql.SQL(word),
                grantee.identifier,
            )
            if (why := allowed(conn, statement)) is not None:
                return why
    return None


def share_what_it_makes(conn: Connection, place: Place, grantee: Grantee) -> tuple[Open, ...]:
    """What an agent that migrates makes from now on belongs to it; those who own the tables beside it, and the other agents, may
    use it as if one of them had made it. No EXECUTE: nobody whom the guard does not hold runs an agent's functions."""
    reasons: list[str | None] = []
    for owner in place.owners:
        if _is_agent(conn, owner):
            continue
        for words, things in (("all", "tables"), ("all", "sequences"), ("all", "schemas")):
            statement = sql.SQL("alter default privileges for role {} grant {} on {} to {}").format(
                grantee.identifier, sql.SQL(words), sql.SQL(things), sql.Identifier(owner)
            )
            reasons.append(allowed(conn, statement))
    for role, access in _other_agents(conn, place, grantee):
        other = Grantee(role=role, access=access, guarded=grantee.guarded)
        reasons.append(default_privileges(conn, place, grantee.role, other))
    why = next((reason for reason in reasons if reason is not None), None)
    if why is None:
        return ()
    return (
        Open(
            what=f"sharing what {grantee.role} makes in {place.database}",
            why=why,
            leaves="the application cannot use a table that this agent makes until somebody grants it",
        ),
    )


def _is_agent(conn: Connection, role: str) -> bool:
    row = conn.execute(
        "select pg_catalog.pg_has_role(oid, pg_catalog.to_regrole(%s), 'member') and not rolsuper"
        " from pg_catalog.pg_roles where rolname = %s",
        [AGENTS, role],
    ).fetchone()
    return bool(row and row[0])


def _other_agents(conn: Connection, place: Place, grantee: Grantee) -> list[tuple[str, AccessLevel]]:
    """The agents that have rights on these schemas, and the level that their rights on the schemas' tables amount to."""
    found = conn.execute(
        "select r.rolname::text, bool_or(coalesce(d.privilege_type = 'INSERT', false)) from pg_catalog.pg_roles r"
        " join (select a.grantee, null as privilege_type from pg_catalog.pg_namespace n, pg_catalog.aclexplode(nspacl) a"
        "       where nspname = any(%(schemas)s) and a.privilege_type = 'USAGE'"
        "       union select a.grantee, a.privilege_type from pg_catalog.pg_class c"
        "       join pg_catalog.pg_namespace n on n.oid = relnamespace, pg_catalog.aclexplode(relacl) a"
        "       where nspname = any(%(schemas)s) and a.privilege_type = 'INSERT') d on d.grantee = r.oid"
        " where not rolsuper and r.rolname <> %(role)s and pg_has_role(r.oid, to_regrole(%(group)s), 'member')"
        " and r.rolcanlogin group by 1 order by 1",
        {"schemas": list(place.schemas), "role": grantee.role, "group": AGENTS},
    ).fetchall()
    return [(str(role), AccessLevel.WRITE if writes else AccessLevel.READ) for role, writes in found]


def _left_out(place: Place) -> Iterator[Open]:
    if place.foreign:
        yield Open(
            what=f"foreign tables: {few(place.foreign)}",
            why="what is written there is in another database, which this guard does not guard",
            leaves="the agent cannot use them; grant select on those that it should read",
        )


def few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
