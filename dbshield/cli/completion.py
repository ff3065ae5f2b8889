"""`dbshield completion`: what a shell offers when somebody presses the tab key.

Typer's own completion asks for every command's module to be imported, a second for each key; here the one that is meant is.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from dbshield.cli.common import ConfigOption
from dbshield.cli.output import say

BASH = """\
_dbshield() {
    local IFS=$'\\n' typed=("${COMP_WORDS[@]:1:COMP_CWORD}")
    COMPREPLY=($(dbshield completion words -- "${typed[@]}" 2>/dev/null))
}
complete -o default -o nosort -F _dbshield dbshield
"""
ZSH = """\
#compdef dbshield
_dbshield() {
    local -a found
    found=(${(f)"$(dbshield completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then compadd -- $found; else _files; fi
}
if [ "$funcstack[1]" = "_dbshield" ]; then _dbshield "$@"; else compdef _dbshield dbshield; fi
"""
FISH = """\
function __dbshield
    set -l typed (commandline -opc) (commandline -ct)
    dbshield completion words -- $typed[2..] 2>/dev/null
end
complete -c dbshield -a '(__dbshield)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish", "words"], typer.Argument(help="The shell; words is what its script asks.")],
    typed: Annotated[list[str] | None, typer.Argument(help="What was typed, with words.", show_default=False)] = None,
    config: ConfigOption = None,
) -> None:
    """Print a script that lets a shell complete commands, options and the names of environments.

    Example: dbshield completion bash > ~/.local/share/bash-completion/completions/dbshield
    """
    if shell != "words":
        say(SCRIPTS[shell].rstrip("\n"))
        return
    for word in offers(typed or [""], config):
        say(word)


def offers(typed: Sequence[str], config: Path | None = None) -> list[str]:
    """What the last word may become; it may be empty. The others are complete."""
    from dbshield.cli.main import COMMANDS  # noqa: PLC0415  (it imports this module when the command is run)

    *before, last = typed
    if not before:
        return [command.name for command in COMMANDS if command.name.startswith(last)]
    meant = {command.name: command for command in COMMANDS}.get(before[0])
    if meant is None:
        return []
    found = getattr(importlib.import_module(meant.module), meant.attribute)
    if not isinstance(found, typer.Typer):
        function = found
        found = typer.Typer(add_completion=False, rich_markup_mode=None)
        found.command()(function)
    command: Any = typer.main.get_command(found)
    words = before[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    return sorted({word for word in _possible(command, words, last, config) if word.startswith(last)})


def _possible(command: Any, words: Sequence[str], last: str, config: Path | None) -> Iterator[str]:
    # Of the function itself, since Typer keeps the types in places that change from version to version.
    hints = get_type_hints(inspect.unwrap(command.callback)) if command.callback else {}
    for one in command.params:
        if words and words[-1] in one.opts and hints.get(one.name) is not bool:
            yield from _values(one.name, hints.get(one.name), config)
            return
    if last.startswith("-"):
        for one in command.params:
            yield from (name for name in [*one.opts, *one.secondary_opts] if name.startswith("--"))
        yield "--help"
        return
    yield from getattr(command, "commands", {})
    for one in command.params:
        if one.param_type_name == "argument":
            yield from _values(one.name, hints.get(one.name), config)


def _values(name: str, hint: Any, config: Path | None) -> Iterator[str]:
    """The words of a closed list, and the names of what is configured."""
    yield from _closed(hint)
    if name == "environment":
        yield from _environments(config)


def _closed(hint: Any) -> Iterator[str]:
    """The words that an annotation allows: of a Literal or an enumeration, also in a list or beside None."""
    if get_origin(hint) is Literal:
        yield from map(str, get_args(hint))
    elif isinstance(hint, type) and issubclass(hint, Enum):
        yield from (str(one.value) for one in hint)
    else:
        for part in get_args(hint):
            yield from _closed(part)


def _environments(config: Path | None) -> Sequence[str]:
    from dbshield.config import load_config  # noqa: PLC0415  (most completions need no configuration)
    from dbshield.errors import DbshieldError  # noqa: PLC0415

    try:
        return [*load_config(config).environments]
    except (DbshieldError, OSError):
        if os.environ.get("DBSHIELD_DEBUG"):
            raise
        return []
