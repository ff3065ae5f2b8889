"""The page about the command line, made from the commands themselves."""

from __future__ import annotations

import inspect
import re
from enum import Enum
from typing import Any

from dbshield.cli.main import COMMANDS
from docs import tree

INTRODUCTION = """\
# Command line

Made from the code by `make docs`; do not edit.

`dbshield COMMAND --help` says the same in the terminal. Exit codes: 0 fine, 1 the answer is no (refused, not whole, a drill
that failed), 2 wrong usage or no verdict, 130 after Ctrl-C. Almost every command takes `--json`, to answer machines, and
`--config FILE`, to use another `dbshield.toml`; in a pipe and with `NO_COLOR` the text has no colours. `DBSHIELD_DEBUG=1`
shows where an error comes from. No command takes a secret as an argument, which every process of the machine could read.

| command | what it does |
|---|---|
"""
EVERYWHERE = frozenset({"json", "config", "help"})
"""Options that nearly every command has, and that the introduction explains."""


def command_line_page() -> str:
    """Every command: what it says of itself, its examples, its arguments and options."""
    index = [
        f"| [dbshield {each.name}](#{_anchor(f'dbshield {each.name}')}) | {each.summary} |\n" for each in COMMANDS if each.here
    ]
    return INTRODUCTION + "".join(index) + "\n" + "\n".join(_section(node) for node in tree.every())


def _section(node: tree.Node) -> str:
    said, examples = _help(node.command.help or "")
    lines = [f"{'#' * (len(node.words) + 1)} {node.title}\n", f"{said}\n"]
    if node.children and not getattr(node.command, "invoke_without_command", False):
        lines.append(f"Commands: {', '.join(f'[{name}](#{_anchor(child.title)})' for name, child in node.children.items())}.\n")
        return "\n".join(lines)
    if examples:
        lines.append(f"```sh\n{examples}\n```\n")
    rows = [_row(each) for each in node.parameters if each.name not in EVERYWHERE]
    if rows:
        lines.append(f"| argument or option | what it is |\n|---|---|\n{''.join(rows)}")
    return "\n".join(lines)


def _help(text: str) -> tuple[str, str]:
    """What a command says of itself, and its examples, without their indentation."""
    said: list[str] = []
    examples: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text).replace("\b", "")):
        lines = paragraph.strip("\n").splitlines()
        if lines and lines[0].startswith("Example: "):
            lines = ["Example:", lines[0].removeprefix("Example: "), *lines[1:]]
        if lines and re.fullmatch(r"Examples?:", lines[0].strip()):
            examples += [line.strip() for line in lines[1:]]
        elif lines and all(line.startswith("  ") for line in lines):
            (examples if examples else said).extend(line.strip() for line in lines)
        else:
            said.append(" ".join(line.strip() for line in lines))
    return "\n\n".join(filter(None, said)), "\n".join(filter(None, examples))


def _row(parameter: Any) -> str:
    value = parameter.metavar or ""
    kind = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    if not value and isinstance(kind, type) and issubclass(kind, Enum):
        value = "|".join(str(each.value) for each in kind)
    if parameter.param_type_name == "argument":
        name = value or str(parameter.name).upper()
        name = name if parameter.required else f"[{name}]"
    else:
        name = ", ".join((*parameter.opts, *parameter.secondary_opts))
        if not getattr(parameter, "is_flag", False):
            name += f" {value or str(kind.__name__ if isinstance(kind, type) else 'VALUE').upper()}"
    said = getattr(parameter, "help", None) or ""
    default = parameter.default
    if isinstance(default, (str, int, float)) and not isinstance(default, bool) and default != "" and "default" not in said:
        said = f"{said} Default: `{default.value if isinstance(default, Enum) else default}`."
    if parameter.required and parameter.param_type_name == "option":
        said = f"{said} Has to be given."
    return f"| `{name.replace('|', chr(92) + '|')}` | {said.replace('|', chr(92) + '|').strip()} |\n"


def _anchor(title: str) -> str:
    return re.sub(r"[-\s]+", "-", title)
