"""`dbshield alerts`: what people were told, trying a channel, and the watch that tells them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Annotated, Literal

import typer

from dbshield.cli.beside import beside, told_by_signals
from dbshield.cli.break_glass import end_due
from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import open_database, read_settings
from dbshield.cli.output import answer, headline, say, table, visible
from dbshield.config import Config, load_config, near
from dbshield.control.alert_send import send
from dbshield.control.alert_store import AlertStore
from dbshield.control.alerts import Watch
from dbshield.control.connection import control_dsn
from dbshield.control.logs import configure_logging
from dbshield.errors import ConfigError
from dbshield.store.database import Database

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="List alerts, try a channel, and tell people."
)


@app.callback()
def group() -> None:
    """List alerts, try a channel, and tell people."""


@app.command("list")
def list_(
    *,
    channel: Annotated[str | None, typer.Option("--channel", metavar="NAME", help="Of this channel alone.")] = None,
    state: Annotated[Literal["pending", "sent", "failed"] | None, typer.Option("--state", help="In this state alone.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="The newest so many.")] = 50,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List what people were told or are about to be, the newest last, and what became of it.

    \b
    Examples:
      dbshield alerts list --state pending
      dbshield alerts list --channel team -n 500 --json
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        found = AlertStore(database, settings.alerts).list_(channel=channel, state=state, limit=limit)
    if json:
        answer(
            [
                {
                    "id": one.id,
                    "channel": one.channel,
                    "event": one.event,
                    "environment": one.environment,
                    "title": one.title,
                    "body": one.body,
                    "count": one.count,
                    "first_at": one.first_at,
                    "last_at": one.last_at,
                    "state": one.state,
                    "attempts": one.attempts,
                    "ended_at": one.ended_at,
                    "error": one.error,
                }
                for one in found
            ]
        )
        return
    table(
        ("when", "channel", "event", "count", "state", "tries", "what"),
        [(one.last_at, one.channel, one.event, one.count, one.state, one.attempts, one.title + _why(one.error)) for one in found],
        empty="Nobody was told anything." if settings.alerts else "No channel is configured; add [alerts.NAME] to dbshield.toml.",
    )


@app.command("test")
def try_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The channel, as in dbshield.toml.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Send a message by a channel now. Exit code 1 where it does not arrive.

    \b
    Example:
      dbshield alerts test team
    """
    settings = read_settings(config)
    channel = settings.alerts.get(name)
    if channel is None:
        close = near(name, settings.alerts)
        hint = f'Did you mean "{close}"?' if close else "Add it to dbshield.toml: [alerts.NAME]."
        raise ConfigError(f'the channel "{name}" is not configured', hint=hint)
    body = f"This is a test of the channel {name}, by {socket.gethostname()}. Nothing happened."
    channel.url(name)
    error = send(name, channel, f"dbshield: a test of the channel {name}", body)
    if json:
        answer({"channel": name, "arrived": not error, "error": error or None})
    elif error:
        headline("no", f"  {name}: {visible(error)}")
        say("  Look at the URL in what url_file or url_env names, and at the network from here to there.")
    else:
        say(f"{name}: the service took the message.")
    if error:
        raise typer.Exit(1)


@app.command()
def run(config: ConfigOption = None) -> None:
    """Run the watch in the foreground: it sends alerts, freezes agents that are refused again and again, and ends emergencies.

    `dbshield up` and `dbshield proxy` run one beside them. Any number may run; nothing is done twice.

    \b
    Example:
      dbshield alerts run --config /etc/dbshield/dbshield.toml
    """
    settings = load_config(config)
    configure_logging(level=settings.log.level, format=settings.log.format)
    if not _needed(settings):
        raise ConfigError("there is nothing to watch: no channel, and no environment", hint="Add [alerts.NAME] to dbshield.toml.")
    told = told_by_signals()
    with control_dsn(settings) as dsn:
        _serve(settings, dsn, told.stop)


@contextlib.contextmanager
def watch_beside(settings: Config, dsn: str) -> Iterator[None]:
    """A watch in a process of its own while the block runs, where there is anything to watch. It ends with this process."""
    if not _needed(settings):
        yield
        return
    with beside("watch", lambda told: _serve(settings, dsn, told.stop)):
        yield


def _needed(settings: Config) -> bool:
    each = settings.environments.values()
    return bool(settings.alerts) or any(one.freeze_after_refusals or one.administrator for one in each)


def _serve(settings: Config, dsn: str, stop: threading.Event) -> None:
    """Watches until `stop` is set. StoreError where the tables are another version's."""
    database = Database(dsn)
    try:
        database.require_current()
        Watch(database, settings, also=lambda: end_due(database, settings)).run(stop)
    finally:
        database.close()


def _why(error: str | None) -> str:
    return f" ({error})" if error else ""
