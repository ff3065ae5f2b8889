"""The header with which a load balancer says for whom it connects: the PROXY protocol, versions 1 (text) and 2 (binary).

Source: "The PROXY protocol, Versions 1 & 2", doc/proxy-protocol.txt of HAProxy; the sections that are named below are its.

Laws:
- Nothing behind the header is taken: what follows is the client's, and may have to be looked at before it is read.
- What is not exactly a header raises ProtocolError, as soon as the bytes that show it are there.
- A header that names no client (a health check, a family that PostgreSQL is not spoken over by address) gives no address. It is
  never taken for one that comes from the balancer itself.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from dbshield.errors import ProtocolError
from dbshield.wire.buffer import Reader

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""What a header of version 2 begins with (section 2.2)."""
WORD: Final = b"PROXY"
"""What a header of version 1 begins with (section 2.1)."""
LINE_MOST: Final = 107
"""Bytes of a header of version 1 with its CRLF, in the worst case that section 2.1 counts."""
FIXED: Final = 16
"""Bytes of a header of version 2 before its addresses."""
BLOCK_MOST: Final = 4096 - FIXED
"""Bytes of addresses and TLVs. Section 2.2 has a header fit into one TCP segment; this is what nginx reads at most
(NGX_PROXY_PROTOCOL_MAX_HEADER), and room for every TLV that is registered."""
PORT_MOST: Final = 65535

LOCAL: Final = 0x20
PROXY: Final = 0x21
"""Version and command (section 2.2)."""
UNSPEC: Final = 0x00
TCP4: Final = 0x11
TCP6: Final = 0x21
UNIX: Final = 0x31
"""Family and transport of streams. Datagrams carry no PostgreSQL, so theirs are refused."""
UNIX_BLOCK: Final = 2 * 108
TLV_CRC32C: Final = 0x03
_CRC32C: Final = 0x82F6_3B78
"""The reflected polynomial (RFC 4960, appendix B)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """The connection is made for this client. `address` is in its shortest form, an IPv4 address in IPv6's clothes as IPv4."""

    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unnamed:
    """The connection is made for nobody whose address is told; `why` is the word that the header has for it."""

    why: str


def begins_header(data: bytes) -> bool:
    """Whether these bytes are the first of a header; no packet of PostgreSQL begins so, nor does TLS."""
    return any(len(data) >= len(head) and data.startswith(head) for head in (WORD, SIGNATURE))


class ProxyHeader:
    """Bytes in, at the end the client. `feed` says how many bytes belong to the header; `found` is set when it is whole."""

    __slots__ = ("_data", "found")

    def __init__(self) -> None:
        self._data = bytearray()
        self.found: Relayed | Unnamed | None = None

    def feed(self, data: bytes) -> int:
        """How many of these bytes are the header's: all of them while it is not whole. Raises ProtocolError."""
        if self.found is not None:
            return 0
        before = len(self._data)
        # More than the longest header is never looked at, whatever the caller has.
        seen = bytes(self._data) + data[: FIXED + BLOCK_MOST]
        end = _end(seen)
        taken = len(seen) if end is None else end
        self._data += seen[before:taken]
        if end is not None:
            self.found = _line(bytes(self._data)) if self._data.startswith(WORD) else _block(bytes(self._data))
        return taken - before


def _end(data: bytes) -> int | None:
    """Where the header ends; None while that cannot be seen. ProtocolError where no header begins, or it is too long."""
    if data.startswith(WORD[: len(data)]):
        return _end_of_line(data)
    if not data.startswith(SIGNATURE[: len(data)]):
        raise ProtocolError("the connection does not begin with a PROXY header")
    if len(data) < FIXED:
        return None
    length = int.from_bytes(data[14:FIXED], "big")
    if length > BLOCK_MOST:
        raise _malformed(f"it announces {length} bytes, more than {BLOCK_MOST}")
    return FIXED + length if len(data) >= FIXED + length else None


def _end_of_line(data: bytes) -> int | None:
    end = data.find(b"\n", 0, LINE_MOST)
    if end >= 0:
        return end + 1
    if len(data) >= LINE_MOST:
        raise _malformed(f"a line of version 1 has at most {LINE_MOST} bytes")
    return None


def _line(line: bytes) -> Relayed | Unnamed:
    """Version 1. Of UNKNOWN everything up to the end of the line is ignored, as section 2.1 wants it."""
    if not line.endswith(b"\r\n"):
        raise _malformed("a line of version 1 ends with CR and LF")
    if line[:-2].split(b" ")[:2] == [WORD, b"UNKNOWN"]:
        return Unnamed(why="UNKNOWN")
    try:
        words = line[:-2].decode("ascii").split(" ")
    except UnicodeDecodeError as error:
        raise _malformed("a line of version 1 is ASCII") from error
    if len(words) != 6 or words[0] != WORD.decode():
        raise _malformed("a line of version 1 has six words")
    _, family, source, destination, source_port, destination_port = words
    versions = {"TCP4": 4, "TCP6": 6}
    if family not in versions:
        raise _malformed(f"it has the unknown family {family[:16]!a}")
    address = _address(source, versions[family])
    _address(destination, versions[family])
    _port(destination_port)
    return Relayed(address=address, port=_port(source_port))


def _address(text: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise _malformed(f"{text[:64]!a} is no address") from error
    if address.version != version or "%" in text:
        raise _malformed(f"{text[:64]!a} is no address of its family")
    return _plain(address)


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and text == str(int(text)) and int(text) <= PORT_MOST):
        raise _malformed(f"{text[:16]!a} is no port")
    return int(text)


def _block(data: bytes) -> Relayed | Unnamed:
    """Version 2. Of LOCAL all but the length is ignored, as section 2.2 wants it."""
    command, family = data[12], data[13]
    if command == LOCAL:
        return Unnamed(why="LOCAL")
    if command != PROXY:
        raise _malformed(f"it has the unknown version and command {command:#04x}")
    reader = Reader(data[FIXED:], "PROXY header")
    found = _client(reader, family)
    _check_tlvs(reader, data)
    return found


def _client(reader: Reader, family: int) -> Relayed | Unnamed:
    if family == UNSPEC:
        # What is told of addresses stands in no known form, and TLVs behind it cannot be found.
        reader.rest()
        return Unnamed(why="UNSPEC")
    if family == UNIX:
        reader.take(UNIX_BLOCK)
        return Unnamed(why="UNIX")
    if family not in {TCP4, TCP6}:
        raise _malformed(f"it has the unknown family and transport {family:#04x}")
    size = 4 if family == TCP4 else 16
    source = reader.take(size)
    reader.take(size)
    port = reader.uint16()
    reader.uint16()
    return Relayed(address=_plain(ipaddress.ip_address(source)), port=port)


def _check_tlvs(reader: Reader, data: bytes) -> None:
    """TLVs fill what is left (section 2.2). Of what they say only the checksum matters here."""
    checked = False
    while reader.left:
        kind = reader.byte()
        value = reader.take(reader.uint16())
        if kind != TLV_CRC32C:
            continue
        if checked or len(value) != 4:
            raise _malformed("it has two checksums, or one that is not of 4 bytes")
        checked = True
        at = len(data) - reader.left - len(value)
        if crc32c(data[:at] + bytes(4) + data[at + 4 :]) != int.from_bytes(value, "big"):
            raise _malformed("its checksum is wrong")


def crc32c(data: bytes) -> int:
    """The checksum of section 2.2.3."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CRC32C if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF


def _malformed(problem: str) -> ProtocolError:
    return ProtocolError(f"malformed PROXY header: {problem}")
