"""docs/how-to/freeze.md and drills-from-cron.md: their commands are run as they stand, and print what the pages have.

`…` stands for nothing there; times are those of the page's example, so digits are any digits.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import run_command
from support.control import empty_database
from support.servers import Server

from docs.blocks import blocks, commands

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
PATIENCE = 120.0


class Team:
    """Whose environments and agent have the pages' names. No server of theirs is asked."""

    def __init__(self, folder: Path, control: str) -> None:
        self.folder = folder
        self.file = folder / "dbshield.toml"
        upstream = 'upstream = "host=/nonexistent user=app dbname=shop"'
        lines = [f'state = "{folder / "state"}"', "[control]", f'url = "{control}"', "[environments.production]", upstream]
        lines += ["[backup.nightly]", 'environment = "production"', f'destination = "file://{folder / "backups"}"']
        lines += ['encryption = "none"', 'snapshot_at = "0 3 * * *"', 'drill_at = "0 4 * * sat"']
        self.file.write_text("\n".join(lines) + "\n")

    def runs(self, *words: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DBSHIELD_", "PG"))}
        done = run_command(words, cwd=self.folder, env=kept | {"COLUMNS": "200"}, timeout=PATIENCE)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def team(server18: Server, tmp_path: Path) -> Iterator[Team]:
    with empty_database(server18) as control:
        made = Team(tmp_path, control)
        made.runs("init")
        yield made


def test_a_freeze_and_a_thaw_say_what_the_page_has(team: Team) -> None:
    team.runs("agent", "create", "claude", "--environment", "production", "--access", "write")
    done = 0
    for block in blocks((HOW_TO / "freeze.md").read_text("utf-8")):
        for part in re.findall(r"^\$ dbshield (.+)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
            line, expected = part
            pattern = re.sub(r"\d+", r"\\d+", re.escape(expected))
            said = team.runs(*shlex.split(line))
            assert re.fullmatch(pattern, said), f"the page has\n{expected}\nand there is\n{said}"
            done += 1
        if block.language == "toml":
            team.file.write_text(team.file.read_text().replace("[environments.production]\n", block.text, 1))
            team.runs("config", "check")
            (shown,) = json.loads(team.runs("environment", "list", "--json"))
            assert shown["frozen_in_configuration"]
            done += 1
    assert done == 5


def test_the_crontab_is_the_schedules_own(team: Team) -> None:
    page = (HOW_TO / "drills-from-cron.md").read_text("utf-8")
    said = team.runs("schedule", "show")
    (line,) = [text for block in blocks(page) for text in block.text.splitlines() if block.language == "cron" and " * * " in text]
    times, _, command = line.partition("/usr/bin/dbshield ")
    words, _, _ = command.partition(" --config")
    assert any(text.startswith(times) and words in text for text in said.splitlines()), said
    drill = next(call.words for call in commands(page, "dbshield") if call.words[:1] == ("restore-drill",))
    assert shlex.split(words) == list(drill[: len(shlex.split(words))])
    assert "Persistent=true" in team.runs("schedule", "show", "--systemd")


@pytest.mark.parametrize(("verdict", "pages"), [(0, False), (1, True), (2, False)])
def test_only_a_bad_snapshot_pages_somebody(tmp_path: Path, verdict: int, pages: bool) -> None:
    """The line of the page, with programs of these names that end as dbshield does (its exit codes have tests of their own)."""
    page = (HOW_TO / "drills-from-cron.md").read_text("utf-8")
    (line,) = [block.text.strip() for block in blocks(page) if "page-somebody" in block.text]
    for name, text in (("dbshield", f"exit {verdict}"), ("page-somebody", f"touch {tmp_path / 'paged'}")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    subprocess.run(["/bin/sh", "-c", line], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False, timeout=PATIENCE)
    assert (tmp_path / "paged").exists() == pages
