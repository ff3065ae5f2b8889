"""What pgBackRest's own configuration says about where things are, as far as dbshield has to know.

Only two facts are read: the folder of a repository on this machine, and that of the server's data. What opens the repository is
pgBackRest's business alone.

Source: pgBackRest's configuration reference (repo-path, repo-type, repo-host, pg-path, "Config Section"), its user guide on
environment variables.
"""

from __future__ import annotations

import configparser
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dbshield.cluster.account import Account
from dbshield.config import BackupConfig
from dbshield.errors import ConfigError

PLACES = (Path("/etc/pgbackrest/pgbackrest.conf"), Path("/etc/pgbackrest.conf"))
INCLUDED = Path("/etc/pgbackrest/conf.d")
DEFAULT_REPOSITORY = "/var/lib/pgbackrest"
PREFIX = "PGBACKREST_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """`repository` is its folder where it is on this machine; `elsewhere` when it is not. `data` is the server's, if it is here.

    Where neither is known, the configuration could not be read.
    """

    repository: Path | None
    elsewhere: bool
    data: Path | None


def place(plan: BackupConfig, variables: Mapping[str, str]) -> Place:
    """What the configuration of a plan says. `variables` are those that pgBackRest gets. Raises ConfigError."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",), allow_no_value=True)
    files = [plan.pgbackrest_config] if plan.pgbackrest_config is not None else [*PLACES, *sorted(INCLUDED.glob("*.conf"))]
    try:
        read = parser.read(files, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        # Without its text, which may hold a passphrase.
        raise ConfigError("pgBackRest's configuration cannot be read", hint="Look at pgbackrest_config.") from None
    if plan.pgbackrest_config is not None and not read:
        raise ConfigError(f"pgbackrest_config {plan.pgbackrest_config} cannot be read", hint="Name a file that is there.")

    def said(option: str) -> str:
        variable = PREFIX + option.upper().replace("-", "_")
        found = variables.get(variable, "")
        for section in (f"{plan.stanza}:backup", plan.stanza, "global:backup", "global"):
            found = found or (parser.get(section, option, fallback="") or "")
        return found.strip()

    repository = f"repo{plan.pgbackrest_repository}"
    elsewhere = said(f"{repository}-type") not in {"", "posix", "cifs"} or bool(said(f"{repository}-host"))
    data = said("pg1-path") if not said("pg1-host") else ""
    return Place(
        repository=None if elsewhere else Path(said(f"{repository}-path") or DEFAULT_REPOSITORY),
        elsewhere=elsewhere,
        data=Path(data) if data else None,
    )


def account(plan: BackupConfig, where: Place) -> Account | None:
    """Whom pgBackRest runs as where we are root: its files must stay readable to the server's archive_command. None: ourselves.

    Raises ConfigError where there is no such account.
    """
    if os.geteuid() != 0:
        return None
    if plan.pgbackrest_account:
        try:
            entry = pwd.getpwnam(plan.pgbackrest_account)
        except KeyError as error:
            raise ConfigError(
                f'pgbackrest_account names "{plan.pgbackrest_account}", and there is no such account',
                hint="Mostly it is postgres.",
            ) from error
        return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid, lent=True)
    for folder in (where.data, where.repository):
        try:
            if folder is not None:
                owner = folder.stat()
                return Account(name=str(owner.st_uid), uid=owner.st_uid, gid=owner.st_gid, lent=True)
        except OSError:
            continue
    return None
