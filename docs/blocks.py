"""Reads a page: its fenced blocks, the commands in them, its links, its headings. Knows nothing of what they should be.

Fences are those of CommonMark, opened at the beginning of a line or inside a list. A command is a line of a block whose first
word is a program that is looked for; where a block has prompts (`$ `), its other lines are output.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\((?P<target>[^)\s]+)(?:\s+\"[^\"]*\")?\)", re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(?P<title>.+?) *#*$", re.MULTILINE)
COMMAND_LANGUAGES = frozenset({"", "sh", "bash", "console", "yaml", "ini", "cron"})
"""What may hold commands. Output that begins like a command stands in a block called `text`."""
LEADING = re.compile(
    r"^\s*(?:- )?(?:(?:run|entry|command): |ExecStart=|ExecReload=|(?:\S+ ){5}(?=\S*(?:dbshield|python) )|@\w+ (?=\S*dbshield ))?"
)
"""What may stand before a command: a list of a pipeline, a unit of systemd, the times of a crontab."""
BETWEEN = frozenset({"|", "||", "&&", ";", "&"})
REDIRECTIONS = frozenset({">", ">>", "<", "2>", "2>&1", ">&"})
ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: its language as it is written, its text without the fence's indentation, and the page's line that it begins
    on, from 1."""

    language: str
    text: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One command as it is written: the program's words, without what surrounds them, and the line of the page."""

    words: tuple[str, ...]
    line: int


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks, in their order."""
    for found in FENCE.finditer(page):
        indent = found["indent"]
        text = "".join(line.removeprefix(indent) for line in found["text"].splitlines(keepends=True))
        yield Block(language=found["language"], text=text, line=_line(page, found.start()))


def prose(page: str) -> str:
    """The page with its blocks blanked, every line in its place."""
    return FENCE.sub(lambda found: "\n" * found[0].count("\n"), page)


def commands(page: str, program: str) -> Iterator[Written]:
    """Every call of `program` in a block, such as `dbshield` or `python -m bench`; a path before the program is not minded."""
    for block in blocks(page):
        if block.language not in COMMAND_LANGUAGES:
            continue
        prompts = bool(re.search(r"^\$ ", block.text, re.MULTILINE))
        line = block.line
        for text in re.sub(r"\\\n\s*", lambda found: "\x00" * found[0].count("\n"), block.text).splitlines():
            line += 1
            here = line
            line += text.count("\x00")
            if prompts and not text.startswith("$ "):
                continue
            joined = text.removeprefix("$ ").replace("\x00", " ")
            for words in _calls(LEADING.sub("", joined, count=1), program):
                yield Written(words=words, line=here)


def mentions(page: str, program: str) -> Iterator[Written]:
    """Every call of `program` that stands in a sentence, between backticks."""
    text = prose(page)
    for found in INLINE.finditer(text):
        for words in _calls(" ".join(found[1].split()), program):
            yield Written(words=words, line=_line(text, found.start()))


def links(page: str) -> Iterator[tuple[str, int]]:
    """The target and the line of every link that does not stand in a block or in backticks."""
    text = INLINE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), prose(page)) if "`[" in page else prose(page)
    for found in LINK.finditer(text):
        yield found["target"], _line(text, found.start())


def anchors(page: str) -> set[str]:
    """The anchors of the headings, as MkDocs makes them: the title in lower case, without signs, words joined by hyphens."""
    found: set[str] = set()
    for heading in HEADING.finditer(prose(page)):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["title"]).replace("`", "")
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())
        taken, number = slug, 0
        while taken in found:
            number += 1
            taken = f"{slug}_{number}"
        found.add(taken)
    return found


def paths(page: str) -> Iterator[tuple[str, int]]:
    """Files of the tree that a sentence names between backticks, and the line: `tests/…/test_x.py`, with `::test_name` or not."""
    text = prose(page)
    for found in INLINE.finditer(text):
        if re.fullmatch(r"(?:tests|docs|dbshield|bench|sql|migrations|deploy)/[\w./-]+(?:::\w+)?", found[1]):
            yield found[1], _line(text, found.start())


def pages(root: Path) -> list[Path]:
    """Every page that people read, of the repository at `root`."""
    return [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]


def _calls(text: str, program: str) -> Iterator[tuple[str, ...]]:
    """The words of each call of `program` in one line of a shell. Nothing where it is no line of a shell."""
    if program.partition(" ")[0] not in text:
        return
    reader = shlex.shlex(re.sub(r"\s#\s.*$", "", text), posix=True, punctuation_chars="|&;<>")
    reader.whitespace_split = True
    reader.commenters = ""
    try:
        words = list(reader)
    except ValueError:
        return
    call: list[str] = []
    for word in [*words, ";"]:
        if word in BETWEEN:
            yield from _program(call, program)
            call = []
        else:
            call.append(word)


def _program(words: list[str], program: str) -> Iterator[tuple[str, ...]]:
    while words and ASSIGNMENT.match(words[0]):
        words = words[1:]
    name = program.split()
    if not words or [words[0].rpartition("/")[2], *words[1 : len(name)]] != name:
        return
    kept: list[str] = []
    skip = False
    for word in words[len(name) :]:
        if skip:
            skip = False
        elif word in REDIRECTIONS:
            skip = word != "2>&1"
        else:
            kept.append(word)
    yield tuple(kept)


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
