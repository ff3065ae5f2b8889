"""Where the times go that bytes spent in the proxy. One chunk in so many is timed, so each costs a subtraction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


def _ignore(seconds: float) -> None:
    """Nobody asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """`to_server` and `to_client` get the seconds from a chunk's arrival to its forwarding, of one chunk in `every` (none where
    it is 0); `durable` gets those that each write waited for the audit."""

    every: int = 0
    to_server: Callable[[float], None] = _ignore
    to_client: Callable[[float], None] = _ignore
    durable: Callable[[float], None] = _ignore


UNTIMED: Final = Timing()
