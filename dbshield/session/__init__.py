"""One client session as state machines without I/O: bytes in, bytes and actions out."""
