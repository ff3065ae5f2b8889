"""docs/tutorial.md, run as it is written: every command and every statement in its order, and what they print.

Where the page has `…`, anything may stand; the approval has an id of its own; codes of the second factor come from a variable
instead of the keyboard. The first block, `make setup`, is what CI begins with.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.background import Background
from support.commands import Command, run_command
from support.company import CODE
from support.ports import free_port
from support.waiting import until

from dbshield.cli.demo.stage import Phone
from dbshield.cluster import embedded_binaries, temporary_folder
from docs.blocks import Block, blocks

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text("utf-8")
PASTE = re.compile(r'psql "([^"]+)"')
APPROVAL = re.compile(r"apr-[a-z0-9]+")
EXAMPLE = "apr-k3x7w2mq"
PATIENCE = 120.0
PSQL = embedded_binaries().program("psql")
DECIDES = ("approvals approve", "undo")
ANYTHING = "…"


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder, in reach of the account that PostgreSQL runs as."""
    folder = temporary_folder("tutorial-test-")
    yield folder
    shutil.rmtree(folder)


class Reader:
    """Somebody who does what the page says."""

    def __init__(self, place: Path) -> None:
        self.place = place
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("DBSHIELD_", "PG"))}
        self.environment = clean | {
            "DBSHIELD_STATE": str(place / "state"),
            "DBSHIELD_PROXY__LISTEN": f"127.0.0.1:{free_port()}",
            "DBSHIELD_CONSOLE__LISTEN": f"127.0.0.1:{free_port()}",
            "COLUMNS": "200",
        }
        self.log = place / "up.log"
        self.up: subprocess.Popen[bytes] | None = None
        self.dsn = self.approval = self.noticed = ""
        self.phone: Phone | None = None
        self.waits: Background[str] | None = None

    def does(self, block: Block) -> None:
        """One block of the page, the statements of psql or the commands of a shell."""
        prompt = "shop=> " if block.language == "text" else "$ "
        if not block.text.startswith(prompt):
            assert self.waits is not None, block.text
            self.compare(self.waits.result(), self.noticed + block.text)
            return
        for part in re.split(rf"^{re.escape(prompt)}", block.text, flags=re.MULTILINE)[1:]:
            line, _, expected = part.partition("\n")
            if block.language == "console":
                self.compare(self.types(line.replace(EXAMPLE, self.approval)), expected)
            elif expected.startswith("NOTICE"):
                self.noticed = expected
                self.waits = Background(partial(self.sends, line))
            else:
                self.compare(self.sends(line), expected)

    def types(self, line: str) -> str:
        """A command, as the page has it."""
        program, *words = shlex.split(line)
        assert program == "dbshield"
        said = " ".join(words)
        if said == "up":
            return self.starts()
        if said.startswith("user add"):
            uri = self.runs(*words)
            self.phone = Phone(uri.partition("secret=")[2].partition("&")[0])
            self.runs("user", "confirm", words[-1], "--code-env", CODE, code=self.phone.code())
            return ""
        if said == "approvals list":
            assert until(lambda: APPROVAL.search(self.runs(*words)), deadline=PATIENCE)
            shown = self.runs(*words)
            self.approval = APPROVAL.findall(shown)[0]
            return shown
        if said.startswith("approvals show"):
            # The executor looks at what would be hit a moment after the question is there.
            assert until(lambda: "rows now" in self.runs(*words), deadline=PATIENCE)
        if said.startswith(DECIDES):
            assert self.phone is not None
            return self.runs(*words, "--code-env", CODE, code=self.phone.code())
        return self.runs(*words)

    def runs(self, *words: str, code: str = "") -> str:
        done = run_command(words, cwd=self.place, env=self.environment | {CODE: code}, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def starts(self) -> str:
        with self.log.open("wb") as out:
            self.up = Command(
                ["up"],
                cwd=self.place,
                env=self.environment | {"COLUMNS": "80"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        up = self.up
        signs = ("executor is ready", f'"address": "{self.environment["DBSHIELD_PROXY__LISTEN"]}"')

        def stands() -> bool:
            text = self.log.read_text()
            return all(sign in text for sign in signs) or up.poll() is not None

        ready = until(stands, deadline=PATIENCE)
        shown = self.log.read_text()
        found = PASTE.search(shown)
        assert ready, shown
        assert found, shown
        self.dsn = found[1]
        return shown.replace(self.environment["DBSHIELD_PROXY__LISTEN"], "127.0.0.1:6432")

    def sends(self, statement: str) -> str:
        """What psql prints of one statement, as it would in a terminal."""
        done = subprocess.run(
            [PSQL, "-X", self.dsn, "-c", statement],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        return done.stdout

    def compare(self, shown: str, expected: str) -> None:
        """What was printed is what the page has, but for white space at the ends of lines."""
        lines = [line.rstrip() for line in expected.strip("\n").splitlines()]
        pattern = "".join(r"(?:[^\n]*\n)*" if line == ANYTHING else self._line(line) for line in lines)
        found = "".join(f"{line.rstrip()}\n" for line in shown.strip("\n").splitlines())
        assert re.fullmatch(pattern, found), f"the page has\n{expected}\nand there is\n{shown}"

    def _line(self, line: str) -> str:
        wild = "[^\n]*".join(map(re.escape, line.replace(EXAMPLE, self.approval or EXAMPLE).split(ANYTHING)))
        return re.sub(r"(?:\\ )+", " +", wild) + "\n"

    def stops(self) -> None:
        if self.up is not None:
            self.up.send_signal(signal.SIGTERM)
            self.up.wait(PATIENCE)


def test_the_tutorial_is_true(place: Path) -> None:
    first, *others = blocks(PAGE)
    assert first.text == "make setup\n"
    reader = Reader(place)
    try:
        for block in others:
            reader.does(block)
    finally:
        reader.stops()
    assert reader.approval
    assert "Traceback" not in reader.log.read_text()
