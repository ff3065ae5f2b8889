"""Patterns of names: which tables and functions a setting is about. Pure: no I/O, no clock.

A pattern is `schema.name`; `*` in a part stands for any characters and `?` for one. What is not in double quotes is folded to
lower case as PostgreSQL folds it, ASCII letters only; in double quotes every character stands for itself, `*` and `?` too, and
`""` is a quote (PostgreSQL manual, 4.1.1 Identifiers and Key Words).
"""

from __future__ import annotations

import string
from dataclasses import dataclass

from dbshield.model import ObjectName

WILDCARDS = "*?"
ESCAPE = "\\"
MAX_PATTERN = 300
"""Characters; two names of 63 bytes with quotes are far shorter."""

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_PLAIN = frozenset(string.ascii_lowercase + string.digits + "_$" + WILDCARDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPattern:
    """A pattern of tables or functions. In its parts a backslash stands before a character that is meant as it is."""

    schema: str
    name: str

    @classmethod
    def parse(cls, text: str) -> ObjectPattern:
        """Raises ValueError with a sentence that names the text and the form."""
        if len(text) > MAX_PATTERN:
            raise ValueError(f'"{text[:40]}…" is longer than {MAX_PATTERN} characters, so it is no pattern of a name')
        parts = _parts(text.strip())
        if len(parts) != 2 or not all(parts):
            raise ValueError(f'"{text}" is not a pattern of names; write schema.name, such as billing.* or *.invoice_?')
        return cls(schema=parts[0], name=parts[1])

    def matches(self, name: ObjectName) -> bool:
        """Whether the pattern is surely about this name: one without a schema is matched only where any schema will do."""
        if name.schema:
            return matches(self.schema, name.schema) and matches(self.name, name.name)
        return self.schema == "*" and matches(self.name, name.name)

    def may_match(self, name: ObjectName) -> bool:
        """Whether the pattern may be about this name: one without a schema may be of any."""
        return (not name.schema or matches(self.schema, name.schema)) and matches(self.name, name.name)

    @property
    def any_name(self) -> bool:
        """Whether it takes in every object of the schemas that it matches."""
        return not self.name.strip("*")

    @property
    def like(self) -> str:
        """What SQL's LIKE takes for `schema.name` (its escape is the backslash)."""
        return f"{_like(self.schema)}.{_like(self.name)}"

    def __str__(self) -> str:
        return f"{_written(self.schema)}.{_written(self.name)}"


def matches(pattern: str, text: str) -> bool:
    """Whether `pattern`, one part of an ObjectPattern, takes in all of `text`.

    Time grows with the product of both lengths at most: only the last `*` is ever tried again.
    """
    signs = _signs(pattern)
    at = here = 0
    star = mark = -1
    while here < len(text):
        wild, sign = signs[at] if at < len(signs) else (False, "")
        if wild and sign == "*":
            star, mark = at, here
            at += 1
        elif (wild and sign == "?") or (not wild and sign == text[here]):
            at += 1
            here += 1
        elif star >= 0:
            mark += 1
            at, here = star + 1, mark
        else:
            return False
    return all(sign == (True, "*") for sign in signs[at:])


def _signs(pattern: str) -> list[tuple[bool, str]]:
    """The characters of a part, each with whether it is a wildcard."""
    signs: list[tuple[bool, str]] = []
    escaped = False
    for character in pattern:
        if escaped or character != ESCAPE:
            signs.append((not escaped and character in WILDCARDS, character))
            escaped = False
        else:
            escaped = True
    return signs


def _parts(text: str) -> list[str]:
    """The parts between the dots; nothing where a quote has no end, or a quote or a foreign character stands inside a part."""
    parts, position = [""], 0
    while position < len(text):
        character = text[position]
        if character == '"' and not parts[-1]:
            end = _closing(text, position)
            if end < 0 or text[end + 1 : end + 2] not in {"", "."}:
                return []
            quoted = text[position + 1 : end].replace('""', '"')
            parts[-1] = "".join(f"{ESCAPE}{sign}" if sign in f"{WILDCARDS}{ESCAPE}" else sign for sign in quoted)
            position = end
        elif character == ".":
            parts.append("")
        elif character.translate(_LOWER) in _PLAIN or not character.isascii():
            parts[-1] += character.translate(_LOWER)
        else:
            return []
        position += 1
    return parts


def _closing(text: str, start: int) -> int:
    """Where the quote that opens at `start` ends; -1 where it does not."""
    position = start + 1
    while True:
        position = text.find('"', position)
        if position < 0 or text[position + 1 : position + 2] != '"':
            return position
        position += 2


def _like(part: str) -> str:
    words = {"*": "%", "?": "_"}
    return "".join(words[sign] if wild else f"\\{sign}" if sign in "%_\\" else sign for wild, sign in _signs(part))


def _written(part: str) -> str:
    """The part as a configuration would have it."""
    signs = _signs(part)
    if all(wild or sign in _PLAIN - set(WILDCARDS) or not sign.isascii() for wild, sign in signs):
        return part
    return '"' + "".join(sign.replace('"', '""') for _, sign in signs) + '"'
