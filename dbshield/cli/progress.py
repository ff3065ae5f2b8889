"""A progress bar on a terminal, and nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from dbshield.backup.engine import Progress, Silent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Drawn
    from rich.progress import Task, TaskID


class _Bar:
    """The step that is under way, as a bar; those before stay above it."""

    def __init__(self, drawn: Drawn) -> None:
        self._drawn = drawn
        self._task: TaskID | None = None

    def step(self, name: str, total: int | None) -> None:
        if self._task is not None:
            done = self._drawn.tasks[-1]
            self._drawn.update(self._task, total=done.total or 1, completed=done.total or 1)
        self._task = self._drawn.add_task(name, total=total)

    def advance(self, amount: int) -> None:
        if self._task is not None:
            self._drawn.advance(self._task, amount)


def time_text(task: Task) -> str:
    """What a step still takes at its present rate; what it took so far where that is over, or where nobody knows its size."""
    left = None if task.finished or task.total is None else task.time_remaining
    if left is not None:
        return f"{timedelta(seconds=int(left))} left"
    took = task.finished_time if task.finished else task.elapsed
    return str(timedelta(seconds=int(took or 0)))


def drawing(console: Console, *, clock: Callable[[], float] | None = None) -> Drawn:
    """Bars with bytes, rate and time; `clock` counts seconds, for tests."""
    from rich.progress import BarColumn, DownloadColumn, ProgressColumn, TextColumn, TransferSpeedColumn  # noqa: PLC0415
    from rich.progress import Progress as Drawn  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    class Time(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(time_text(task))

    # So narrow that all of it stands on one line of a terminal with 80 columns.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(18), DownloadColumn(), TransferSpeedColumn(), Time())
    return Drawn(*columns, console=console, get_time=clock)


@contextmanager
def shown(*, quiet: bool = False) -> Iterator[Progress]:
    """Progress of a command, on standard error where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield Silent()
        return
    from rich.console import Console  # noqa: PLC0415  (a twentieth of a second that a pipe does not need)

    with drawing(Console(stderr=True)) as drawn:
        yield _Bar(drawn)
