"""A dictionary that forgets: bounded in entries and in bytes, with two generations.

New entries go to the young generation; when it is half of what is allowed it becomes the old one, and the old one is gone. An
entry that is asked for in the old generation is young again. That costs one lookup on a hit, and no bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable

from dbshield.model import Judgement

ENTRY_BYTES = 600
"""About what one entry costs besides its key and its normal form: the judgement, its effects, the slots of the dictionary."""


class VerdictCache:
    """Judgements by text or by shape."""

    __slots__ = ("_bytes", "_max_bytes", "_max_entries", "_old", "young")

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max(1, max_entries // 2)
        self._max_bytes = max(1, max_bytes // 2)
        self._bytes = 0
        self.young: dict[bytes, Judgement] = {}
        self._old: dict[bytes, Judgement] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def get(self, key: bytes) -> Judgement | None:
        """The judgement of `key`, or None."""
        found = self.young.get(key)
        if found is None:
            found = self._old.pop(key, None)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: bytes, judgement: Judgement) -> None:
        """Keep `judgement` for a while."""
        self._bytes += len(key) + len(judgement.normal) + ENTRY_BYTES + 300 * len(judgement.effects)
        self.young[key] = judgement
        if len(self.young) > self._max_entries or self._bytes > self._max_bytes:
            self._old, self.young = self.young, {}
            self._bytes = 0

    def bound(self, max_bytes: int) -> None:
        """Hold so many bytes at most from now on; what is held beyond that is forgotten with the next entry."""
        self._max_bytes = max(1, max_bytes // 2)

    def forget(self, stale: Callable[[Judgement], bool]) -> None:
        """Forget the judgements of which `stale` is true. What they held of memory counts until the generation is over."""
        for generation in (self.young, self._old):
            for key in [key for key, judgement in generation.items() if stale(judgement)]:
                del generation[key]

    def clear(self) -> None:
        """Forget everything."""
        self.young, self._old, self._bytes = {}, {}, 0
