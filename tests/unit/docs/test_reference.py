"""The generated pages leave out no kind of the audit, SQLSTATE, command or metric; and the site is whole without a network."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dbshield.control.audit_kinds import KINDS
from dbshield.metrics import METRICS
from docs import tree
from docs.build import pages
from docs.error_codes import CODES

ROOT = Path(__file__).parents[3]
SOURCES = sorted((ROOT / "dbshield").rglob("*.py"))
MIGRATIONS = sorted((ROOT / "migrations").rglob("*.py"))
WRITERS = {"Entry", "record", "event", "_event", "_entry", "_note", "_exchange", "_admitted", "approval_entry"}
"""What writes into the audit; the kind is `kind=` or the first text that is given."""
TOLD = {"dbshield/session", "dbshield/proxy", "dbshield/control", "dbshield/guard", "dbshield/errors.py", "dbshield/app.py"}
"""Where errors come from that clients and people read."""


def kinds_written() -> Iterator[tuple[str, str]]:
    """Each kind that the code writes, and where."""
    for path in SOURCES:
        text = path.read_text("utf-8")
        if "audit_store" not in text and "audit" not in path.name and "audit.event" not in text and "APPEND" not in text:
            continue
        where = path.relative_to(ROOT).as_posix()
        for found in re.finditer(r'"event":"([a-z-]+)"', text):
            yield found[1], where
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in WRITERS:
                    given = [each.value for each in node.keywords if each.arg == "kind"] or node.args[:2]
                    yield from ((kind, where) for each in given for kind in _texts(each))
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in {"kind", "named"}:
                yield from ((kind, where) for kind in _texts(node.value))


def _texts(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may be, not those that it asks about."""
    match node:
        case ast.Constant(value=str() as text) if re.fullmatch(r"[a-z]+(?:-[a-z]+)*", text):
            yield text
        case ast.IfExp():
            yield from (*_texts(node.body), *_texts(node.orelse))
        case ast.Call(func=ast.Attribute(value=ast.Dict() as table), args=[_, default]):
            for each in (*table.values, default):
                yield from _texts(each)


def test_every_kind_of_the_audit_is_in_the_reference() -> None:
    written = dict(kinds_written())
    assert len(written) > 30
    assert {kind: where for kind, where in written.items() if kind not in KINDS} == {}, "name them in control/audit_kinds.py"


def test_the_reference_has_no_kind_that_nothing_writes() -> None:
    readers = {"audit_kinds.py", "alert_rules.py", "alert_sentences.py", "alerts.py", "feed.py"}
    texts = [path.read_text("utf-8") for path in (*SOURCES, *MIGRATIONS) if path.name not in readers]
    named = {kind for kind, _ in kinds_written()}
    assert [kind for kind in KINDS if kind not in named and not any(f'"{kind}"' in t or f"'{kind}'" in t for t in texts)] == []


def test_every_sqlstate_that_is_told_is_in_the_reference() -> None:
    told = {
        found[1]
        for path in SOURCES
        if any(path.relative_to(ROOT).as_posix().startswith(place) for place in TOLD)
        for found in re.finditer(r'"([0-9X][0-9A-Z]{4})"', path.read_text("utf-8"))
    }
    assert told - {code.sqlstate for code in CODES} == set()
    assert {code.sqlstate for code in CODES} - told == set()


def test_every_command_and_metric_has_its_place() -> None:
    said = {path.name: text for path, text in pages().items()}
    assert [node.title for node in tree.every() if f"# {node.title}\n" not in said["command-line.md"]] == []
    assert [metric.name for metric in METRICS if f"`{metric.name}`" not in said["metrics.md"]] == []


def test_every_command_shows_an_example() -> None:
    without = [node.title for node in tree.every() if not node.children and "Example" not in (node.command.help or "")]
    assert without == []


def test_the_site_is_whole_and_loads_nothing_from_a_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs.site", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert (tmp_path / "reference" / "rules.html").is_file()
    assert not list(tmp_path.rglob("*.py"))
