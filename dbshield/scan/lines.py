"""What the lines of a file set, as name and value, in the many ways in which files say it.

`NAME=value`, `name: value`, a shell's and a Dockerfile's `NAME value`, `os.environ["NAME"] = "value"`, `<property name value>`,
`--set name=value`, and objects on one line, as JSON without line breaks and YAML's flow style have them. Nothing here judges what
a name means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LINE_LONGEST = 20_000
"""Characters of a line whose objects are read whole."""
AROUND = 2_000

_LINE = re.compile(
    r"""^\s*(?:-\s+)?(?:export\s+|set\s+|ENV\s+|ARG\s+|\$env:)?["']?(\.?[A-Za-z_][\w.-]{0,80})["']?\s*"""
    r"""(?::=|=>|=|:\s|:$|:(?=["']))\s*(.*)$"""
)
_INLINE = re.compile(r"""\b([A-Z][A-Z0-9_]{1,80})=("[^"]*"|'[^']*'|[^\s"']+)""")
_HEADER = re.compile(r"^\s*(?:\[([^\]]+)\]|---|[\w-]+\s+\"([^\"]*)\".*\{)\s*$")
_VARIABLE = re.compile(r'^\s*variable\s+"([\w-]+)"\s*\{')
_QUOTED_WHOLE = re.compile(r"""^(\s*(?:-\s+)?)(["'])([A-Za-z_][\w.-]*=.*)\2\s*,?$""")
_SPACED = re.compile(r"^\s*(?:setenv|setx|set\s+-[A-Za-z]{1,4}|ENV)\s+([A-Za-z_]\w{0,80})\s+([^\s=].*)$")
_ELSEWHERE = re.compile(
    r"""\[["']([A-Za-z_]\w{0,80})["']\]\s{0,9}=\s{0,9}["']([^"'\n]+)["']
      | \bname=["']([\w.-]{1,80})["']\s{1,9}value=["']([^"']+)["']
      | (?<![\w-])--(?:set(?:-string)?[ =])?([\w.-]{0,80}(?:password|passwd|pwd))[ =]["']?([^\s"'$]+)""",
    re.VERBOSE | re.IGNORECASE,
)
_TOLD = re.compile(r"pass|pwd|secret", re.IGNORECASE)
_OBJECT = re.compile(r"""(?:^|[\s(,:=\[{])\{\s*["']?[A-Za-z_][\w.-]{0,80}["']?\s*[:=]""")
_TOKEN = re.compile(r"""\$\{[^{}]*\}|\{\{[^{}]*\}\}|[{}\[\],]|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^{}\[\],"']+|["']""")
_KEY = re.compile(r"""^(\s*"[^"]*"):""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What line `line` (from 1) sets. With `begins` it sets nothing: something new begins there, which is called `name`."""

    line: int
    name: str
    value: str = ""
    begins: bool = False


def settings(lines: list[str], *, quoted_only: bool) -> Iterator[Setting]:
    """What the lines set, in their order; `quoted_only` where only what stands in quotes is a value."""
    named = ""
    for number, text in enumerate(lines, 1):
        if variable := _VARIABLE.match(text):
            named = variable[1]
            continue
        if header := _HEADER.match(text):
            yield Setting(line=number, name=header[1] or header[2] or "", begins=True)
            continue
        told = _TOLD.search(text) is not None
        if told or "://" in text:
            yield from _elsewhere(text, number)
        if told and _OBJECT.search(text):
            for piece in _near(text):
                yield from _objects(piece, number, quoted_only=quoted_only)
            continue
        text = _QUOTED_WHOLE.sub(r"\1\3", text)  # noqa: PLW2901  (a list's item in quotes is what stands in them)
        if spaced := _SPACED.match(text):
            yield Setting(line=number, name=spaced[1], value=spaced[2].strip().strip("\"'"))
            continue
        match = _LINE.match(text)
        if match is None:
            yield from _inline(text, number)
            continue
        key, value = match[1], _value(match[2], quoted_only=quoted_only)
        if key.isupper() and match[2][:1] not in {"'", '"'}:
            # A shell's variable ends at a blank, and a command may follow.
            value = value.partition(" ")[0]
        if match[2].strip() in {"", "{", "[", "|", ">"}:
            begins = not text[:1].isspace() or match[2].strip() == "{"
            yield Setting(line=number, name=key, begins=begins)
        elif key == "name" and quoted_only is False:
            # In Kubernetes a variable's name and its value are two lines.
            named = value
            yield Setting(line=number, name=key, value=value)
        elif key in {"value", "default"} and named:
            yield Setting(line=number, name=named, value=value)
            named = ""
        else:
            yield Setting(line=number, name=key, value=value)
            # Several on one line, as `A=1 B=2`.
            yield from _inline(match[2], number)


def _inline(text: str, number: int) -> Iterator[Setting]:
    for inline in _INLINE.finditer(text):
        yield Setting(line=number, name=inline[1], value=inline[2].strip("\"'"))


def _elsewhere(text: str, number: int) -> Iterator[Setting]:
    for match in _ELSEWHERE.finditer(text):
        name, value = (group for group in match.groups() if group is not None)
        yield Setting(line=number, name=name, value=value)


def _near(text: str) -> Iterator[str]:
    """The line; of a machine's, which is long, what stands around each word that tells of a secret."""
    if len(text) <= LINE_LONGEST:
        yield text
        return
    end = 0
    for match in _TOLD.finditer(text):
        if match.start() < end:
            continue
        end = match.end() + AROUND
        yield text[max(match.start() - AROUND, 0) : end]


def _objects(text: str, number: int, *, quoted_only: bool) -> Iterator[Setting]:
    """The members of objects that begin and end on one line. An object has the name of the member that it is the value of."""
    piece = ""
    for sign in (*(match[0] for match in _TOKEN.finditer(text)), ","):
        if sign not in {"{", "}", "[", "]", ","}:
            piece += sign
            continue
        match = _LINE.match(_KEY.sub(r"\1: ", piece))
        if sign == "{":
            yield Setting(line=number, name=match[1] if match is not None else "", begins=True)
        elif match is not None and match[2]:
            yield Setting(line=number, name=match[1], value=_value(match[2], quoted_only=quoted_only))
        else:
            yield from _inline(piece, number)
        piece = ""


def _value(text: str, *, quoted_only: bool) -> str:
    text = text.strip()
    quoted = re.match(r"""(?:[rbu])?("((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')""", text)
    if quoted is not None:
        return quoted[2] if quoted[2] is not None else quoted[3]
    if quoted_only or "(" in text:
        return ""
    return re.sub(r"\s+[#;].*$", "", text).rstrip(",").strip()
