"""The report of a drill, for people: Markdown, and one HTML page that needs nothing but itself.

Names of tables in it come from the snapshot, so everything is escaped.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from dbshield.backup.drill import Drilled
from dbshield.backup.drill_store import Drill
from dbshield.backup.report_picture import picture
from dbshield.errors import BackupError

MEANING = {
    "passed": "The snapshot was restored, and everything in it is as it was recorded.",
    "failed": "The snapshot is bad: it does not restore, or not to what was recorded. Make another one, and find out why.",
    "error": "No verdict: something other than the snapshot was in the way. Mend it and drill again.",
}
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1d2733;background:#fff}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d5dbe1;vertical-align:top}
.passed{color:#1a7f37}.failed{color:#b42318}.error{color:#9a6700}.not-checked{color:#57606a}
h1 span{text-transform:uppercase}svg text{font:11px system-ui,sans-serif;fill:#57606a}code{font-size:.85em;word-break:break-all}
@media(prefers-color-scheme:dark){body{color:#dde4ea;background:#12181f}td,th{border-color:#33404d}
.passed{color:#56d364}.failed{color:#ff7b72}.error{color:#e3b341}}
"""


def write_reports(folder: Path, drilled: Drilled, history: Sequence[Drill]) -> tuple[Path, Path]:
    """Write both into a folder that is made for its owner alone; their paths, Markdown first. `history` are earlier drills, the
    newest first. Raises BackupError."""
    name = f"{drilled.snapshot.id}-{drilled.drill.began.astimezone(UTC):%Y%m%dt%H%M%Sz}-{secrets.token_hex(3)}"
    paths = folder / f"{name}.md", folder / f"{name}.html"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path, text in zip(paths, (markdown(drilled), html(drilled, history)), strict=True):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
                stream.write(text)
    except OSError as error:
        raise BackupError(
            f"the report cannot be written to {folder}: {error.strerror}; the drill {drilled.drill.verdict}",
            hint="Make room, or set report_folder.",
        ) from error
    return paths


def facts(drilled: Drilled) -> list[tuple[str, str]]:
    """What stands above the checks."""
    drill, found = drilled.drill, drilled.snapshot
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in drill.rto.items())
    rpo = f"{drill.rpo_seconds:.0f} s, counted from the {drilled.rpo_from}" if drill.rpo_seconds is not None else "unknown"
    rows = [
        ("snapshot", f"{found.id} ({found.engine}, {found.kind})"),
        ("environment", f"{found.environment}, plan {found.plan}"),
        ("PostgreSQL", str(drilled.server_version // 10000)),
        ("began", _time(drill.began)),
        ("ended", _time(drill.ended)),
        ("RTO", f"{drilled.rto_seconds:.1f} s ({phases})"),
        ("RPO", rpo),
        ("signature", f"{drilled.signature.value.hex()} by the key {drilled.signature.key}"),
    ]
    if drilled.evidence is not None:
        rows.append(("kept", f"{drilled.evidence}, with the data in clear"))
    return rows


def markdown(drilled: Drilled) -> str:
    drill = drilled.drill
    lines = [f"# Restore drill: {drill.verdict}", "", MEANING[drill.verdict], ""]
    lines += [f"- **{name}:** {_plain(text)}" for name, text in facts(drilled)]
    lines += ["", "| check | outcome | measure | seconds |", "|---|---|---|---:|"]
    lines += [
        f"| {_cell(check['name'])} | {check['outcome']} | {_cell(check['measure'])} | {check['seconds']:.2f} |"
        for check in drill.checks
    ]
    problems = [f"- **{_plain(check['name'])}:** {_plain(text)}" for check in drill.checks for text in check["problems"]]
    if problems:
        lines += ["", "## What is wrong", "", *problems]
    return "\n".join(lines) + "\n"


def html(drilled: Drilled, history: Sequence[Drill]) -> str:
    drill = drilled.drill
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{_code(name, text)}</td></tr>" for name, text in facts(drilled))
    checks = "".join(
        f"<tr><td>{escape(check['name'])}</td><td class={check['outcome']}>{escape(check['outcome'])}</td>"
        f"<td>{escape(check['measure'])}{''.join(f'<br><b class=failed>{escape(text)}</b>' for text in check['problems'])}</td>"
        f"<td>{check['seconds']:.2f}</td></tr>"
        for check in drill.checks
    )
    title = f"Restore drill of {escape(drilled.snapshot.environment)}: {drill.verdict}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style>"
        f"<h1>Restore drill: <span class={drill.verdict}>{drill.verdict}</span></h1><p>{MEANING[drill.verdict]}</p>"
        f"<table>{rows}</table><h2>Checks</h2>"
        f"<table><tr><th>check</th><th>outcome</th><th>measure</th><th>seconds</th></tr>{checks}</table>"
        f"<h2>Drills so far</h2>{picture([*reversed(history), drill])}</html>\n"
    )


def _time(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _code(name: str, text: str) -> str:
    return f"<code>{escape(text)}</code>" if name == "signature" else escape(text)


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>|#" else sign if sign.isprintable() else " " for sign in text)


def _cell(text: str) -> str:
    return _plain(text)
