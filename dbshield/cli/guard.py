"""`dbshield guard`: the second defence, inside the protected database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import psycopg
import typer
from psycopg.conninfo import make_conninfo

from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import AnyEnvironmentOption, now, open_database, person, read_settings
from dbshield.cli.output import answer, headline, remark, say, table
from dbshield.config import conninfo
from dbshield.config.secret import read_secret
from dbshield.control.audit_store import record
from dbshield.control.pins import Pins
from dbshield.errors import ConfigError, DbshieldError, StoreError
from dbshield.guard.identity import IDENTITY_QUERY, Identity, read_identity
from dbshield.guard.install import Connection, Installed, Options, dry_run, install, uninstall
from dbshield.guard.status import NOTHING, status
from dbshield.guard.steps import EVERY_SCHEMA, VERSION
from dbshield.guard.verify import Problem, verify

CONNECT_TIMEOUT = 15
"""Seconds, as the proxy's login_timeout."""

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Install, check and remove the guard in a database."
)

DsnOption = Annotated[
    str | None,
    typer.Option("--dsn", metavar="DSN", help="Connect as this administrator, no password in it; else as dbshield.toml says."),
]
PasswordOption = Annotated[str, typer.Option("--password-env", metavar="VARIABLE", help="Where the password for --dsn is.")]


@app.callback()
def group() -> None:
    """Install, check and remove the guard in a database."""


@app.command("install")
def install_(
    *,
    environment: AnyEnvironmentOption = None,
    dsn: DsnOption = None,
    password_env: PasswordOption = "",
    schemas: Annotated[
        str, typer.Option("--schemas", metavar="A,B", help="Guard the tables of these schemas; else of all.")
    ] = EVERY_SCHEMA,
    proxy_address: Annotated[
        list[str] | None,
        typer.Option("--proxy-address", metavar="CIDR", help='Let agents log in from here alone (17+); "socket" for a socket.'),
    ] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Print the SQL and change nothing.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Install the guard, or bring it to this version, in one transaction per database. It can be said again and again.

    As a superuser everything is installed; as the owner of the tables, what the owner may, and the rest is listed with what it
    leaves open. Make a role an agent with: grant dbshield_agents to ROLE.

    \b
    Examples:
      dbshield guard install --environment staging --dsn postgresql://postgres@db.example.com/shop
      dbshield guard install -e production --schemas shop,billing --proxy-address 10.0.0.7/32 --dry-run
    """
    if environment is None:
        raise ConfigError("--environment is missing: the guard writes down what it protects", hint="Add --environment NAME.")
    options = Options(
        environment=environment,
        schemas=tuple(dict.fromkeys(part.strip() for part in schemas.split(",") if part.strip())),
        addresses=tuple(dict.fromkeys(proxy_address or ())),
    )
    if not options.schemas:
        raise ConfigError("--schemas names none", hint="Write --schemas shop,billing, or leave it away for all.")
    done: list[Installed] = []
    identity: Identity | None = None
    for conn in connections(config, environment, dsn, password_env):
        with told(), conn:
            if dry:
                say(dry_run(conn, options).rstrip())
                continue
            made = install(conn, options)
            identity = read_identity(conn.execute(IDENTITY_QUERY).fetchall())
        done.append(made)
        _record(config, environment, made.database, "installed" if made.previous is None else "brought to this version")
        if not json:
            _show_installed(made)
    if identity is not None:
        _pin(config, environment, identity)
    if json and not dry:
        answer([_installed_fields(made) for made in done])


def _installed_fields(made: Installed) -> dict[str, Any]:
    return {
        "database": made.database,
        "version": VERSION,
        "previous": made.previous,
        "guarded": made.guarded,
        "open": [{"what": left.what, "why": left.why, "leaves": left.leaves} for left in made.open],
    }


def _show_installed(made: Installed) -> None:
    say(f"{made.database}: version {VERSION} of the guard stands, {made.guarded} more tables are guarded.")
    for left in made.open:
        say(f"  not installed: {left.what} ({left.why})")
        say(f"    leaves open: {left.leaves}")


@app.command("status")
def status_(
    environment: AnyEnvironmentOption = None,
    dsn: DsnOption = None,
    password_env: PasswordOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show for each danger which layer closes it: an event trigger, a privilege, the row guard, or nothing.

    \b
    Example:
      dbshield guard status --environment staging
    """
    found: list[dict[str, Any]] = []
    for conn in connections(config, environment, dsn, password_env):
        with told(), conn:
            lines, problems = status(conn)
            database = conn.info.dbname
        found.append(
            {
                "database": database,
                "dangers": [{"danger": line.danger, "layer": line.layer, "detail": line.detail} for line in lines],
                "problems": [problem.what for problem in problems],
            }
        )
        if not json:
            say(f"{database}:")
            rows = [(line.danger, "no" if line.layer == NOTHING else line.layer, line.detail) for line in lines]
            table(("danger", "closed by", "detail"), rows, empty="")
            if problems:
                remark(f"{len(problems)} things are not as they were installed; `dbshield guard verify` names them.")
    if json:
        answer(found)


@app.command("verify")
def verify_(
    environment: AnyEnvironmentOption = None,
    dsn: DsnOption = None,
    password_env: PasswordOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare what is installed with what is shipped, by content. Exit code 1 where anything differs, with what to do.

    \b
    Example:
      dbshield guard verify --environment production --json
    """
    found: list[tuple[str, tuple[Problem, ...]]] = []
    for conn in connections(config, environment, dsn, password_env):
        with told(), conn:
            found.append((conn.info.dbname, verify(conn)))
    if json:
        answer(
            [
                {"database": name, "problems": [{"what": problem.what, "mend": problem.mend} for problem in problems]}
                for name, problems in found
            ]
        )
    else:
        for name, problems in found:
            if not problems:
                say(f"{name}: the guard is as it was shipped.")
            for problem in problems:
                headline("no", f"  {name}: {problem.what}")
                say(f"    {problem.mend}")
    if any(problems for _, problems in found):
        raise typer.Exit(1)


@app.command("uninstall")
def uninstall_(
    environment: AnyEnvironmentOption = None,
    dsn: DsnOption = None,
    password_env: PasswordOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Remove the guard and everything that belongs to it. The roles go with the last database that has one.

    \b
    Example:
      dbshield guard uninstall --environment staging
    """
    found: list[dict[str, Any]] = []
    for conn in connections(config, environment, dsn, password_env):
        with told(), conn:
            stays = uninstall(conn)
            found.append({"database": conn.info.dbname, "stays": stays})
            _record(config, environment, conn.info.dbname, "removed")
            if not json:
                say(f"{conn.info.dbname}: the guard is removed.")
                for sentence in stays:
                    say(f"  {sentence}")
    if json:
        answer(found)


def _record(config: Any, environment: str | None, database: str, change: str) -> None:
    """Into the audit, where the environment is configured here. The guard is what it is now in any case."""
    try:
        settings = read_settings(config)
        if environment not in settings.environments:
            return
        with open_database(settings) as control:
            record(
                control,
                kind="guard-changed",
                environment=environment,
                database=database,
                change=change,
                version=VERSION,
                person=person(),
            )
    except DbshieldError as error:
        remark(f"the audit does not know of it, because {error.message}")


def _pin(config: Any, environment: str, identity: Identity) -> None:
    """Pin the environment to this cluster, where it is configured here and nothing is pinned. The guard stands in any case."""
    try:
        settings = read_settings(config)
        if environment not in settings.environments:
            return
        with open_database(settings) as database:
            pins = Pins(database, settings.environments)
            before = pins.pin(environment, system_identifier=identity.system_identifier, by=person(), now=now(), only_first=True)
    except DbshieldError as error:
        remark(f"{environment} was not pinned to this cluster, because {error.message}")
        return
    if before not in {None, identity.system_identifier}:
        remark(
            f"{environment} stays pinned to the cluster {before}, and this is {identity.system_identifier}: proxies refuse it"
            f" until you say `dbshield environment pin {environment}`."
        )


def connections(config: Any, environment: str | None, dsn: str | None, password_env: str) -> Iterator[Connection]:
    """A connection to each database that is meant: the one in --dsn, else all of the environment."""
    if dsn is None and environment is None:
        raise ConfigError("neither --environment nor --dsn is given", hint="Say which database: --environment NAME or --dsn DSN.")
    if dsn is None:
        settings = read_settings(config)
        known = settings.environments.get(environment or "")
        if known is None:
            raise ConfigError(f'there is no environment "{environment}"', hint="`dbshield environment list` shows them.")
        base, databases, password = known.upstream, known.databases, None
        if known.administrator:
            base, password = known.administrator, known.administrator_password()
        else:
            password = known.password()
    else:
        try:
            if conninfo.password(dsn) is not None:
                raise ConfigError(
                    "--dsn holds a password, which everybody on this machine can read in the list of processes",
                    hint="Use --password-env VARIABLE, PGPASSWORD or a .pgpass file.",
                )
            databases = (conninfo.database(dsn),)
        except ValueError as error:
            raise ConfigError(f"--dsn {error}") from None
        base, password = dsn, read_secret("--password-env", file=None, variable=password_env)
    for database in databases:
        yield from _connected(base, database, password)


def _connected(base: str, database: str, password: str | None) -> Iterator[Connection]:
    with told():
        target = conninfo.with_password(make_conninfo(base, **({"dbname": database} if database else {})), password)
        conn: Connection = psycopg.connect(
            target, autocommit=True, connect_timeout=CONNECT_TIMEOUT, application_name="dbshield guard"
        )
    yield conn


@contextmanager
def told() -> Iterator[None]:
    """What the server says, as an error that a person can act on."""
    try:
        yield
    except DbshieldError:
        raise
    except psycopg.OperationalError as error:
        raise StoreError(
            f"the database does not do it: {str(error).strip()}",
            hint="See that it runs and is reached, and where the role's password is: --password-env, PGPASSWORD or .pgpass.",
        ) from error
    except psycopg.Error as error:
        hint = "Nothing was changed."
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            hint += " Connect as an administrator: --dsn DSN --password-env VARIABLE, or administrator in dbshield.toml."
        raise StoreError(f"the database does not do it: {str(error).strip()}", hint=hint) from error
