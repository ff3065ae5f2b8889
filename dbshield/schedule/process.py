"""A job under way: a process of its own, which ends with the scheduler, whatever ends that."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Final

from dbshield.schedule.child import START

OUTPUT_TAIL: Final = 16_384
"""Bytes of what a job said that are looked at; the end says what went wrong."""


class Process:
    """One run of the command line. The kernel ends it with the thread that made it, which has to be the main one."""

    def __init__(self, words: Sequence[str], *, keep: bool = True) -> None:
        """`keep` what it says; else that goes to where our own log does, for a job that lasts for months."""
        self._said = tempfile.TemporaryFile() if keep else None  # noqa: SIM115  (closed when the process has ended)
        self._process = subprocess.Popen(
            [sys.executable, *START, str(os.getpid()), *words],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT if keep else None,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> int | None:
        """Its exit code, negative for a signal; nothing while it goes on."""
        return self._process.poll()

    def output(self) -> str:
        """The end of what it said, with everything escaped that a terminal would obey. For once, after it has ended."""
        if self._said is None:
            return ""
        with self._said as said:
            said.seek(0, os.SEEK_END)
            said.seek(max(0, said.tell() - OUTPUT_TAIL))
            text = said.read().decode(errors="replace")
        return "".join(sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode() for sign in text)

    def ask_to_end(self) -> None:
        """SIGTERM: a backup removes what it has written, and says so in the catalogue."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to it and to everything that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
