"""What a connection is for, before anything is trusted: encryption asked for, and then a start-up packet.

The listener reads exactly 8 bytes from the socket, asks `receive`, does what the step says, and reads the next 8. Whatever
stands buffered behind an answered request came before encryption and may be an attacker's (CVE-2021-3935): the listener closes.
A first byte of 0x16 is a TLS hello (direct TLS, since PostgreSQL 17) and the listener's business, too.

Source: ProcessStartupPacket in PostgreSQL's backend_startup.c. A request that was answered once is not answered again, in any
order; PostgreSQL does the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dbshield.errors import ProtocolError
from dbshield.wire.framing import MAX_STARTUP
from dbshield.wire.startup import GSSENC_REQUEST_CODE, SSL_REQUEST_CODE

HEAD: Final = 8
"""Bytes of a request, and of the head of every start-up packet: a length word and a code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Send `data` and read the next 8 bytes."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTls:
    """Send `data`, do the TLS handshake, and read the next 8 bytes through it."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Proceed:
    """These 8 bytes begin a start-up packet or a CancelRequest: give them to the login."""


Step = Answer | StartTls | Proceed
"""Closed: match it with `assert_never`."""


class Negotiation:
    """One connection's negotiation. `tls_available` is false where no certificate is configured, on a Unix socket, and
    where TLS runs already."""

    __slots__ = ("_gss_done", "_over", "_ssl_done", "_tls_available")

    def __init__(self, *, tls_available: bool) -> None:
        self._tls_available = tls_available
        self._ssl_done = False
        self._gss_done = False
        self._over = False

    def receive(self, head: bytes) -> Step:
        """The next step for these 8 bytes. Raises ProtocolError for what no client may send here; then close."""
        if self._over or len(head) != HEAD:
            raise ProtocolError(f"{len(head)} bytes, where the head of a packet was expected")
        length = int.from_bytes(head[:4], "big", signed=True)
        match int.from_bytes(head[4:], "big"):
            case code if code == SSL_REQUEST_CODE:
                self._once(length, self._ssl_done, "SSLRequest")
                return self._answer_ssl()
            case code if code == GSSENC_REQUEST_CODE:
                self._once(length, self._gss_done, "GSSENCRequest")
                self._gss_done = True
                return Answer(data=b"N")
            case _:
                return self._proceed(length)

    def _once(self, length: int, done: bool, what: str) -> None:
        if done:
            self._over = True
            raise ProtocolError(f"{what} came again")
        if length != HEAD:
            self._over = True
            raise ProtocolError(f"invalid length of {what}: {length}")

    def _answer_ssl(self) -> Step:
        self._ssl_done = True
        if not self._tls_available:
            return Answer(data=b"N")
        # Whoever has TLS needs no GSSAPI encryption inside it.
        self._gss_done = True
        return StartTls(data=b"S")

    def _proceed(self, length: int) -> Step:
        self._over = True
        if not HEAD <= length <= MAX_STARTUP + 4:
            raise ProtocolError(
                f"invalid length of startup packet: {length}", hint="Is this a PostgreSQL client? Other protocols end here."
            )
        return Proceed()
