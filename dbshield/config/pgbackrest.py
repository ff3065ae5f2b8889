"""What a plan of the engine pgbackrest says besides; a section's part of [backup.NAME].

Where the repository is and what opens it stands in pgBackRest's own configuration, or in PGBACKREST_… variables: of the
environment, or of the plan's credentials_file.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from dbshield.config.base import OptionalPath, Section

_STANZA = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def _stanza(text: str) -> str:
    if text and _STANZA.fullmatch(text) is None:
        raise ValueError("is no name of a stanza: letters, digits and _.-")
    return text


class PgBackRestConfig(Section):
    """Settings of the engine pgbackrest."""

    stanza: Annotated[str, AfterValidator(_stanza)] = Field(
        default="", description="pgbackrest: the stanza, as in pgBackRest's configuration"
    )
    pgbackrest_config: OptionalPath = Field(
        default=None, description="pgbackrest: its configuration file; empty: where pgBackRest looks by itself"
    )
    pgbackrest_type: Literal["full", "diff", "incr"] = Field(
        default="incr", description="pgbackrest: the type of backup; the first of a stanza is always full"
    )
    pgbackrest_repository: int = Field(
        default=1, ge=1, le=256, description="pgbackrest: the number of the repository, as in repo1-path"
    )
    pgbackrest_program: OptionalPath = Field(default=None, description="pgbackrest: the program; empty: pgbackrest in the PATH")
    pgbackrest_account: str = Field(
        default="",
        description="pgbackrest: the account that it runs as where dbshield is root; empty: that of the server's data folder",
    )
