"""Cancel requests: the keys handed to clients, and how a request that another worker got finds its session.

A key names the worker and the session in its process id and proves itself by a random secret: 4 bytes in protocol 3.0, 32 in
3.2. Each worker hears the others on a socket in a folder that only dbshield's account may enter. A key is forgotten with its
session, so a late request hits nobody else. The requesting connection stays open until the server has taken the request, so
that a client which waits for its end cannot have its next statement cancelled instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from struct import Struct
from typing import Final

from dbshield.errors import ConfigError

SESSION_BITS: Final = 20
"""Of the 31 bits of a process id that clients show; the 11 above them are the worker's number."""
MAX_WORKERS: Final = 1 << (31 - SESSION_BITS)
SHORT_KEY, LONG_KEY, LONGEST_KEY = 4, 32, 256

_process_id = Struct("!i")

Cancel = Callable[[], Awaitable[None]]


class CancelKeys:
    """The keys of one worker's sessions. `register` gives a key; a valid request awaits what was registered with it."""

    def __init__(self, worker: int, folder: Path) -> None:
        if not 0 <= worker < MAX_WORKERS:
            raise ValueError(f"worker {worker} is not below {MAX_WORKERS}")
        self._worker = worker
        self._folder = folder
        self._next = secrets.randbelow(1 << SESSION_BITS)
        self._keys: dict[int, tuple[bytes, Cancel]] = {}
        self._server: asyncio.Server | None = None

    def register(self, cancel: Cancel, *, long: bool) -> tuple[int, bytes]:
        """A process id and a secret for a new session; `long` where the client speaks protocol 3.2."""
        process_id = 0
        while process_id == 0 or process_id in self._keys:
            self._next = (self._next + 1) % (1 << SESSION_BITS)
            process_id = self._worker << SESSION_BITS | self._next
        key = secrets.token_bytes(LONG_KEY if long else SHORT_KEY)
        self._keys[process_id] = key, cancel
        return process_id, key

    def forget(self, process_id: int) -> None:
        self._keys.pop(process_id, None)

    async def cancel(self, process_id: int, key: bytes) -> None:
        """Cancel what the key's session runs, here or in the worker that has it. A wrong key does nothing."""
        worker = process_id >> SESSION_BITS
        if worker == self._worker:
            await self._cancel_here(process_id, key)
        elif 0 <= worker < MAX_WORKERS:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(self._path(worker))
                try:
                    writer.write(_process_id.pack(process_id) + key)
                    writer.write_eof()
                    await reader.read()
                finally:
                    writer.close()

    async def _cancel_here(self, process_id: int, key: bytes) -> None:
        expected, cancel = self._keys.get(process_id, (b"", None))
        if cancel is not None and hmac.compare_digest(expected, key):
            await cancel()

    async def start(self) -> None:
        """Hear requests that other workers got. Raises ConfigError when there can be no socket to hear them on."""
        path = self._path(self._worker)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._heard, path)
        except OSError as error:
            raise ConfigError(
                f"state: the workers cannot hear each other on {path}: {error.strerror or error}",
                hint="Give `state` a folder that dbshield may write to, with a short name: a socket's has 107 bytes at most.",
            ) from error

    async def stop(self) -> None:
        if self._server:
            self._server.close()
        self._path(self._worker).unlink(missing_ok=True)

    async def _heard(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            data = await reader.read(_process_id.size + LONGEST_KEY)
            if len(data) > _process_id.size:
                await self._cancel_here(_process_id.unpack_from(data)[0], data[_process_id.size :])
        finally:
            writer.close()

    def _path(self, worker: int) -> Path:
        return self._folder / f"cancel-{worker}.sock"
