"""Finds the command, runs it, and turns what it raises into an exit code and a sentence.

Exit codes: 0 fine, 1 the answer is no, 2 wrong usage or no verdict. A traceback is shown to nobody who did not ask for one with
`DBSHIELD_DEBUG=1`.

A command's module is imported when the command is run, so that `dbshield --help` needs none of them; nothing but the standard
library is imported here.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dbshield
from dbshield.errors import DbshieldError, Refused

FINE, NO, WRONG = 0, 1, 2
DEBUG_VARIABLE = "DBSHIELD_DEBUG"
INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One word after `dbshield`: the attribute of a module, a typer application or a function that becomes one."""

    name: str
    module: str
    attribute: str
    summary: str

    @property
    def here(self) -> bool:
        """Whether its module is part of this installation."""
        return importlib.util.find_spec(self.module) is not None


COMMANDS = (
    Command(
        name="init",
        module="dbshield.cli.init",
        attribute="init",
        summary="Write dbshield.toml, make the state folder, the key and the tables.",
    ),
    Command(name="up", module="dbshield.cli.serve", attribute="up", summary="Run everything in the foreground."),
    Command(name="proxy", module="dbshield.cli.serve", attribute="proxy", summary="Run the proxy alone, one of any number."),
    Command(
        name="console",
        module="dbshield.cli.console",
        attribute="console",
        summary="Run the web page where people look, approve and freeze.",
    ),
    Command(
        name="demo", module="dbshield.cli.demo", attribute="demo", summary="Watch the shield at work on a database of its own."
    ),
    Command(name="check", module="dbshield.cli.check", attribute="check", summary="Judge SQL without a database."),
    Command(name="policy", module="dbshield.cli.policy", attribute="app", summary="Show what holds for an agent, and test it."),
    Command(name="agent", module="dbshield.cli.agent", attribute="app", summary="Create, list and remove agents."),
    Command(name="token", module="dbshield.cli.token", attribute="app", summary="Issue, list, rotate and revoke tokens."),
    Command(name="key", module="dbshield.cli.key", attribute="app", summary="Exchange the key that seals stored secrets."),
    Command(name="user", module="dbshield.cli.user", attribute="app", summary="Add and remove the people who decide."),
    Command(
        name="approvals",
        module="dbshield.cli.approvals",
        attribute="app",
        summary="List, show, approve and deny held statements.",
    ),
    Command(
        name="environment",
        module="dbshield.cli.environment",
        attribute="app",
        summary="List, pin, freeze and thaw protected databases.",
    ),
    Command(
        name="executor", module="dbshield.cli.executor", attribute="executor", summary="Run approved statements, with a way back."
    ),
    Command(
        name="undo", module="dbshield.cli.undo", attribute="undo", summary="Bring back what an approved statement destroyed."
    ),
    Command(name="alerts", module="dbshield.cli.alert", attribute="app", summary="List alerts, try a channel, and tell people."),
    Command(
        name="break-glass",
        module="dbshield.cli.break_glass",
        attribute="break_glass",
        summary="Go around the shield in an emergency, for a while.",
    ),
    Command(name="audit", module="dbshield.cli.audit", attribute="app", summary="Read, search, export and verify the audit."),
    Command(name="doctor", module="dbshield.cli.doctor", attribute="doctor", summary="Say what is wrong with the databases."),
    Command(name="scan", module="dbshield.cli.scan", attribute="scan", summary="Find credentials that go around the proxy."),
    Command(
        name="guard", module="dbshield.cli.guard", attribute="app", summary="Install, check and remove the guard in a database."
    ),
    Command(
        name="backup", module="dbshield.cli.backup", attribute="app", summary="Make a snapshot now; list, show and verify them."
    ),
    Command(
        name="restore", module="dbshield.cli.restore", attribute="restore", summary="Restore a snapshot, never over anything."
    ),
    Command(
        name="restore-drill",
        module="dbshield.cli.restore_drill",
        attribute="restore_drill",
        summary="Prove that a snapshot restores, and how fast.",
    ),
    Command(
        name="schedule", module="dbshield.cli.schedule", attribute="app", summary="Show what is due when, and what became of it."
    ),
    Command(
        name="scheduler",
        module="dbshield.cli.scheduler",
        attribute="scheduler",
        summary="Run backups and drills when they are due.",
    ),
    Command(name="top", module="dbshield.cli.top", attribute="top", summary="Show what agents do right now."),
    Command(
        name="completion",
        module="dbshield.cli.completion",
        attribute="completion",
        summary="Let a shell complete commands and options.",
    ),
    Command(name="config", module="dbshield.cli.config", attribute="app", summary="Check and show the configuration."),
)

USAGE = """\
Usage: dbshield COMMAND [OPTIONS]

The layer between AI agents and PostgreSQL that keeps an agent from costing a team its data.

Commands:
{commands}

Examples:
  dbshield demo
  dbshield init --environment staging --upstream postgresql://dbshield@db.example.com/shop
  dbshield agent create claude --environment staging --access write
  dbshield up

`dbshield COMMAND --help` says more. Exit codes: 0 fine, 1 the answer is no, 2 wrong usage or no verdict.
"""


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], commands: Sequence[Command] = COMMANDS) -> int:
    """Runs one command line; its exit code."""
    present = {command.name: command for command in commands if command.here}
    word = arguments[0] if arguments else "--help"
    if word in {"--help", "-h", "help"}:
        return _say(sys.stdout, usage(present.values()))
    if word in {"--version", "-V"}:
        return _say(sys.stdout, f"dbshield {dbshield.__version__}\n")
    if word not in present:
        close = difflib.get_close_matches(word, present, n=1)
        hint = f'Did you mean "dbshield {close[0]}"?' if close else "`dbshield --help` lists the commands."
        _say(sys.stderr, f'dbshield: there is no command "{word}"\n  {hint}\n')
        return WRONG
    try:
        return _exit_code(lambda: _start(present[word], arguments[1:]))
    except DbshieldError as error:
        _debug()
        _say(
            sys.stderr,
            "".join(f"dbshield: {line}\n" for line in _shown(error.message))
            + "".join(f"  {line}\n" for line in _shown(error.hint)),
        )
        return NO if isinstance(error, Refused) else WRONG
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  (the last one who can answer for it)
        _debug()
        return _unexpected(error)


def usage(commands: Any) -> str:
    """What `dbshield --help` prints."""
    listed = list(commands)
    width = max(len(command.name) for command in listed)
    return USAGE.format(commands="\n".join(f"  {command.name:<{width}}  {command.summary}" for command in listed))


def _start(command: Command, arguments: Sequence[str]) -> None:
    import typer  # noqa: PLC0415  (a tenth of a second that `--help` does not need)

    found = getattr(importlib.import_module(command.module), command.attribute)
    if not isinstance(found, typer.Typer):
        function = found
        found = typer.Typer(add_completion=False, rich_markup_mode=None)
        found.command()(function)
    typer.main.get_command(found)(args=list(arguments), prog_name=f"dbshield {command.name}")


def _shown(text: str) -> list[str]:
    """The lines of a text, spelled out: what a server says of a row holds values of agents, and a terminal obeys some."""
    from dbshield.visible import visible  # noqa: PLC0415  (not for a command that says nothing of the kind)

    return [visible(line, tabs=True) for line in text.splitlines()]


def _exit_code(body: Callable[[], None]) -> int:
    """Typer ends every command with SystemExit."""
    try:
        body()
    except SystemExit as end:
        if end.code is None:
            return FINE
        return end.code if isinstance(end.code, int) else WRONG
    return FINE


def _unexpected(error: Exception) -> int:
    """What no command has an answer for: a disk that is full can be met anywhere, all else is ours."""
    reason = "".join(_shown(" ".join(str(error).split())[:300]))
    if isinstance(error, OSError) and error.errno in FULL:
        _say(sys.stderr, f"dbshield: a disk is full: {reason}\n  Make room, and give the command again.\n")
    else:
        bug = f"this is a bug in dbshield ({DEBUG_VARIABLE}=1 shows where)"
        _say(sys.stderr, f"dbshield: {type(error).__name__}: {reason}: {bug}\n")
    return WRONG


def _debug() -> None:
    if os.environ.get(DEBUG_VARIABLE):
        import traceback  # noqa: PLC0415

        traceback.print_exc()


def _say(stream: Any, text: str) -> int:
    stream.write(text)
    return FINE
