"""What a role of each access level may do in a protected database, and why: the whole of it.

dbshield gives nothing that does not stand here, and the documentation prints this table. Levels are cumulative: `least` is the
lowest level that has a right. A right that is `guarded` can destroy data by itself, so it is given only where the guard's event
triggers stand in every database of the environment.

Never given, to any level: TRUNCATE, TRIGGER, REFERENCES and MAINTAIN on a table; UPDATE on a sequence (setval); any right on a
foreign table (what is written there is in another database, which this guard does not guard); EXECUTE beyond what PUBLIC has;
ownership; ADMIN on any role; SET or ALTER SYSTEM on a parameter.

Source: PostgreSQL manual, "Privileges" and "Role Membership".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

from dbshield.model import AccessLevel


@unique
class On(StrEnum):
    """What a right is on."""

    DATABASE = "database"
    SCHEMA = "schema"
    TABLE = "table"
    """A table or a partitioned table."""
    VIEW = "view"
    MATERIALIZED_VIEW = "materialized view"
    SEQUENCE = "sequence"
    OWNER = "owner of tables"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One privilege, in PostgreSQL's word, on all objects of these kinds in the schemas named."""

    privilege: str
    on: tuple[On, ...]
    least: AccessLevel
    why: str
    guarded: bool = False


_LEVELS: Final = tuple(AccessLevel)

RIGHTS: Final = (
    Right(
        privilege="CONNECT",
        on=(On.DATABASE,),
        least=AccessLevel.READ,
        why="To log in, also where CONNECT was taken from PUBLIC.",
    ),
    Right(privilege="USAGE", on=(On.SCHEMA,), least=AccessLevel.READ, why="To name what is in the schema."),
    Right(
        privilege="SELECT",
        on=(On.TABLE, On.VIEW, On.MATERIALIZED_VIEW),
        least=AccessLevel.READ,
        why="To query. A reader gets nothing on sequences: reading one's value is no query of data.",
    ),
    *(
        Right(
            privilege=privilege,
            on=(On.TABLE, On.VIEW),
            least=AccessLevel.WRITE,
            why=f"To {what} rows, within the row limit; through a view where the view lets it.",
        )
        for privilege, what in (("INSERT", "add"), ("UPDATE", "change"), ("DELETE", "remove"))
    ),
    Right(
        privilege="USAGE",
        on=(On.SEQUENCE,),
        least=AccessLevel.WRITE,
        why="nextval and currval, which serial columns call. Not UPDATE: setval makes keys collide, and no trigger sees it.",
    ),
    Right(
        privilege="TEMPORARY",
        on=(On.DATABASE,),
        least=AccessLevel.WRITE,
        why="Scratch tables for work in steps. pg_temp stands last in the role's search_path, so none hides a real table.",
    ),
    Right(
        privilege="CREATE",
        on=(On.SCHEMA,),
        least=AccessLevel.MIGRATE,
        why="New tables, views, sequences, types and functions. With a rule, view or operator of its own a role empties tables "
        "that it may only write rows in, so the guard has to stand.",
        guarded=True,
    ),
    Right(
        privilege="CREATE",
        on=(On.DATABASE,),
        least=AccessLevel.MIGRATE,
        why="New schemas, and trusted extensions: the guard lets only those pass that compute.",
        guarded=True,
    ),
    Right(
        privilege="MEMBER",
        on=(On.OWNER,),
        least=AccessLevel.MIGRATE,
        why="ADD COLUMN, CREATE INDEX, new constraints and partitions, COMMENT, ANALYZE and REFRESH: PostgreSQL lets only the "
        "owner of a table do these. The membership is inherited and, on 16 and later, without SET. It would let the "
        "agent drop the table as well; the guard's event triggers are what stops it.",
        guarded=True,
    ),
)


def rights_of(access: AccessLevel, *, guarded: bool) -> tuple[Right, ...]:
    """The rights of a level; those that need the guard only where it stands."""
    return tuple(
        right for right in RIGHTS if _LEVELS.index(access) >= _LEVELS.index(right.least) and (guarded or not right.guarded)
    )


def privileges(access: AccessLevel, on: On, *, guarded: bool) -> tuple[str, ...]:
    """The privileges of a level on objects of one kind, in the order of the table."""
    return tuple(right.privilege for right in rights_of(access, guarded=guarded) if on in right.on)
