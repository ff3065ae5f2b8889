"""The page about what an agent's database role may do, made from `dbshield.guard.roles_rights`."""

from __future__ import annotations

from dbshield.guard.roles_rights import RIGHTS, Right

INTRODUCTION = """\
# Rights of agents' roles

Made from the code by `make docs`; do not edit.

What the role has that `dbshield agent create` makes, on everything that is in the schemas named and on what comes later. Levels
are cumulative: `write` has what `read` has, `migrate` has both. A right that needs the guard is given only while the guard stands
whole in every database of the environment; `dbshield agent rotate` gives it later.
"""

NEVER = """\
Never given: TRUNCATE, TRIGGER, REFERENCES and MAINTAIN on a table; UPDATE on a sequence (`setval`); anything on a foreign table;
EXECUTE beyond what everybody has; ownership; ADMIN on a role; SET or ALTER SYSTEM on a parameter; SUPERUSER, CREATEDB,
CREATEROLE, REPLICATION and BYPASSRLS. [The how-to](../how-to/agents-roles.md) says how such a role is made, rotated and removed.
"""


def rights_page() -> str:
    """A table, one right a line."""
    lines = [INTRODUCTION, "| right | on | from | needs | why |", "|---|---|---|---|---|", *map(_line, RIGHTS), "", NEVER]
    return "\n".join(lines)


def _line(right: Right) -> str:
    things = ", ".join(right.on)
    return f"| {right.privilege} | {things} | `{right.least}` | {'guard' if right.guarded else ''} | {right.why} |"
