"""What a worker shows is whole, outlives it, and never goes back."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing

import pytest
from support.waiting import DEADLINE

from dbshield.telemetry.board import HALF_BYTES, SHOWN, Board
from dbshield.telemetry.counts import LARGEST, MAX_SERIES, OTHERS, Counts, Reading, read, together

STATEMENTS = "dbshield_statements_total"
CONNECTIONS = "dbshield_connections"
LATENCY = "dbshield_added_latency_seconds"


def test_nothing_is_shown_before_anything_is_written() -> None:
    with closing(Board()) as board:
        assert board.read() == b""
        assert read(board) == Reading()


def test_the_newest_is_shown_and_what_does_not_fit_changes_nothing() -> None:
    with closing(Board()) as board:
        for number in range(5):
            board.write(b"%d" % number * 1000)
            assert board.read() == b"%d" % number * 1000
        with pytest.raises(ValueError, match="do not fit"):
            board.write(b"x" * HALF_BYTES)
        assert board.read() == b"4" * 1000


def test_a_writer_that_dies_in_the_middle_leaves_what_was_shown() -> None:
    with closing(Board()) as board:
        board.write(b"whole")
        # Half of the next one, which was not shown yet.
        board._memory[SHOWN.size : SHOWN.size + 40] = b"\xff" * 40
        assert board.read() == b"whole"


def test_a_reader_never_sees_half_of_anything() -> None:
    """Against a process that writes as fast as it can."""
    with closing(Board()) as board:
        board.write(b"a" * 50_000)
        pid = os.fork()
        if pid == 0:
            number = 0
            while True:
                number += 1
                board.write(bytes([97 + number % 26]) * 50_000)
        looks, seen = 0, set[bytes]()
        end = time.monotonic() + DEADLINE
        try:
            # The writer may get the processor long after us.
            while (looks < 500 or len(seen) < 3) and time.monotonic() < end:
                payload = board.read()
                assert len(set(payload)) <= 1
                assert len(payload) in {0, 50_000}
                looks += 1
                seen.add(payload[:1])
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        assert len(seen) > 2
        # Killed at any moment, it left something whole.
        assert len(board.read()) == 50_000


def test_the_next_worker_goes_on_from_the_last_one() -> None:
    with closing(Board()) as board:
        first = Counts(board, pid=11)
        first.add(STATEMENTS, ("e", "a", "allow", ""), 40)
        first.observe(LATENCY, ("server",), [0.000_03, 0.3, -0.1])
        first.gauges({(CONNECTIONS, ("e", "a")): 7.0})
        first.publish(100.0, {"refuses": ""})
        first.add(STATEMENTS, ("e", "a", "allow", ""), 5)  # and dies before it shows that

        second = Counts(board, pid=12)
        second.publish(200.0, {})
        second.add(STATEMENTS, ("e", "a", "allow", ""), 2)
        second.publish(201.0, {"refuses": "no"})
        reading = read(board)
    assert (reading.pid, reading.starts, reading.beat, reading.facts) == (12, 2, 201.0, {"refuses": "no"})
    assert reading.counters == {(STATEMENTS, ("e", "a", "allow", "")): 42.0}
    assert reading.gauges == {}
    histogram = reading.histograms[LATENCY, ("server",)]
    assert sum(histogram.counts) == 2
    assert histogram.sum == pytest.approx(0.30003)


def test_what_grows_is_added_up_over_the_dead_too_and_what_holds_over_the_living() -> None:
    lag = next(iter(LARGEST))
    dead = Reading(counters={(STATEMENTS, ("e", "a", "allow", "")): 40.0}, gauges={(CONNECTIONS, ("e", "a")): 9.0})
    one = Reading(counters={(STATEMENTS, ("e", "a", "allow", "")): 2.0}, gauges={(CONNECTIONS, ("e", "a")): 1.0, (lag, ()): 3.0})
    two = Reading(gauges={(CONNECTIONS, ("e", "a")): 2.0, (lag, ()): 2.0})
    values, histograms = together([dead, one, two], [one, two])
    assert values == {(STATEMENTS, ("e", "a", "allow", "")): 42.0, (CONNECTIONS, ("e", "a")): 3.0, (lag, ()): 3.0}
    assert histograms == {}


def test_agents_without_end_fit_on_the_board_and_none_of_their_statements_is_lost() -> None:
    with closing(Board()) as board:
        counts = Counts(board, pid=1)
        agents = [f"agent-{number:06d}" for number in range(2 * MAX_SERIES)]
        for agent in agents:
            counts.add(STATEMENTS, ("environment", agent, "allow", ""))
        counts.gauges({(CONNECTIONS, ("environment", agent)): 1.0 for agent in agents})
        counts.publish(1.0, {})
        reading = read(board)
    assert sum(reading.counters.values()) == sum(reading.gauges.values()) == 2 * MAX_SERIES
    assert len(reading.counters) == len(reading.gauges) == MAX_SERIES + 1
    assert reading.counters[STATEMENTS, ("environment", OTHERS, "allow", "")] == MAX_SERIES
