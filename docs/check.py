"""Looks whether what the pages say can be so: `python -m docs.check`. Exit code 1 with a line for each thing that cannot.

- Every link leads to a file that is there, and to a heading that is in it.
- Every `dbshield …` in a block parses as the command line does: command, options, arguments. One in a sentence has at least a
  command and options that exist. `python -m bench …` parses as the bench does; `make …` is a target.
- Every key in a block of TOML is one that the configuration knows, with a value that it takes; so is one that a sentence names
  with its section.
- Every file between backticks that looks like one of this tree is there, and a test behind `::` is in it.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote

from pydantic import BaseModel, ValidationError

from bench.__main__ import _options as bench_options
from dbshield.config.model import Config
from docs import blocks, tree

ROOT = Path(__file__).parent.parent
OUTSIDE = ("http://", "https://", "mailto:")
GIVEN: dict[str, dict[str, object]] = {
    "environments": {"upstream": "postgresql://dbshield@db.example.com/shop?sslmode=verify-full"},
    "backup": {"destination": "s3://shop-backups/dbshield", "encrypt_to": ["age1…"]},
    "alerts": {"url_file": "/etc/dbshield/team.url"},
}
"""What a section on a page may leave out although it has to be there."""
NAMES = frozenset({("catalogue",), ("audit", "checkpoint", "1")})
"""What stands between backticks like a command and is a name: of a connection, and of a line that is signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing on a page that cannot be so."""

    page: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.message}"


def problems(root: Path = ROOT) -> list[Problem]:
    """Everything that is wrong on any page of the repository."""
    found: list[Problem] = []
    for path in blocks.pages(root):
        page = path.read_text("utf-8")
        for line, message in (
            *links(path, page, root),
            *commands(page),
            *settings(page),
            *keys(page),
            *files(page, root),
            *targets(page, root),
        ):
            found.append(Problem(page=path.relative_to(root), line=line, message=message))
    return found


Said = Iterator[tuple[int, str]]


def links(path: Path, page: str, root: Path) -> Said:
    """Links that lead nowhere, and those that lead out of the site from a page that is in it."""
    for target, line in blocks.links(page):
        if target.startswith(OUTSIDE):
            continue
        place, _, anchor = unquote(target).partition("#")
        there = (path.parent / place).resolve() if place else path
        if not there.exists():
            yield line, f"{target} is not there"
        elif path.is_relative_to(root / "docs") and not there.is_relative_to(root / "docs"):
            yield line, f"{target} is not a page of the site; name it between backticks"
        elif anchor and anchor not in blocks.anchors(there.read_text("utf-8")):
            yield line, f"{target}: there is no such heading"


def commands(page: str) -> Said:
    """Commands that do not parse."""
    for written in blocks.commands(page, "dbshield"):
        yield from ((written.line, message) for message in tree.objections(written.words))
    for written in blocks.mentions(page, "dbshield"):
        if written.words not in NAMES:
            yield from ((written.line, message) for message in tree.objections(written.words, whole=False))
    for written in (*blocks.commands(page, "python -m bench"), *blocks.mentions(page, "python -m bench")):
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                bench_options(written.words)
        except SystemExit as end:
            if end.code:
                yield written.line, f"python -m bench {' '.join(written.words)} does not parse"


def targets(page: str, root: Path) -> Said:
    """Targets of make that are none."""
    known = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text("utf-8"), re.MULTILINE))
    for written in (*blocks.commands(page, "make"), *blocks.mentions(page, "make")):
        for word in written.words:
            if "=" not in word and not word.startswith("-") and word not in known:
                yield written.line, f"make {word}: there is no such target"


def settings(page: str) -> Said:
    """Keys that the configuration does not know, and values that it does not take."""
    for block in blocks.blocks(page):
        if block.language != "toml":
            continue
        try:
            written = tomllib.loads(block.text)
        except tomllib.TOMLDecodeError as error:
            yield block.line, f"this is not TOML: {error}"
            continue
        try:
            Config.model_validate(_completed(written))
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_input=False):
                where = ".".join(str(part) for part in detail["loc"] if part != "[key]")
                yield block.line, f"{where or 'this'}: {detail['msg']}"


def keys(page: str) -> Said:
    """Settings that a sentence names with their section, as in `[audit] when_away`, and that are none."""
    text = blocks.prose(page)
    for found in re.finditer(r"`\[(\w+)(?:\.[\w-]+)*\] (\w+)[^`]*`", text):
        section = Config.model_fields.get(found[1])
        known = _settings_of(section.annotation) if section is not None else set()
        if found[2] not in known:
            yield text.count("\n", 0, found.start()) + 1, f"[{found[1]}] {found[2]}: there is no such setting"


def _settings_of(annotation: Any) -> set[str]:
    """The keys of a section, or of each of its kind where it has names."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return set(kind.model_fields)
    return set()


def _completed(written: dict[str, Any]) -> dict[str, Any]:
    whole = dict(written)
    for section, given in GIVEN.items():
        named = dict(written.get(section, {}))
        whole[section] = {name: ({} if "url_env" in keys else given) | keys for name, keys in named.items()}
    for name, plan in whole["backup"].items():
        whole["environments"].setdefault(plan.get("environment") or name, dict(GIVEN["environments"]))
    for channel in whole["alerts"].values():
        for name in channel.get("environments", ()):
            whole["environments"].setdefault(name, dict(GIVEN["environments"]))
    return whole


def files(page: str, root: Path) -> Said:
    """Files of the tree that are named and are not there, and tests that are not in theirs."""
    for named, line in blocks.paths(page):
        path, _, test = named.partition("::")
        place = root / path
        if not place.exists():
            yield line, f"{path} is not there"
        elif test and not re.search(rf"^\s*(?:async )?def {re.escape(test)}\b", place.read_text("utf-8"), re.MULTILINE):
            yield line, f"{path} has no {test}"


def main() -> int:
    """0 where everything can be so."""
    found = problems()
    sys.stderr.write("".join(f"{each}\n" for each in found))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
