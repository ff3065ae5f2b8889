"""What a contender costs: the CPU time and the memory of its own processes, read from the kernel."""

from __future__ import annotations

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


def median(values: Sequence[float]) -> float | None:
    """None where nothing was measured."""
    return statistics.median(values) if values else None


def median_ratio(these: Sequence[float], those: Sequence[float]) -> float | None:
    """The median over the rounds of each round's own ratio, so that what slows a whole round down cancels out."""
    ratios = [this / that for this, that in zip(these, those, strict=False) if that > 0]
    return median(ratios)
