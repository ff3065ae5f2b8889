"""A progress bar on a terminal, and nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dbshield.backup.engine import Progress, Silent

if TYPE_CHECKING:
    from rich.progress import Progress as Drawn
    from rich.progress import TaskID


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


@contextmanager
def shown(*, quiet: bool = False) -> Iterator[Progress]:
    """Progress of a command, on standard error where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield Silent()
        return
    from rich.console import Console  # noqa: PLC0415  (a twentieth of a second that a pipe does not need)
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn  # noqa: PLC0415
    from rich.progress import Progress as Drawn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Drawn(*columns, console=Console(stderr=True)) as drawn:
        yield _Bar(drawn)
