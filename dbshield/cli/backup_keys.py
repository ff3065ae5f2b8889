"""`dbshield backup key` and `dbshield backup setup`: what has to be there before the first snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbshield.backup import canary, sealing
from dbshield.backup.catalogue import Catalogue
from dbshield.backup.keys import SigningKey
from dbshield.backup.run import key_file, plan_named
from dbshield.backup.source import Source, told
from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import open_database, person, read_settings
from dbshield.cli.output import answer, say
from dbshield.config import conninfo
from dbshield.config.secret import read_secret
from dbshield.control import audit_store
from dbshield.errors import BackupError, ConfigError

PlanOption = Annotated[
    str | None, typer.Option("--plan", "-p", metavar="NAME", help="The plan, [backup.NAME] in dbshield.toml; else the only one.")
]


def key(
    identity: Annotated[
        Path | None, typer.Option("--identity", metavar="FILE", help="Make an age identity in this new file as well.")
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make this machine's signing key, unless there is one, and let the control database know its public half.

    With --identity, also make the key pair that snapshots are sealed with: FILE is what restores them, and belongs on no machine
    that makes backups.

    \b
    Examples:
      dbshield backup key
      dbshield backup key --identity /media/key/identity.txt
    """
    settings = read_settings(config)
    path = key_file(settings)
    recipient = _new_identity(identity) if identity is not None else None
    try:
        signing, made = (SigningKey.load(path), False) if path.exists() else (SigningKey.create(path), True)
    except OSError as error:
        raise BackupError(
            f"the signing key {path} cannot be made: {error.strerror}", hint="`dbshield init` makes the state folder."
        ) from error
    with open_database(settings) as database:
        new = Catalogue(database).trust(signing, by=person())
        if new:
            audit_store.record(database, kind="backup-key-trusted", key=signing.name, person=person())
    if json:
        answer({"key": signing.name, "public_key": signing.public_text, "file": str(path), "made": made, "recipient": recipient})
        return
    say(f"{path}: {'made' if made else 'kept'}; its name is {signing.name}")
    say(f"public key: {signing.public_text}")
    say("Keep the public key where the control database's loss does not reach it: it proves which snapshots are ours.")
    if recipient is not None:
        say(f"\n{identity}: made. Take it off this machine; without it nothing sealed can be restored, with it everything can.")
        say(f'In dbshield.toml: encrypt_to = ["{recipient}"]')


def setup(
    *,
    plan: PlanOption = None,
    dsn: Annotated[
        str | None, typer.Option("--dsn", metavar="DSN", help="Connect as this administrator, without a password in it.")
    ] = None,
    password_env: Annotated[str, typer.Option("--password-env", metavar="VARIABLE", help="Where its password is.")] = "",
    dry: Annotated[bool, typer.Option("--dry-run", help="Print the SQL and change nothing.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make the canary's table in the first database of a plan: a restore is proved by a row written right before the snapshot.

    \b
    Example:
      dbshield backup setup --plan nightly --dsn postgresql://postgres@db.example.com/shop
    """
    settings = read_settings(config)
    name, chosen = plan_named(settings, plan)
    source = Source.of(chosen, settings.environments[chosen.environment or name])
    role, database = source.server().user, source.databases[0]
    if dry:
        say(canary.statements(role))
        return
    if dsn is not None:
        if conninfo.password(dsn) is not None:
            raise ConfigError("--dsn holds a password", hint="Use --password-env VARIABLE, PGPASSWORD or a .pgpass file.")
        base = conninfo.with_password(dsn, read_secret("--password-env", file=None, variable=password_env))
        source = Source(base=base, databases=source.databases)
    with source.connect(database) as connection, told("the canary's table"):
        canary.set_up(connection, role)
    if json:
        answer({"plan": name, "database": database, "role": role, "table": "dbshield_backup.canary"})
    else:
        say(f"{database}: dbshield_backup.canary stands, and {role} may write it.")


def _new_identity(path: Path) -> str:
    try:
        return sealing.new_identity(path)
    except OSError as error:
        raise BackupError(f"{path} cannot be made: {error.strerror}", hint="Name a new file.") from error
