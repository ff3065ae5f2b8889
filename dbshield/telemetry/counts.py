"""The numbers of one worker, and those of all workers together. Time comes in as an argument; nothing here waits or raises."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dbshield.metrics import BY_NAME, LATENCY_BUCKETS
from dbshield.telemetry.board import Board

MAX_SERIES: Final = 2_000
"""Of one worker. Names of agents come from people, so there are never so many; beyond it they are counted under OTHERS."""
OTHERS: Final = "others"
LARGEST: Final = frozenset({"dbshield_audit_lag_seconds"})
"""Gauges of which the workers' largest is told; all others are added up."""

Labels = tuple[str, ...]
Series = tuple[str, Labels]
"""A metric's name, and the values of its labels in its order."""


@dataclass(slots=True)
class Histogram:
    """How many observations were at most as large as each bucket and larger than the one before; the last has the rest."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS) + 1))
    sum: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.sum += seconds

    def add(self, other: Histogram) -> None:
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a worker told last. `beat` is the time of that on CLOCK_MONOTONIC, which all processes of a machine share, `pid` its
    process, `starts` how many workers there were in its place. `facts` are words about its state."""

    pid: int = 0
    starts: int = 0
    beat: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    counters: Mapping[Series, float] = field(default_factory=dict)
    gauges: Mapping[Series, float] = field(default_factory=dict)
    histograms: Mapping[Series, Histogram] = field(default_factory=dict)


class Counts:
    """Counts in memory, and shows it on a board. What stood there before is gone on from, except gauges."""

    def __init__(self, board: Board, *, pid: int) -> None:
        before = read(board)
        self._board = board
        self._pid = pid
        self._starts = before.starts + 1
        self._counters: dict[Series, float] = dict(before.counters)
        self._histograms: dict[Series, Histogram] = dict(before.histograms)
        self._gauges: dict[Series, float] = {}

    def add(self, name: str, labels: Labels = (), amount: float = 1.0) -> None:
        """Raise a counter."""
        series = (name, labels)
        found = self._counters.get(series)
        if found is None and len(self._counters) >= MAX_SERIES:
            series = (name, _without_agent(name, labels))
            found = self._counters.get(series)
        self._counters[series] = (found or 0.0) + amount

    def observe(self, name: str, labels: Labels, seconds: Iterable[float]) -> None:
        """Count observations in a histogram; what is below nothing was measured across a change of the clock, and is left out."""
        histogram = self._histograms.setdefault((name, labels), Histogram())
        for one in seconds:
            if one >= 0:
                histogram.observe(one)

    def gauges(self, gauges: Mapping[Series, float]) -> None:
        """What holds now, in place of all that held before; agents beyond MAX_SERIES together."""
        self._gauges = {}
        for (name, labels), value in gauges.items():
            series = (name, labels if len(self._gauges) < MAX_SERIES else _without_agent(name, labels))
            self._gauges[series] = self._gauges.get(series, 0.0) + value

    def publish(self, now: float, facts: Mapping[str, Any]) -> None:
        """Show all of it; `now` is a time of CLOCK_MONOTONIC."""
        tree = {
            "pid": self._pid,
            "starts": self._starts,
            "beat": now,
            "facts": facts,
            "counters": [[*series, value] for series, value in self._counters.items()],
            "gauges": [[*series, value] for series, value in self._gauges.items()],
            "histograms": [[*series, [one.counts, one.sum]] for series, one in self._histograms.items()],
        }
        self._board.write(json.dumps(tree, separators=(",", ":")).encode())


def read(board: Board) -> Reading:
    """What a board shows; an empty reading where no worker has written yet."""
    payload = board.read()
    if not payload:
        return Reading()
    tree = json.loads(payload)
    return Reading(
        pid=tree["pid"],
        starts=tree["starts"],
        beat=tree["beat"],
        facts=tree["facts"],
        counters={(name, tuple(labels)): value for name, labels, value in tree["counters"]},
        gauges={(name, tuple(labels)): value for name, labels, value in tree["gauges"]},
        histograms={(name, tuple(labels)): Histogram(counts, total) for name, labels, (counts, total) in tree["histograms"]},
    )


def together(readings: Iterable[Reading], living: Iterable[Reading]) -> tuple[dict[Series, float], dict[Series, Histogram]]:
    """All workers as one: what only grows of all `readings`, those of the dead too, and what holds now of the `living`."""
    values: dict[Series, float] = {}
    histograms: dict[Series, Histogram] = {}
    for reading in readings:
        for series, value in reading.counters.items():
            values[series] = values.get(series, 0.0) + value
        for series, one in reading.histograms.items():
            histograms.setdefault(series, Histogram()).add(one)
    for reading in living:
        for series, value in reading.gauges.items():
            before = values.get(series, 0.0)
            values[series] = max(before, value) if series[0] in LARGEST else before + value
    return values, histograms


def _without_agent(name: str, labels: Labels) -> Labels:
    return tuple(OTHERS if label == "agent" else value for label, value in zip(BY_NAME[name].labels, labels, strict=True))
