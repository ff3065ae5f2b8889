"""The console hands out reports of drills, whose paths stand in the control database, and no other file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dbshield.backup.drill_store import Drill, Kept
from dbshield.config import Config, load_config
from dbshield.console.pages.backups import report_of

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "dbshield.toml"
    path.write_text(f'state = "{tmp_path / "state"}"\n')
    (tmp_path / "state" / "reports").mkdir(parents=True)
    return load_config(path)


def kept(report: Path | str | None) -> Kept:
    drill = Drill(snapshot="s", began=NOW, ended=NOW, verdict="passed", checks=[], rpo_seconds=None, rto={})
    return Kept(id=1, drill=drill, environment="production", report=str(report) if report is not None else None, signature=None)


def test_a_report_of_ours_is_handed_out(config: Config) -> None:
    path = config.state / "reports" / "one.md"
    path.write_text("# Restore drill: passed\n")
    assert report_of(config, kept(path)) == path.resolve()


def test_nothing_else_is(config: Config, tmp_path: Path) -> None:
    reports = config.state / "reports"
    secret = config.state / "secret.md"
    secret.write_text("secret")
    (reports / "link.md").symlink_to(secret)
    (reports / "page.html").write_text("<p>")
    (reports / "folder.md").mkdir()
    (reports / "folder.md" / "deep.md").write_text("deep")
    for path in (
        None,
        "",
        "/etc/passwd",
        secret,
        reports / ".." / "secret.md",
        reports / "link.md",
        reports / "page.html",
        reports / "folder.md",
        reports / "folder.md" / "deep.md",
        reports / "gone.md",
        "x" * 5_000,
        "nul\0.md",
    ):
        assert report_of(config, kept(path)) is None, path
