"""Cutting a stream into frames: any pieces, and lengths that lie."""

from __future__ import annotations

import pytest

from dbshield.errors import ProtocolError
from dbshield.wire.framing import MAX_MESSAGE, MAX_STARTUP, Frame, FrameReader


def test_frames_in_any_pieces() -> None:
    data = b"Q\0\0\0\x09abcd\0" + b"S\0\0\0\x04" + b"X\0\0\0\x04"
    whole = [Frame(code=b"Q", payload=b"abcd\0"), Frame(code=b"S", payload=b""), Frame(code=b"X", payload=b"")]
    for size in range(1, len(data) + 1):
        reader = FrameReader()
        assert [f for at in range(0, len(data), size) for f in reader.feed(data[at : at + size])] == whole


def test_only_the_first_frame_is_untyped() -> None:
    reader = FrameReader(startup=True)
    assert reader.feed(b"\0\0\0\x09\0\x03\0\0\0p\0\0\0\x05x") == [
        Frame(code=b"", payload=b"\0\x03\0\0\0"),
        Frame(code=b"p", payload=b"x"),
    ]


@pytest.mark.parametrize("length", [-(2**31), -5, -1, 0, 1, 3, MAX_MESSAGE + 1, 2**31 - 1])
def test_trap_8_negative_and_absurd_message_lengths(length: int) -> None:
    reader = FrameReader()
    with pytest.raises(ProtocolError, match="invalid length"):
        reader.feed(b"Q" + length.to_bytes(4, "big", signed=True) + b"x" * 1000)
    assert reader.size == 0


@pytest.mark.parametrize("length", [-(2**31), -1, 0, 4, 7, MAX_STARTUP + 5, 0x16030100, 2**31 - 1])
def test_trap_8_negative_and_absurd_startup_lengths(length: int) -> None:
    """The longest one that is refused here is a TLS hello: it is not a startup packet."""
    reader = FrameReader(startup=True)
    with pytest.raises(ProtocolError, match="invalid length of startup packet"):
        reader.feed(length.to_bytes(4, "big", signed=True))


def test_trap_8_a_large_startup_packet_is_read_up_to_the_limit_of_postgresql() -> None:
    reader = FrameReader(startup=True)
    body = b"\0\x03\0\0" + b"x" * (MAX_STARTUP - 4)
    data = (len(body) + 4).to_bytes(4, "big") + body
    for at in range(0, len(data) - 1, 1000):
        assert reader.feed(data[at : min(at + 1000, len(data) - 1)]) == []
    assert reader.feed(data[-1:]) == [Frame(code=b"", payload=body)]


def test_a_ceiling_of_our_own() -> None:
    assert FrameReader(max_length=8).feed(b"Q\0\0\0\x08abc\0") == [Frame(code=b"Q", payload=b"abc\0")]
    with pytest.raises(ProtocolError, match="9 is not between 4 and 8"):
        FrameReader(max_length=8).feed(b"Q\0\0\0\x09")


def test_a_length_is_judged_before_its_message_arrives() -> None:
    reader = FrameReader(max_length=100)
    assert reader.feed(b"Q\0\0\0") == []
    with pytest.raises(ProtocolError):
        reader.feed(b"\xff")


def test_nothing_comes_after_an_error() -> None:
    reader = FrameReader()
    with pytest.raises(ProtocolError):
        reader.feed(b"Q\0\0\0\0")
    with pytest.raises(ProtocolError):
        reader.feed(b"S\0\0\0\x04")


def test_frames_can_be_taken_one_at_a_time() -> None:
    reader = FrameReader()
    reader.add(b"S\0\0\0\x04X\0\0\0\x04")
    assert reader.next_frame() == Frame(code=b"S", payload=b"")
    assert reader.pending == b"X\0\0\0\x04"


def test_a_frame_does_not_show_its_payload() -> None:
    assert "secret" not in repr(Frame(code=b"p", payload=b"secret"))
