"""Daemons: told by signals to stop, and run beside `dbshield up` in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from dbshield.config import Config
from dbshield.errors import DbshieldError
from dbshield.proxy.signals import HEARD, hear
from dbshield.proxy.supervisor import end_with_parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What signals have told a daemon: to stop (SIGTERM, SIGINT), or to read its configuration again (SIGHUP)."""

    stop: threading.Event = field(default_factory=threading.Event)
    reload: threading.Event = field(default_factory=threading.Event)


def told_by_signals() -> Told:
    """From now on signals end nothing by themselves; whoever works looks at what they told."""
    told = Told()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.stop.set())
    signal.signal(signal.SIGHUP, lambda *_: told.reload.set())
    hear()
    return told


@contextlib.contextmanager
def beside(name: str, work: Callable[[Told], None], *, again: float = 0) -> Iterator[int]:
    """Does `work` in a process of its own while the block runs: its number. It ends with this process, however that ends.

    With `again`, a bug in it is met with another attempt after so many seconds, since it would be missed too late.
    """
    parent = os.getpid()
    # A signal that comes before the process listens to signals would end it, or be lost on it: it waits at the door.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            end_with_parent(parent)
            code = _child(name, work, again)
        finally:
            # Whatever happens, nothing of what the parent does next is done here as well.
            os._exit(code)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def passing_on(load: Callable[[], Config], children: Sequence[int | None]) -> Callable[[], Config]:
    """`load` for who hears SIGHUP: it tells these processes too, which read the configuration by themselves."""

    def told() -> Config:
        for pid in children:
            if pid is not None:
                # One that has ended is not buried before its block ends, so its number belongs to nobody else.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGHUP)
        return load()

    return told


def _child(name: str, work: Callable[[Told], None], again: float) -> int:
    log = structlog.get_logger(f"dbshield.{name}")
    told = told_by_signals()
    while True:
        try:
            work(told)
        except DbshieldError as error:
            log.error(f"the {name} cannot go on", why=error.message, hint=error.hint)
            return 2
        except Exception:
            log.exception(f"bug in the {name}")
            if not again:
                return 2
            told.stop.wait(again)
        if told.stop.is_set() or not again:
            return 0
