"""Builds the site: `python -m docs.site [FOLDER]`, by default build/site.

Any warning of MkDocs ends it, and so does a page that would load something from a network.

Every page has its place: those that NAVIGATION names in that order, the others of a folder behind them by name.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort, MkDocsException

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NAVIGATION: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "How to",
        "how-to",
        (
            *(
                "protect-a-database",
                "managed-postgresql",
                "agents-roles",
                "guard",
                "tokens",
                "policy",
                "policy-in-ci",
                "migrations",
            ),
            *("approvals", "console", "approve-from-a-phone", "undo", "freeze", "break-glass", "audit", "alerts", "monitoring"),
            *("backups", "pgbackrest", "drills", "drills-from-cron", "restore", "disaster", "schedule"),
            *("deploy", "several-proxies", "upgrade", "rotate-secrets", "scan", "doctor", "troubleshooting"),
        ),
    ),
    ("Reference", "reference", ("command-line", "configuration", "rules", "rights", "error-codes", "audit-events", "metrics")),
    ("Explanation", "explanation", ("threat-model", "two-readers", "control-database-away", "comparison", "figures")),
    ("Decisions", "decisions", ()),
)
FIRST = ("index.md", "tutorial.md", "for-agents.md")
LOADED = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"(?:https?:)?//[^\"]+|<link[^>]*\shref=\"(?:https?:)?//[^\"]+")


def navigation() -> list[Any]:
    """What stands in the site's frame, as MkDocs takes it."""
    found: list[Any] = [name for name in FIRST if (DOCS / name).exists()]
    found += sorted(path.name for path in DOCS.glob("*.md") if path.name not in FIRST)
    for title, folder, first in NAVIGATION:
        there = {path.stem: path.relative_to(DOCS).as_posix() for path in sorted((DOCS / folder).glob("*.md"))}
        order = [name for name in first if name in there] + [name for name in there if name not in first]
        found.append({title: [there[name] for name in order]})
    return found


def loaded(folder: Path) -> list[str]:
    """What pages of the site would load from a network."""
    return [
        f"{page.relative_to(folder)}: {what[0]}"
        for page in sorted(folder.rglob("*.html"))
        for what in LOADED.finditer(page.read_text("utf-8"))
    ]


def main(arguments: list[str]) -> int:
    """0 where the site is built and whole."""
    options = {"site_dir": str(Path(arguments[0]).absolute())} if arguments else {}
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, nav=navigation(), **options)
    try:
        build(config)
    except (Abort, MkDocsException) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    strange = loaded(Path(config.site_dir))
    sys.stderr.write("".join(f"{each}\n" for each in strange))
    return 1 if strange else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
