"""One worker's numbers in memory that it shares with whoever reads them.

A board is made before the worker is forked and outlives it: the next worker of the same place goes on from what it finds, so a
counter never goes back. A worker that dies takes along what it counted since it wrote last, a second at most.

Laws:
- There are two halves. The writer fills the one that is not shown and then shows it, so what is read is always whole, even where
  the writer was killed in the middle.
- One process writes a board at a time; any number read it, and none waits.
"""

from __future__ import annotations

import mmap
import zlib
from struct import Struct
from typing import Final

HALF_BYTES: Final = 512 << 10
"""What one worker may tell; memory that is not written to is not taken up."""
SHOWN: Final = Struct("=Q")
"""How often the board was written; its last bit is the half that is shown. Eight aligned bytes, which no processor tears."""
HEAD: Final = Struct("=II")
"""The length and the CRC-32 of what stands in a half."""
TRIES: Final = 5


class Board:
    """Raises OSError where there is no memory."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SHOWN.size + 2 * HALF_BYTES)

    def write(self, payload: bytes) -> None:
        """Show `payload` from now on. ValueError beyond what fits."""
        if len(payload) + HEAD.size > HALF_BYTES:
            raise ValueError(f"{len(payload)} bytes do not fit on a board")
        (count,) = SHOWN.unpack_from(self._memory, 0)
        at = self._half(count + 1)
        self._memory[at + HEAD.size : at + HEAD.size + len(payload)] = payload
        HEAD.pack_into(self._memory, at, len(payload), zlib.crc32(payload))
        SHOWN.pack_into(self._memory, 0, count + 1)

    def read(self) -> bytes:
        """What is shown; nothing where nothing was written yet, or the writer was faster than each of several looks."""
        for _ in range(TRIES):
            (count,) = SHOWN.unpack_from(self._memory, 0)
            at = self._half(count)
            length, checksum = HEAD.unpack_from(self._memory, at)
            payload = bytes(self._memory[at + HEAD.size : at + HEAD.size + min(length, HALF_BYTES)])
            if zlib.crc32(payload) == checksum:
                return payload
        return b""

    def close(self) -> None:
        self._memory.close()

    def _half(self, count: int) -> int:
        return SHOWN.size + (count & 1) * HALF_BYTES
