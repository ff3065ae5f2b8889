"""Takes the control database's tables back to an earlier revision, for an older dbshield.

What only later revisions have goes with it. So it is looked at what that would be before anything is kept: a downgrade that loses
rows or columns in use is taken back unless somebody agreed to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from dbshield.errors import StoreError
from dbshield.store.database import Database, Revision
from dbshield.store.resources import data_folder
from dbshield.store.schema import SCHEMA

TABLES = """
    select relname::text, array(
        select attname::text from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped order by attnum
    ) from pg_class c
    where relnamespace = to_regnamespace(:schema) and relkind in ('r', 'p') and not relispartition
        and relname <> 'alembic_version' order by 1
"""
MADE_AGAIN = frozenset({"served_configurations"})
"""Tables whose rows are no loss: the next start makes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What a table has: how many rows, and which columns."""

    rows: int
    columns: tuple[str, ...]


def downgrade(database: Database, revision: str, *, lose: bool) -> Revision:
    """Back to `revision`, in one transaction; what there was before. No part of dbshield may run meanwhile.

    StoreError where `revision` is no earlier one, or where rows or columns in use would go and `lose` does not agree.
    """
    from alembic import command  # noqa: PLC0415  (a third of a second that nobody else needs)
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    before = database.revision()
    config = Config()
    config.set_main_option("script_location", str(data_folder("migrations")).replace("%", "%%"))
    before.require()
    earlier = sorted(each.revision for each in ScriptDirectory.from_config(config).walk_revisions())[:-1]
    if revision not in earlier:
        raise StoreError(f'"{revision}" is no revision before {before.current}', hint=f"There are {earlier[0]} to {earlier[-1]}.")
    with database.transaction() as connection:
        had = _tables(connection)
        config.attributes["connection"] = connection
        try:
            command.downgrade(config, revision)
        except DBAPIError as error:
            raise StoreError(
                f"the control database could not be taken back: {error.orig}", hint="Stop every part of dbshield first."
            ) from error
        if (lost := _lost(had, _tables(connection))) and not lose:
            raise StoreError(
                f"revision {revision} has no place for {', '.join(lost)}; nothing was changed",
                hint="Keep a dump of the control database, and say --yes to lose them.",
            )
    return before


def _tables(connection: Connection) -> dict[str, Table]:
    found = {}
    for name, columns in connection.execute(text(TABLES), {"schema": SCHEMA}).all():
        rows = connection.scalar(text(f"select count(*) from {SCHEMA}.{name}"))  # noqa: S608  (a name of the catalogue's)
        found[name] = Table(rows=rows or 0, columns=tuple(columns))
    return found


def _lost(had: dict[str, Table], has: dict[str, Table]) -> list[str]:
    """What had rows and is not there any more, in words."""
    lost = []
    for name, table in had.items():
        if name in MADE_AGAIN:
            continue
        now = has.get(name, Table(rows=0, columns=table.columns))
        if table.rows > now.rows:
            lost.append(f"{table.rows - now.rows} rows of {name}")
        elif table.rows:
            lost += [f"the column {name}.{column}" for column in table.columns if column not in now.columns]
    return lost
