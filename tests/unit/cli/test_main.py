"""The command line before and after the commands: what is found, how it ends, and what a person reads when it goes wrong."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import typer

from dbshield import __version__
from dbshield.cli.main import COMMANDS, Command, run
from dbshield.errors import ConfigError, DbshieldError, Refused, StoreError

HELP_SECONDS = 0.3
"""What `dbshield --help` may take of the processor beyond starting Python itself."""


@pytest.fixture
def play() -> Iterator[Callable[[Callable[..., None]], list[Command]]]:
    """Makes a command line with one command, `play`, from a function."""
    name = "dbshield_test_command"

    def make(function: Callable[..., None]) -> list[Command]:
        module = ModuleType(name)
        module.__dict__["function"] = function
        module.__spec__ = COMMAND_SPEC
        sys.modules[name] = module
        return [Command(name="play", module=name, attribute="function", summary="Play.")]

    yield make
    sys.modules.pop(name, None)


COMMAND_SPEC = sys.modules["dbshield.cli.main"].__spec__


def test_help_is_fast_and_imports_no_command() -> None:
    """A person who asks for help waits for nothing; the best of three, since the machine may be busy, and not of the clock."""
    program = (
        "import sys; from dbshield.cli.main import run; run(['--help']); "
        "print(len(HEAVY & {name.split('.')[0] for name in sys.modules}))"
    )
    heavy = {"typer", "click", "rich", "psycopg", "sqlalchemy", "pydantic", "alembic", "structlog", "uvloop", "asyncio"}

    def seconds(code: str) -> tuple[float, str]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout

    takes, out = min(seconds(program.replace("HEAVY", repr(heavy))) for _ in range(3))
    bare = min(seconds("pass")[0] for _ in range(3))
    assert out.splitlines()[-1] == "0"
    assert takes - bare < HELP_SECONDS


def test_help_lists_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    absent = Command(name="absent", module="dbshield.nowhere", attribute="x", summary="Not there.")
    assert run(["--help"], [*COMMANDS, absent]) == 0
    out = capsys.readouterr().out
    assert "Create, list and remove agents." in out
    assert "Examples:" in out
    assert "absent" not in out
    assert run(["absent"], [*COMMANDS, absent]) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"dbshield {__version__}\n"


def test_an_unknown_command_gets_the_near_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["agnet", "list"]) == 2
    assert run(["xyz"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        'dbshield: there is no command "agnet"',
        '  Did you mean "dbshield agent"?',
        'dbshield: there is no command "xyz"',
        "  `dbshield --help` lists the commands.",
    ]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.here], ids=lambda command: str(command.name))
def test_every_help_has_an_example(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command.name, "--help"]) == 0
    out = capsys.readouterr().out
    if "Commands:" not in out:
        assert f"dbshield {command.name}" in out.split("\n", 1)[1], "an example shows the command itself"
        return
    words = [line.split()[0] for line in out.split("Commands:")[1].splitlines() if line.strip()]
    for word in words:
        assert run([command.name, word, "--help"]) == 0
        assert f"dbshield {command.name} {word}" in capsys.readouterr().out.split("\n", 1)[1]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("the key is wrong", hint="Write another."), 2, "dbshield: the key is wrong\n  Write another.\n"),
        (StoreError("away"), 2, "dbshield: away\n"),
        (DbshieldError("two\nlines"), 2, "dbshield: two\ndbshield: lines\n"),
        (Refused("no", hint="Ask."), 1, "dbshield: no\n  Ask.\n"),
        # The server's words have values of agents in them, and this is a terminal.
        (DbshieldError("Key (k)=(\x1b]0;owned\x07)", hint="\u202e"), 2, "dbshield: Key (k)=(\\x1b]0;owned\\x07)\n  \\u202e\n"),
    ],
)
def test_an_error_is_a_sentence_and_the_next_step(
    error: DbshieldError, code: int, said: str, play: Callable[..., list[Command]], capsys: pytest.CaptureFixture[str]
) -> None:
    def function() -> None:
        raise error

    assert run(["play"], play(function)) == code
    assert capsys.readouterr().err == said


def test_a_full_disk_is_no_bug(play: Callable[..., list[Command]], capsys: pytest.CaptureFixture[str]) -> None:
    def function() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/srv/state/x")

    assert run(["play"], play(function)) == 2
    said = (
        "dbshield: a disk is full: [Errno 28] No space left on device: '/srv/state/x'\n  Make room, and give the command again.\n"
    )
    assert capsys.readouterr().err == said


def test_a_bug_is_called_one(
    play: Callable[..., list[Command]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def function() -> None:
        raise RuntimeError("wires\ncrossed")

    commands = play(function)
    assert run(["play"], commands) == 2
    err = capsys.readouterr().err
    assert err == "dbshield: RuntimeError: wires crossed: this is a bug in dbshield (DBSHIELD_DEBUG=1 shows where)\n"
    monkeypatch.setenv("DBSHIELD_DEBUG", "1")
    assert run(["play"], commands) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_command_says_how_it_ends(code: int, play: Callable[..., list[Command]]) -> None:
    def function() -> None:
        raise typer.Exit(code)

    assert run(["play"], play(function)) == code


def test_wrong_usage_is_two(play: Callable[..., list[Command]], capsys: pytest.CaptureFixture[str]) -> None:
    def function(number: int) -> None:
        raise AssertionError(number)

    assert run(["play", "--nonsense"], play(function)) == 2
    assert run(["play", "word"], play(function)) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_ctrl_c_is_no_bug(play: Callable[..., list[Command]], capsys: pytest.CaptureFixture[str]) -> None:
    def function() -> None:
        raise KeyboardInterrupt

    assert run(["play"], play(function)) in {1, 130}
    assert "bug" not in capsys.readouterr().err
