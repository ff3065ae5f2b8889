"""The command line as it is: every command with its parameters, for the reference and for judging what pages write.

Typer's parameters are read by their attributes alone, which are those of click, so that nothing here depends on which of the two
a version of typer stands on.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import typer

from dbshield.cli.main import COMMANDS

PLACEHOLDER = "…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One command: its words after `dbshield`, and typer's object, which has `params`, `help` and, for a group, `commands`."""

    words: tuple[str, ...]
    command: Any

    @property
    def title(self) -> str:
        return " ".join(("dbshield", *self.words))

    @property
    def children(self) -> dict[str, Node]:
        below = getattr(self.command, "commands", None) or {}
        return {
            name: Node(words=(*self.words, name), command=each)
            for name, each in below.items()
            if not getattr(each, "hidden", False)
        }

    @property
    def parameters(self) -> list[Any]:
        return [each for each in self.command.params if not getattr(each, "hidden", False)]


@cache
def roots() -> dict[str, Node]:
    """What may stand behind `dbshield`, in the order of its help."""
    found: dict[str, Node] = {}
    for each in COMMANDS:
        if each.here:
            target = getattr(importlib.import_module(each.module), each.attribute)
            if not isinstance(target, typer.Typer):
                function, target = target, typer.Typer(add_completion=False, rich_markup_mode=None)
                target.command()(function)
            found[each.name] = Node(words=(each.name,), command=typer.main.get_command(target))
    return found


def every() -> Iterator[Node]:
    """All commands, each group before what is in it."""
    waiting = list(roots().values())
    while waiting:
        node = waiting.pop(0)
        yield node
        waiting = [*node.children.values(), *waiting]


def objections(words: Sequence[str], *, whole: bool = True) -> list[str]:
    """Why `dbshield WORDS…` does not parse; none where it does. Where it is not `whole`, as in a sentence, what is missing at its
    end is not minded, and neither is a mention of a group."""
    if not words or words[0] in {"--help", "-h", "help", "--version", "-V", "COMMAND"} or PLACEHOLDER in words[0]:
        return []
    words = words if whole else [word.strip("[]") for word in words]
    node = roots().get(words[0])
    if node is None:
        return [f'there is no command "{words[0]}"{_near(words[0], roots())}']
    rest = list(words[1:])
    wrong: list[str] = []
    given: set[str] = set()
    arguments: list[str] = []
    while rest:
        word = rest.pop(0)
        if word in {"--help", "-h"}:
            return wrong
        if word.startswith("-") and word != "-":
            name, equals, _ = word.partition("=")
            known = {opt: each for each in node.command.params for opt in (*each.opts, *each.secondary_opts)}
            option = known.get(name)
            if option is None:
                return [*wrong, f"{node.title} has no option {name}{_near(name, known)}"]
            given.add(option.name)
            if getattr(option, "is_flag", False) or equals:
                continue
            if not rest:
                wrong += [f"{name} needs a value"] if whole else []
            else:
                wrong += _choice(option, rest.pop(0))
        elif word in node.children and not arguments:
            wrong += _missing(node, given, arguments) if node.parameters and whole and not node.children else []
            node, given = node.children[word], set()
        elif node.children and not _arguments(node):
            if word not in {PLACEHOLDER, "COMMAND"}:
                wrong.append(f'{node.title} has no command "{word}"{_near(word, node.children)}')
            return wrong
        else:
            arguments.append(word)
    return wrong + (_missing(node, given, arguments) if whole else _too_many(node, arguments))


def _arguments(node: Node) -> list[Any]:
    return [each for each in node.command.params if each.param_type_name == "argument"]


def _missing(node: Node, given: set[str], arguments: list[str]) -> list[str]:
    if node.children and not getattr(node.command, "invoke_without_command", False):
        return [f"{node.title} needs one of: {', '.join(node.children)}"]
    wrong = [
        f"{node.title} needs {each.opts[0]}"
        for each in node.command.params
        if each.param_type_name == "option" and each.required and each.name not in given
    ]
    needed = [each for each in _arguments(node) if each.required]
    wrong += [f"{node.title} needs {each.metavar or each.name}" for each in needed[len(arguments) :]]
    return wrong + _too_many(node, arguments)


def _too_many(node: Node, arguments: list[str]) -> list[str]:
    taken = _arguments(node)
    if any(each.nargs != 1 for each in taken) or len(arguments) <= len(taken):
        return []
    return [f'{node.title} takes no "{arguments[len(taken)]}"']


def _choice(option: Any, value: str) -> list[str]:
    """Values of an enumeration; NAMES in capitals stand for any."""
    kind = getattr(getattr(option, "type_descriptor", None), "annotation", None)
    if not (isinstance(kind, type) and issubclass(kind, Enum)) or value.isupper() or PLACEHOLDER in value:
        return []
    known = [str(each.value) for each in kind]
    return [] if value in known else [f"{option.opts[0]} is one of {', '.join(known)}, not {value}"]


def _near(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; {close[0]}?" if close else ""
