"""The files of the guard in the order in which they are installed, and what each of them closes.

A step is the content of one file in `sql/`, whole. Installing is running the steps in one transaction; printing them is what
`--dry-run` does. Nothing here talks to a database.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from dbshield.store.resources import data_folder

VERSION: Final = 6
"""Of what is installed, higher with every change of it; a database that has a higher one was installed by a newer dbshield.

1: the triggers' condition named the group of agents by its number. 2: by its name. 3: foreign tables
are guarded, and what others' statements run into (row security, foreign keys that take rows with them, an agent's own functions)
is not put on tables that were there. 4: proxies are told of triggers, rules, policies and tables as well as of functions.
5: nothing that an agent makes calls a function of an agent's, or hides what others name. A table is guarded for its parts.
6: a column may take NULL from now on, and a default that a savepoint of the same transaction gave may go again."""

OLDEST: Final = 15
"""The oldest server: pg_stat_force_next_flush, on which the row guard rests, came with 15."""
LOGIN_SINCE: Final = 17
"""Event triggers on login came with 17."""

AGENTS: Final = "dbshield_agents"
OWNER: Final = "dbshield_owner"
SCHEMA: Final = "dbshield"
EVERY_SCHEMA: Final = "*"
DEFAULT_LIMIT: Final = 100
"""Rows in a transaction, as in sql/40_rows.sql."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One file. `without` says what stays open where it could not be run; `superuser` steps are for a superuser alone, or for
    the role of a managed service that may create event triggers. `needed` steps are what the later ones stand on."""

    file: str
    title: str
    without: str
    since: int = OLDEST
    superuser: bool = False
    needed: bool = False

    @property
    def sql(self) -> str:
        return (data_folder("sql") / self.file).read_text(encoding="utf-8")


STEPS: Final = (
    Step(
        file="10_roles.sql",
        title="the roles dbshield_agents and dbshield_owner",
        without="no role counts as an agent until an administrator runs `create role dbshield_agents nologin` and the "
        "guard is installed again",
    ),
    Step(file="20_schema.sql", title="the schema of the guard", without="nothing can be installed", needed=True),
    Step(file="30_agents.sql", title="who is an agent", without="nothing can be installed", needed=True),
    Step(file="40_rows.sql", title="the row guard and the truncate guard", without="nothing can be installed", needed=True),
    Step(file="45_code.sql", title="which code agents may have others run", without="nothing can be installed", needed=True),
    Step(file="50_ddl.sql", title="what agents may do to the structure", without="nothing can be installed", needed=True),
    Step(
        file="60_new_tables.sql",
        title="guarding new tables",
        without="tables that are made from now on are not guarded until `dbshield guard install` runs again",
        superuser=True,
    ),
    Step(
        file="70_event_triggers.sql",
        title="the event triggers",
        without="an agent that owns objects, or is a member of a role that does, can drop, alter and replace them, and take the "
        "guard's triggers off its tables: let no agent own anything",
        superuser=True,
    ),
    Step(
        file="75_login.sql",
        title="the event trigger on login",
        without="an agent's role can log in from everywhere that pg_hba.conf allows",
        since=LOGIN_SINCE,
        superuser=True,
    ),
    Step(
        file="catalogue_notify.sql",
        title="telling the proxies of changed functions, triggers and tables",
        without="a proxy learns of changed functions, triggers and tables within 30 seconds instead of at once",
        superuser=True,
    ),
    Step(
        file="90_owner.sql",
        title="handing the guard to dbshield_owner",
        without="the guard belongs to the role that installed it: whoever can become that role can remove the guard",
        superuser=True,
    ),
)

EVENT_TRIGGERS: Final = {
    "dbshield_ddl_start": ("ddl_command_start", "ddl_start", OLDEST),
    "dbshield_ddl_end": ("ddl_command_end", "ddl_end", OLDEST),
    "dbshield_dropped": ("sql_drop", "dropped", OLDEST),
    "dbshield_rewritten": ("table_rewrite", "rewritten", OLDEST),
    "dbshield_new_tables": ("ddl_command_end", "guard_new_tables", OLDEST),
    "dbshield_login": ("login", "logged_in", LOGIN_SINCE),
    "dbshield_catalogue_changed": ("ddl_command_end", "catalogue_changed", OLDEST),
    "dbshield_catalogue_dropped": ("sql_drop", "catalogue_changed", OLDEST),
}
"""Each by its name: the event, the function in the schema dbshield, and the oldest server that has it."""


@cache
def shipped() -> tuple[tuple[Step, str], ...]:
    """Every step with its text."""
    return tuple((step, step.sql) for step in STEPS)
