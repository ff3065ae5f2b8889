"""Which cluster a server is, and which environment it says it is: what keeps staging's agents out of production.

A system identifier is made once, by initdb; a promoted standby has its primary's. The guard's own word stands as the comment on
its schema, because agents' roles can read that and nothing else of it. Only the schema's owner changes it.

Source: PostgreSQL manual, "Control Data Functions" and "Comment Information Functions".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dbshield.errors import Refused

IDENTITY_QUERY: Final = (
    "select system_identifier::pg_catalog.text,"
    " pg_catalog.obj_description(pg_catalog.to_regnamespace('dbshield')::pg_catalog.oid, 'pg_namespace')"
    " from pg_catalog.pg_control_system()"
)
"""Any role may ask, unless somebody took EXECUTE from PUBLIC."""
MARK: Final = "dbshield guard of the environment "
WRONG_SERVER: Final = "08004"
"""sqlserver_rejected_establishment_of_sqlconnection: what is at the address is not what is meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A cluster, and the environment that the guard in the database was installed for; empty where there is none."""

    system_identifier: int
    environment: str = ""


def mark(environment: str) -> str:
    """The comment on the guard's schema."""
    return f"{MARK}{environment}"


def read_identity(rows: Sequence[Sequence[str | None]]) -> Identity:
    """What IDENTITY_QUERY gave. Raises Refused where it tells no cluster."""
    try:
        identifier, comment = rows[0]
        number = int(identifier or "")
    except (IndexError, ValueError) as error:
        raise Refused(
            "the server does not tell which cluster it is", sqlstate=WRONG_SERVER, hint="dbshield needs pg_control_system()."
        ) from error
    named = comment.removeprefix(MARK) if comment is not None and comment.startswith(MARK) else ""
    return Identity(system_identifier=number, environment=named)
