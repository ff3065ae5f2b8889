"""`dbshield init`: everything that has to be there before the first agent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import read_settings
from dbshield.cli.output import answer, remark, say
from dbshield.config import Config, check_name, conninfo, find_config
from dbshield.config.load import FILE_NAME
from dbshield.config.text import template
from dbshield.control.connection import control_dsn
from dbshield.control.setup import make_key, make_state, make_tables
from dbshield.errors import ConfigError
from dbshield.new_file import write_new
from dbshield.store.database import Database
from dbshield.store.downgrade import downgrade


def init(
    *,
    environment: Annotated[
        str, typer.Option("--environment", "-e", metavar="NAME", help="Name of the first protected database.")
    ] = "",
    upstream: Annotated[str, typer.Option("--upstream", metavar="URL", help="Its server, without a password.")] = "",
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE", help="The password of the role in URL.")
    ] = None,
    password_env: Annotated[str, typer.Option("--password-env", metavar="VARIABLE", help="The same, in a variable.")] = "",
    downgrade_to: Annotated[
        str, typer.Option("--downgrade-to", metavar="REVISION", help="Only take the tables back, for an older dbshield.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="With --downgrade-to: lose what only newer revisions have.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write a commented dbshield.toml, make the state folder and its key, and bring the control database up to date.

    What is there already is kept, so this is also what to run after an upgrade.

    \b
    Examples:
      dbshield init
      dbshield init --environment staging --upstream postgresql://dbshield@db.example.com/shop --password-file /run/secrets/shop
      dbshield init --downgrade-to 0012
    """
    if downgrade_to:
        _downgrade(downgrade_to, yes, json, config)
        return
    given = _settings(environment, upstream, password_file, password_env)
    path, written = _file(config, environment, given)
    settings = read_settings(path)
    new_state, new_key = make_state(settings), make_key(settings.secret_key)
    with control_dsn(settings) as dsn:
        before, registered = make_tables(settings, dsn)
    if json:
        answer(
            {
                "config": str(path),
                "config_written": written,
                "state": str(settings.state),
                "key_made": new_key,
                "revision_before": before,
                "environments_registered": registered,
            }
        )
        return
    for sentence in settings.remarks():
        remark(f"remark: {sentence}")
    say(f"{path}: {'written' if written else 'kept as it is'}")
    say(f"{settings.state}: {'made' if new_state else 'kept'}; {settings.secret_key}: {'made' if new_key else 'kept'}")
    say(
        f"control database ({'embedded' if settings.control.embedded else 'by URL'}): {'new' if before is None else 'up to date'}"
    )
    _say_what_is_next(settings, path)


def _say_what_is_next(settings: Config, path: Path) -> None:
    if settings.environments:
        name = next(iter(settings.environments))
        say(f"\nNext: dbshield agent create NAME --environment {name} --access read, then dbshield up")
    else:
        say(f"\nNext: describe the database to protect in {path}, then run `dbshield init` again.")


def _downgrade(revision: str, yes: bool, json: bool, config: Path | None) -> None:
    with control_dsn(read_settings(config)) as dsn:
        database = Database(dsn)
        try:
            before = downgrade(database, revision, lose=yes)
        finally:
            database.close()
    if json:
        answer({"revision_before": before.current, "revision": revision})
    else:
        say(f"control database: revision {revision}, before {before.current}. Install the older dbshield before you start it.")


def _settings(environment: str, upstream: str, password_file: Path | None, password_env: str) -> dict[str, object]:
    """What the options say of the first environment; empty where they name none. Raises ConfigError."""
    if bool(environment) != bool(upstream):
        raise ConfigError("--environment and --upstream go together", hint="Give both, or neither and edit dbshield.toml.")
    if (password_file is not None or password_env) and not environment:
        raise ConfigError("a password was given without --environment and --upstream", hint="Give them as well.")
    if not environment:
        return {}
    try:
        check_name(environment)
        conninfo.to_upstream(upstream)
    except ValueError as error:
        raise ConfigError(f"--environment {environment} --upstream: {error}") from None
    if conninfo.password(upstream) is not None:
        raise ConfigError(
            "--upstream has a password in it", hint="Take it out, and give it with --password-file or --password-env."
        )
    given: dict[str, object] = {"upstream": upstream}
    if password_file is not None:
        given["password_file"] = str(password_file.absolute())
    if password_env:
        given["password_env"] = password_env
    return given


def _file(wanted: Path | None, environment: str, given: dict[str, object]) -> tuple[Path, bool]:
    """The file to use, and whether it was written now. Never over another one."""
    existing = find_config() if wanted is None else wanted if os.path.exists(wanted) else None
    if existing is not None:
        if environment:
            raise ConfigError(f"{existing} is there and is not written over", hint=f"Add [environments.{environment}] to it.")
        return existing, False
    path = wanted if wanted is not None else Path(FILE_NAME)
    try:
        write_new(path, template(environment, given), mode=0o644)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    return path, True
