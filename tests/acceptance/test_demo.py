"""`dbshield demo` holds, tells so, and leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.shield import COMMAND
from support.waiting import until

from dbshield.cluster import temporary_folder

PATIENCE = 300.0
"""Seconds for one demo, which takes under a minute where nothing else runs."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A temporary folder that the demo has for itself."""
    folder = temporary_folder("demo-test-")
    yield folder
    shutil.rmtree(folder)


def start(place: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "demo", *words],
        env={**os.environ, "TMPDIR": str(place)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def processes(place: Path) -> list[str]:
    """Command lines that still name the demo's folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if str(place) in words:
            found.append(words)
    return found


def nothing_left(place: Path) -> bool:
    return processes(place) == [] and list(place.iterdir()) == []


@pytest.mark.timeout(3 * PATIENCE)
def test_it_holds_twice_in_a_row_for_people_and_for_machines(place: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = start(place)
    out, said = ran.communicate(timeout=PATIENCE)
    assert ran.returncode == 0, out + said
    assert "All of it held" in out
    assert "\x1b" not in out
    assert out.count("■ stopped") >= 10
    assert "HINT" in out
    assert "■ waits" in out
    assert "ann takes it back: 0 rows are missing" in out
    assert "is whole" in out
    assert "of the audit: 0 rows are missing" in out
    assert said == ""
    assert nothing_left(place)
    ran = start(place, "--json")
    out, said = ran.communicate(timeout=PATIENCE)
    assert ran.returncode == 0, out + said
    assert nothing_left(place)
    told = json.loads(out)
    assert told["held"] is True
    assert all(attack["held"] and attack["rows_lost_without"] > 0 for attack in told["stopped"])
    assert all(table["fingerprint_before"] == table["fingerprint_after"] for table in told["tables"])
    decided = told["decided"]
    assert (decided["held"], decided["answer"], decided["rows_missing_after_undo"]) == (True, "DROP TABLE", 0)
    assert decided["rows_gone"] == 6001
    assert decided["audit"]["verdict"] == "whole"
    rescued = told["rescued"]
    assert (rescued["held"], rescued["rows_deleted"], rescued["rows_missing_after_restore"]) == (True, 40, 0)
    assert rescued["restore_seconds"] > 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 2 * 60, "under a minute of work each, which on a machine of its own is more than it takes"


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
MOMENTS = ("starts", "stands", "works", "decides", "archived")
EVERY_TIME = {("starts", signal.SIGTERM), ("stands", signal.SIGINT), ("decides", signal.SIGKILL)}
"""Each signal once; every one at every moment in the long run."""


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        pytest.param(
            moment, number, id=f"{moment}-{number.name}", marks=[] if (moment, number) in EVERY_TIME else pytest.mark.long
        )
        for moment in MOMENTS
        for number in SIGNALS
    ],
)
def test_it_cleans_up_when_it_is_interrupted(place: Path, moment: str, number: signal.Signals) -> None:
    """Even SIGKILL leaves no process and no folder: what it started notices."""
    ran = start(place)
    try:
        assert ran.stdout is not None
        while moment not in (line := ran.stdout.readline()):
            assert line, "the demo ended early"
        ran.send_signal(number)
    finally:
        ran.communicate(timeout=120)
    assert ran.returncode == (-9 if number is signal.SIGKILL else 130)
    assert until(lambda: nothing_left(place), deadline=90), (processes(place), list(place.iterdir()))
