"""What a shell offers when somebody presses the tab key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import run_command

from dbshield.cli.completion import SCRIPTS, offers
from dbshield.cli.main import COMMANDS

OFFERS: tuple[tuple[str, list[str]], ...] = (
    ("to", ["token", "top"]),
    ("agent fr", ["freeze"]),
    ("agent create --ac", ["--access"]),
    ("agent create --access ", ["migrate", "read", "write"]),
    ("agent create --access w", ["write"]),
    ("approvals list --state wi", ["withdrawn"]),
    ("completion b", ["bash"]),
    ("top --on", ["--once"]),
    ("top --once --js", ["--json"]),
    ("nothing ", []),
    ("agent create claude ", []),
)


@pytest.mark.parametrize(("typed", "offered"), OFFERS, ids=[typed for typed, _ in OFFERS])
def test_what_comes_next_is_offered(typed: str, offered: list[str]) -> None:
    assert offers(typed.split(" ")) == offered


def test_every_command_is_offered_and_each_can_be_completed() -> None:
    assert offers([""]) == [command.name for command in COMMANDS]
    for command in COMMANDS:
        assert "--help" in offers([command.name, "--"])


def test_environments_are_those_of_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "dbshield.toml"
    config.write_text(
        '[environments.staging]\nupstream = "postgresql://a@h/s"\n'
        '[environments.production]\nupstream = "host=h user=a dbname=p"\n'
    )
    assert offers(["agent", "create", "claude", "--environment", ""], config) == ["production", "staging"]
    assert offers(["agent", "create", "claude", "--environment", ""], tmp_path / "nowhere.toml") == []


def test_bash_completes_with_the_script_that_is_printed(tmp_path: Path) -> None:
    """A real bash, as it calls the function when the key is pressed."""
    here = tmp_path / "dbshield"
    here.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; from dbshield.cli import main; main()" "$@"\n')
    here.chmod(0o755)
    script = f'{SCRIPTS["bash"]}\nCOMP_WORDS=(dbshield approvals li) COMP_CWORD=2\n_dbshield\necho "${{COMPREPLY[@]}}"'
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=path, timeout=60)
    assert (done.stdout, done.stderr) == ("list\n", "")


@pytest.mark.parametrize("shell", [*SCRIPTS])
def test_scripts_are_printed(shell: str) -> None:
    done = run_command(["completion", shell], env={"PATH": os.environ["PATH"]})
    assert (done.returncode, done.stdout) == (0, SCRIPTS[shell])
