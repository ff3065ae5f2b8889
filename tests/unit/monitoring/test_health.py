"""Healthy and ready: about whom each speaks, and what it takes for no."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from dbshield.monitoring.health import HUNG, health, readiness, turning
from dbshield.telemetry.counts import Reading

NOW = 1_000.0
US = os.getpid()
CONNECTED = ("dbshield_control_connected_workers", ())


def worker(*, pid: int = US, beat: float = NOW - 1, refuses: str = "", connected: float = 1.0) -> Reading:
    return Reading(pid=pid, starts=1, beat=beat, facts={"refuses": refuses}, gauges={CONNECTED: connected})


@pytest.fixture
def ended() -> int:
    """The number of a process that is just over: later it may be another's."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_worker_turns_while_its_process_lives_and_gives_signs_of_it(ended: int) -> None:
    assert turning(worker(), NOW)
    assert not turning(worker(beat=NOW - HUNG - 0.1), NOW)
    assert not turning(worker(pid=ended), NOW)
    assert not turning(Reading(), NOW)


def test_healthy_needs_one_worker_and_no_worker_that_hangs(ended: int) -> None:
    hangs = worker(beat=NOW - HUNG - 0.1)
    dead = worker(pid=ended)
    assert health([worker(), worker()], NOW).yes
    assert health([worker(), dead], NOW).yes  # it is started again
    assert health([worker(refuses="everybody")], NOW).yes  # nobody would be helped by starting it anew
    assert not health([worker(), hangs], NOW).yes
    assert not health([dead], NOW).yes
    assert not health([Reading()], NOW).yes


READY: tuple[tuple[str, list[Reading], dict[str, bool | None], str, str], ...] = (
    ("all is well", [worker()], {"a": True, "b": True}, "", ""),
    ("one server of two", [worker()], {"a": True, "b": False}, "", ""),
    ("the one that is asked for", [worker()], {"a": True, "b": False}, "a", ""),
    ("the other one", [worker()], {"a": True, "b": False}, "b", "the server of b does not answer"),
    ("no server", [worker()], {"a": False, "b": False}, "", "no protected server answers"),
    ("a server of which nothing is known", [worker()], {"a": None}, "", "no protected server answers"),
    ("nobody is served", [worker(refuses="no audit")], {"a": True}, "", "no audit"),
    ("one worker serves", [worker(refuses="no audit"), worker()], {"a": True}, "", ""),
    ("no worker", [Reading()], {"a": True}, "", "no worker stands"),
    ("a worker that hangs", [worker(beat=0.0)], {"a": True}, "", "no worker stands"),
)


@pytest.mark.parametrize(
    ("readings", "upstreams", "environment", "why"), [one[1:] for one in READY], ids=[one[0] for one in READY]
)
def test_ready_is_whether_a_login_would_be_served(
    readings: list[Reading], upstreams: dict[str, bool | None], environment: str, why: str
) -> None:
    answer = readiness(readings, NOW, upstreams=upstreams, environment=environment)
    assert (answer.yes, answer.said["why"] or "") == (not why, why)


def test_ready_says_what_it_lacks_all_the_same() -> None:
    answer = readiness([worker(), worker(connected=0.0)], NOW, upstreams={"a": True, "b": False, "c": None})
    said: dict[str, Any] = dict(answer.said)
    assert answer.yes
    assert said["control_database"] == "away"
    assert said["environments"] == {"a": "answers", "b": "away", "c": "unknown"}
    assert said["workers"] == {"configured": 2, "turning": 2, "serving": 2}
