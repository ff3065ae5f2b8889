"""Memory that is free and that the C library keeps: giving it back to the system."""

from __future__ import annotations

import ctypes


def release_free_memory() -> None:
    """malloc_trim(3) of glibc; other C libraries have none, and there nothing happens."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
