"""What a contender costs: the CPU time and the memory of its own processes, read from the kernel."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence

import psutil


class Processes:
    """One process and everything below it: workers and helpers are part of what a proxy costs."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def cpu_seconds(self) -> float:
        """User and system time of all of them, with that of children that have ended and were waited for."""
        total = 0.0
        for process in self._all():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def resident_bytes(self) -> int:
        total = 0
        for process in self._all():
            try:
                total += int(process.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        return total

    def _all(self) -> Iterable[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class Neighbours:
    """What other programs took of the machine since this was made: they are the noise in every rate."""

    def __init__(self) -> None:
        self._ours = Processes(os.getpid())
        self._before = self._read()

    def share(self) -> float:
        """Their part of all CPU time that there was, from 0 to 1; steal by other machines on the same host is in it."""
        total, busy, ours = (now - then for now, then in zip(self._read(), self._before, strict=True))
        return others(total, busy, ours)

    def _read(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        # Guest time is in user time already (proc(5)).
        counted = {name: value for name, value in times._asdict().items() if not name.startswith("guest")}
        total = sum(counted.values())
        return total, total - counted["idle"] - counted.get("iowait", 0.0), self._ours.cpu_seconds()


def others(total: float, busy: float, ours: float) -> float:
    """The part of `total` that was neither idle nor ours. The kernel's clocks differ by a tick, so it is kept within 0 and 1."""
    return min(1.0, max(0.0, busy - ours) / total) if total > 0 else 0.0


def median(values: Sequence[float]) -> float | None:
    """None where nothing was measured."""
    return statistics.median(values) if values else None


def median_ratio(these: Sequence[float], those: Sequence[float]) -> float | None:
    """The median over the rounds of each round's own ratio, so that what slows a whole round down cancels out."""
    ratios = [this / that for this, that in zip(these, those, strict=False) if that > 0]
    return median(ratios)
