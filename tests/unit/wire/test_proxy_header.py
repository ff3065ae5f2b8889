"""The header of a load balancer: what is read, what is refused and why, and that nothing behind it is taken."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.errors import ProtocolError
from dbshield.wire.proxy_header import BLOCK_MOST, LINE_MOST, SIGNATURE, ProxyHeader, Relayed, Unnamed, begins_header, crc32c
from dbshield.wire.startup import SSLRequest, StartupMessage

BEHIND = SSLRequest().encode()

ports = st.integers(0, 65535)
families = st.sampled_from([4, 6])


def v2(family: int = 0x11, block: bytes = b"", *, command: int = 0x21, length: int | None = None) -> bytes:
    size = len(block) if length is None else length
    return SIGNATURE + bytes((command, family)) + size.to_bytes(2, "big") + block


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def relayed(source: str, port: int, *tlvs: bytes) -> bytes:
    """Version 2 for a client at this address."""
    address = ipaddress.ip_address(source)
    block = address.packed + address.packed + port.to_bytes(2, "big") + (5432).to_bytes(2, "big")
    return v2(0x11 if address.version == 4 else 0x21, block + b"".join(tlvs))


def line(source: str, port: int) -> bytes:
    """Version 1 for a client at this address."""
    family = ipaddress.ip_address(source).version
    return f"PROXY TCP{family} {source} {source} {port} 5432\r\n".encode()


def with_checksum(header: bytes, *, wrong: int = 0) -> bytes:
    """The header with its CRC32C as one more TLV."""
    length = int.from_bytes(header[14:16], "big") + 7
    body = header[:14] + length.to_bytes(2, "big") + header[16:] + b"\x03\x00\x04"
    return body + (crc32c(body + bytes(4)) ^ wrong).to_bytes(4, "big")


def read(data: bytes, cuts: Sequence[int] = ()) -> tuple[Relayed | Unnamed | None, bytes]:
    """What is found, and what is left for whoever reads on; given in pieces as the cuts say."""
    header = ProxyHeader()
    rest = b""
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        piece = data[begin:end]
        taken = header.feed(piece)
        assert taken == len(piece) or header.found is not None
        rest += piece[taken:]
    return header.found, rest


WHOLE: dict[str, tuple[bytes, Relayed | Unnamed]] = {
    "v1 IPv4": (b"PROXY TCP4 10.1.2.3 10.0.0.5 56324 6432\r\n", Relayed(address="10.1.2.3", port=56324)),
    "v1 IPv6": (b"PROXY TCP6 2001:DB8::7 ::1 1 65535\r\n", Relayed(address="2001:db8::7", port=1)),
    "v1 mapped": (b"PROXY TCP6 ::ffff:10.1.2.3 ::1 0 0\r\n", Relayed(address="10.1.2.3", port=0)),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", Unnamed(why="UNKNOWN")),
    "v1 unknown, with whatever else": (b"PROXY UNKNOWN \xff what, ever\r\n", Unnamed(why="UNKNOWN")),
    "v1 unknown, as long as it may be": (b"PROXY UNKNOWN ".ljust(LINE_MOST - 2, b"f") + b"\r\n", Unnamed(why="UNKNOWN")),
    "v2 IPv4": (relayed("10.1.2.3", 56324), Relayed(address="10.1.2.3", port=56324)),
    "v2 IPv6": (relayed("2001:db8::7", 9), Relayed(address="2001:db8::7", port=9)),
    "v2 mapped": (relayed("::ffff:10.1.2.3", 9), Relayed(address="10.1.2.3", port=9)),
    "v2 with TLVs": (relayed("10.1.2.3", 9, tlv(0x02, b"host"), tlv(0x04, b"")), Relayed(address="10.1.2.3", port=9)),
    "v2 with a checksum": (with_checksum(relayed("10.1.2.3", 9, tlv(0x05, b"id"))), Relayed(address="10.1.2.3", port=9)),
    "v2 as long as it may be": (
        relayed("10.1.2.3", 9, tlv(0x04, bytes(BLOCK_MOST - 12 - 3))),
        Relayed(address="10.1.2.3", port=9),
    ),
    "v2 local": (v2(0x00, command=0x20), Unnamed(why="LOCAL")),
    "v2 local, with an address that counts for nothing": (v2(0x11, b"\x0a" * 12, command=0x20), Unnamed(why="LOCAL")),
    "v2 local, of any family": (v2(0xFF, b"?", command=0x20), Unnamed(why="LOCAL")),
    "v2 unspecified": (v2(0x00, b"what ever"), Unnamed(why="UNSPEC")),
    "v2 Unix socket": (v2(0x31, bytes(216)), Unnamed(why="UNIX")),
}


@pytest.mark.parametrize(("data", "found"), WHOLE.values(), ids=WHOLE)
def test_a_header_is_read_whole_and_byte_by_byte_and_nothing_behind_it(data: bytes, found: Relayed | Unnamed) -> None:
    assert read(data) == (found, b"")
    assert read(data + BEHIND) == (found, BEHIND)
    assert read(data + BEHIND, range(1, len(data + BEHIND))) == (found, BEHIND)
    assert read(data[:-1])[0] is None


REFUSED: dict[str, tuple[bytes, str]] = {
    "no header": (BEHIND, "does not begin with a PROXY header"),
    "TLS": (b"\x16\x03\x01", "does not begin with a PROXY header"),
    "almost v1": (b"PROXZ", "does not begin with a PROXY header"),
    "almost v2": (SIGNATURE[:-1] + b"\r", "does not begin with a PROXY header"),
    "a line without an end": (b"PROXY TCP4".ljust(LINE_MOST), "at most 107 bytes"),
    "a line that is too long": (b"PROXY UNKNOWN ".ljust(LINE_MOST - 1) + b"\r\n", "at most 107 bytes"),
    "LF alone": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", "ends with CR and LF"),
    "LF alone behind UNKNOWN": (b"PROXY UNKNOWN\n", "ends with CR and LF"),
    "UNKNOWN with something at it": (b"PROXY UNKNOWNS\r\n", "six words"),
    "two spaces": (b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n", "six words"),
    "a space at the end": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", "six words"),
    "another word": (b"PROXYS TCP4 1.2.3.4 1.2.3.4 1 1\r\n", "six words"),
    "not ASCII": ("PROXY TCP4 1.2.3.4 1.2.3.4 1 ١\r\n".encode(), "is ASCII"),
    "UDP": (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", "unknown family 'UDP4'"),
    "lower case": (b"PROXY tcp4 1.2.3.4 1.2.3.4 1 1\r\n", "unknown family 'tcp4'"),
    "an octal number": (b"PROXY TCP4 010.2.3.4 1.2.3.4 1 1\r\n", "'010.2.3.4' is no address"),
    "a name": (b"PROXY TCP4 localhost 1.2.3.4 1 1\r\n", "'localhost' is no address"),
    "a socket": (b"PROXY TCP4 socket 1.2.3.4 1 1\r\n", "'socket' is no address"),
    "another family": (b"PROXY TCP4 ::1 1.2.3.4 1 1\r\n", "no address of its family"),
    "another family there": (b"PROXY TCP4 1.2.3.4 ::1 1 1\r\n", "no address of its family"),
    "a zone": (b"PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n", "no address of its family"),
    "a port that is too high": (b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n", "'65536' is no port"),
    "a port with a zero in front": (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n", "'01' is no port"),
    "a port with a sign": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 +1\r\n", r"'\+1' is no port"),
    "no port": (b"PROXY TCP4 1.2.3.4 1.2.3.4  1\r\n", "'' is no port"),
    "a length beyond all sense": (v2(length=65535), "announces 65535 bytes, more than 4080"),
    "a length of one too many": (v2(length=BLOCK_MOST + 1), "announces 4081 bytes"),
    "the same of LOCAL": (v2(0, command=0x20, length=65535), "announces 65535 bytes"),
    "another version": (v2(0x11, bytes(12), command=0x11), "unknown version and command 0x11"),
    "another command": (v2(0x11, bytes(12), command=0x22), "unknown version and command 0x22"),
    "another family of v2": (v2(0x41, bytes(12)), "unknown family and transport 0x41"),
    "another transport of v2": (v2(0x13, bytes(12)), "unknown family and transport 0x13"),
    "datagrams": (v2(0x12, bytes(12)), "unknown family and transport 0x12"),
    "half an address": (v2(0x11, bytes(11)), "ends too early"),
    "half an IPv6 address": (v2(0x21, bytes(35)), "ends too early"),
    "half a Unix socket": (v2(0x31, bytes(215)), "ends too early"),
    "half a TLV": (relayed("1.2.3.4", 1, b"\x04\x00"), "ends too early"),
    "a TLV that is longer than the header": (relayed("1.2.3.4", 1, b"\x04\x00\x09abc"), "ends too early"),
    "a wrong checksum": (with_checksum(relayed("1.2.3.4", 1), wrong=1), "its checksum is wrong"),
    "a short checksum": (relayed("1.2.3.4", 1, tlv(0x03, b"abc")), "not of 4 bytes"),
    "two checksums": (with_checksum(with_checksum(relayed("1.2.3.4", 1))), "its checksum is wrong|two checksums"),
}


@pytest.mark.parametrize(("data", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_header_is_refused_by_name(data: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        read(data)
    with pytest.raises(ProtocolError, match=why):
        read(data, range(1, len(data)))


def test_what_is_no_header_is_refused_at_once() -> None:
    """Whoever sends eight bytes and waits for an answer is not kept waiting for the rest of a header."""
    for first in (BEHIND, StartupMessage(parameters=()).encode(), b"\x16"):
        with pytest.raises(ProtocolError):
            ProxyHeader().feed(first[:1])


def test_the_checksum_is_the_one_of_the_specification() -> None:
    """The test vectors of RFC 3720, appendix B.4."""
    assert crc32c(bytes(32)) == 0x8A91_36AA
    assert crc32c(b"\xff" * 32) == 0x62A8_AB43
    assert crc32c(b"123456789") == 0xE306_9283


def test_a_header_is_told_from_what_a_client_sends() -> None:
    assert begins_header(b"PROXY TCP4 ")
    assert begins_header(SIGNATURE)
    for data in (b"", b"PROX", BEHIND, StartupMessage(parameters=(("user", "PROXY"),)).encode(), b"\x16\x03\x01"):
        assert not begins_header(data)


@given(address=st.ip_addresses(), port=ports, behind=st.binary(max_size=80), data=st.data())
def test_every_client_is_read_at_every_split(address: object, port: int, behind: bytes, data: st.DataObject) -> None:
    text = str(address)
    whole = data.draw(st.sampled_from([relayed(text, port), line(text, port), with_checksum(relayed(text, port))])) + behind
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    found, rest = read(whole, cuts)
    assert isinstance(found, Relayed)
    plain = ipaddress.ip_address(text)
    assert found.port == port
    assert ipaddress.ip_address(found.address) in {plain, getattr(plain, "ipv4_mapped", None)}
    assert rest == behind


@given(
    head=st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11", SIGNATURE + b"\x20\x00"]),
    rest=st.binary(max_size=200),
    cuts=st.lists(st.integers(0, 210), max_size=4).map(sorted),
)
def test_no_bytes_raise_anything_else_and_pieces_change_nothing(head: bytes, rest: bytes, cuts: list[int]) -> None:
    data = head + rest

    def outcome(pieces: Sequence[int]) -> object:
        try:
            return read(data, pieces)
        except ProtocolError as error:
            return error.message

    whole = outcome(())
    assert outcome([min(cut, len(data)) for cut in cuts]) == whole
