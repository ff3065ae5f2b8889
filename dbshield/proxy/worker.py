"""One worker: an event loop that accepts clients, and ends in order.

SIGTERM and SIGINT drain: nothing new is taken, what runs may finish. SIGHUP reads the configuration again: policies, and what the
audit shows of statements, change at once for sessions that stand too, other settings for those that come, and a configuration
that is not valid changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from dbshield.config import AuditConfig, Config
from dbshield.errors import ConfigError, DbshieldError
from dbshield.proxy import login, signals
from dbshield.proxy.ending import end_untrusted
from dbshield.proxy.memory import release_free_memory
from dbshield.proxy.state import WorkerState
from dbshield.proxy.tls import forget_contexts, server_context
from dbshield.proxy.upstream import notice_when_gone

AUDIT_FLUSH: Final = 0.1
"""Seconds between two writes of the audit: half of what a read's entry may take to the control database."""
GIVE_BACK: Final = 5.0
"""Seconds between two looks whether a crowd has left."""
CROWD: Final = 500
"""Sessions that end before their memory is worth a walk through the heap."""
FOLLOW: Final = 0.5
"""Seconds between two looks whether another policy holds now, or a token is over; what is changed by somebody is followed at
once."""
NOTE: Final = 5.0
"""Seconds between two looks whether there is something to write back to the control database."""
MEASURE: Final = 1.0
"""Seconds between two showings of what was counted, and so between two signs of life."""
ACCEPTS_AT_ONCE: Final = 64
"""Connections taken in one turn of the loop, so that sessions that stand get theirs."""
AT_START: Final = ("listen", "workers", "idle_timeout")
"""Keys of [proxy] that are read once."""
AUDIT_AT_START: Final = tuple(key for key in AuditConfig.model_fields if key != "statements")
"""Those of [audit]. How much is written of statements changes at once: somebody may have seen there what nobody may see."""
ACCEPT_PAUSE: Final = 0.5
"""Seconds without accepting after the system had no descriptor to give."""


class Worker:
    """Serves `sockets` until it is told to stop. `reload` gives the new configuration, or raises ConfigError."""

    def __init__(self, state: WorkerState, sockets: Sequence[socket.socket], reload: Callable[[], Config]) -> None:
        self._state = state
        self._sockets = sockets
        self._reload = reload
        self._logins: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._given_back = 0

    async def run(self) -> None:
        """Raises StoreError when the control database cannot be read at the start."""
        state, loop = self._state, asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        signals.hear()
        state.directory.on_change(state.judges.follow)
        state.directory.on_change(self._end_untrusted)
        await state.directory.start()
        await state.audit.start()
        await state.budget.start()
        await state.cancel_keys.start()
        await state.approvals.start()
        await state.serving.flush()
        timers = [
            asyncio.create_task(_every(AUDIT_FLUSH, self._flush, state.log)),
            asyncio.create_task(_every(GIVE_BACK, self._give_back, state.log)),
            asyncio.create_task(_every(FOLLOW, self._follow, state.log)),
            asyncio.create_task(_every(NOTE, self._note, state.log)),
            asyncio.create_task(_every(MEASURE, self._measure, state.log)),
        ]
        if state.config.proxy.idle_timeout:
            # Two rounds of silence make one timeout at the least.
            timers.append(asyncio.create_task(_every(state.config.proxy.idle_timeout, self._end_idle, state.log)))
        self._listen()
        await self._measure()
        try:
            await self._stopping.wait()
        finally:
            await self._stop(timers)

    def _listen(self) -> None:
        if self._stopping.is_set():
            return
        for sock in self._sockets:
            asyncio.get_running_loop().add_reader(sock.fileno(), self._accept, sock)

    def _deafen(self) -> None:
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._cannot_accept(error)
                return
            if len(self._logins) >= self._state.config.proxy.max_connections:
                sock.close()
                continue
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):  # gone already, which the login finds out
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    notice_when_gone(sock)
            task = asyncio.create_task(login.serve(sock, self._state))
            self._logins.add(task)
            task.add_done_callback(self._logins.discard)

    def _cannot_accept(self, error: OSError) -> None:
        """Out of descriptors, most likely: say so, and let those that are open be closed before trying again."""
        self._state.log.error("cannot accept connections", why=errno.errorcode.get(error.errno or 0, str(error)))
        self._deafen()
        asyncio.get_running_loop().call_later(ACCEPT_PAUSE, self._listen)

    def reload(self) -> None:
        state = self._state
        try:
            config = self._reload()
            proxy = config.proxy
            tls = server_context(proxy.tls_certificate, proxy.tls_key) if proxy.tls_certificate and proxy.tls_key else None
            state.directory.reconfigure(config.environments)
        except ConfigError as error:
            state.log.error("the configuration was not reloaded", why=error.message)
            return
        if waiting := _waiting_for_a_start(state.config, config):
            state.log.warning("these settings change at the next start", keys=waiting)
        state.serving.reloaded(config, time.time())
        state.spawn(state.serving.flush())
        state.config, state.tls = config, tls
        state.sessions.limit = proxy.max_connections
        state.sessions.limit_per_agent = proxy.max_connections_per_agent
        state.throttle.limit, state.throttle.window = proxy.login_failures, proxy.login_failure_window
        state.audit.show(statements=config.audit.texts)
        state.tracing.show(statements=config.audit.texts)
        state.judges.renew(proxy.max_statement_bytes)
        forget_contexts()
        state.audit.reopen()
        state.log.info("configuration reloaded")

    async def _flush(self) -> None:
        self._state.audit.flush()

    async def _follow(self) -> None:
        """Freezes in the configuration end by the clock, and so do tokens."""
        self._state.judges.follow()
        self._end_untrusted()

    def _end_untrusted(self) -> None:
        end_untrusted(self._state.sessions, self._state.directory, datetime.now(UTC))

    async def _note(self) -> None:
        now = time.time()
        self._state.say_left_out(now)
        await self._state.notes.flush(now)
        await self._state.serving.flush()

    async def _measure(self) -> None:
        self._state.meter.publish(self._state, draining=self._stopping.is_set())

    async def _give_back(self) -> None:
        """Return to the system what a crowd of sessions held. TLS leaves holes in the heap that the allocator keeps otherwise:
        ten crowds of a thousand took 340 MB and rising without this, and 290 MB at most with it."""
        ended = self._state.sessions.ended
        if ended - self._given_back >= CROWD:
            self._given_back = ended
            release_free_memory()

    async def _end_idle(self) -> None:
        self._state.sessions.end_idle()

    async def _stop(self, timers: list[asyncio.Task[None]]) -> None:
        state = self._state
        self._deafen()
        for sock in self._sockets:
            # Or clients would wait in the queue of a proxy that takes nobody, until it ends.
            sock.close()
        for task in [*self._logins]:
            task.cancel()
        state.log.info("draining", sessions=len(state.sessions))
        await state.sessions.drain(state.config.proxy.drain_timeout)
        await state.watchers.stop()
        for timer in timers:
            timer.cancel()
        await asyncio.gather(*timers, *self._logins, *state.tasks, return_exceptions=True)
        await state.cancel_keys.stop()
        await state.approvals.stop()
        await state.budget.stop()
        state.say_left_out(time.time(), everything=True)
        await state.notes.flush(time.time(), everything=True)
        await state.serving.flush()
        await state.directory.stop()
        await state.audit.stop()
        state.audit.close()


def _waiting_for_a_start(old: Config, new: Config) -> list[str]:
    """The keys that a reload does not change, of those that are different now."""
    keys = [f"proxy.{key}" for key in AT_START if getattr(old.proxy, key) != getattr(new.proxy, key)]
    keys += [f"audit.{key}" for key in AUDIT_AT_START if getattr(old.audit, key) != getattr(new.audit, key)]
    return keys + [name for name in ("state", "control", "metrics", "tracing", "log") if getattr(old, name) != getattr(new, name)]


async def _every(seconds: float, work: Callable[[], Awaitable[None]], log: Any) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except DbshieldError:
            continue  # reported where it arose; the next round tries again
        except Exception:
            # A timer that died of a bug would leave the audit unwritten, or idle sessions open, without a word.
            log.exception("bug in a timer")
