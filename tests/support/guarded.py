"""The arena where the guard is installed beside the proxy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from support.arena import Arena
from support.cases import Case

OUR_TRIGGER = re.compile(r"trigger .+[.]dbshield_(rows|truncate) was added")
"""A new table is guarded; that is no loss."""


class GuardedArena(Arena):
    """The template that its databases are cloned from has the guard already."""

    def run(self, case: Case) -> tuple[list[str], list[str | None]]:
        lost, errors = super().run(case)
        return [loss for loss in lost if not OUR_TRIGGER.search(loss)], errors

    @contextmanager
    def cleared(self) -> Iterator[None]:
        """A fresh database for what is no case; whoever comes next gets a fresh one as well."""
        self.close()
        self._fresh()
        try:
            yield
        finally:
            self.fixture.quiet()
            self.close()
