"""Reads the docstring of a rule: what it stops, and its examples. The reference is made from them, and a test runs them."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

from dbshield.model import AccessLevel
from dbshield.policy.rules.base import Rule

_LEVEL = re.compile(r"\[(read|write|migrate)\] ")
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")


class Examples(NamedTuple):
    """A rule's summary, and its examples as access level and statement."""

    summary: str
    stopped: tuple[tuple[AccessLevel, str], ...]
    allowed: tuple[tuple[AccessLevel, str], ...]


def examples(rule: type[Rule]) -> Examples:
    """The documentation of a rule, from its docstring."""
    lines = inspect.cleandoc(rule.__doc__ or "").splitlines()
    parts: dict[str, list[str]] = {"": [], "Stopped:": [], "Allowed:": []}
    section = ""
    for line in lines:
        if line in parts:
            section = line
        elif line.strip():
            parts[section].append(line.strip())
    return Examples(" ".join(parts[""]), _statements(parts["Stopped:"]), _statements(parts["Allowed:"]))


def _statements(lines: list[str]) -> tuple[tuple[AccessLevel, str], ...]:
    found = []
    for line in lines:
        level = _LEVEL.match(line)
        text = line[level.end() :] if level else line
        access = AccessLevel(level[1]) if level else AccessLevel.MIGRATE
        found.append((access, text if "U&" in text else _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)))
    return tuple(found)
