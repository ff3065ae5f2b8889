"""One line of text for each message, for golden traces and for people who debug.

A trace shows query texts and values. Passwords, SASL and GSS data, salts and cancel keys it never shows: it prints the fields
that a message's own `repr` prints, and those are declared with `repr=False`.
"""

from __future__ import annotations

from dataclasses import fields

from dbshield.wire.backend import decode_backend
from dbshield.wire.framing import FrameReader
from dbshield.wire.frontend import decode_frontend
from dbshield.wire.message import Message
from dbshield.wire.report import ErrorResponse, NoticeResponse
from dbshield.wire.startup import decode_startup

CLIENT = ">"
SERVER = "<"


def _show(value: object) -> str:
    if isinstance(value, bytes):
        # backslashreplace keeps a line a line and the text readable, whatever the bytes.
        return repr(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, tuple):
        return "(" + " ".join(map(_show, value)) + ")"
    return repr(value)


def line(direction: str, message: Message) -> str:
    """For instance `> Query query='select 1'`. Empty fields are left out."""
    words = [direction, type(message).__name__]
    if isinstance(message, ErrorResponse | NoticeResponse):
        words += (f"{letter}={text!r}" for letter, text in message.fields)
    else:
        # Every concrete message is a dataclass; the base class alone is not.
        for entry in fields(message):  # type: ignore[arg-type]
            value = getattr(message, entry.name)
            if not entry.repr:
                words.append(f"{entry.name}=…")
            elif value not in (b"", ()):
                words.append(f"{entry.name}={_show(value)}")
    return " ".join(words)


def client_lines(data: bytes, *, startup: bool = False) -> list[str]:
    """The lines of what a client sent; with `startup` the first packet is untyped."""
    frames = FrameReader(startup=startup).feed(data)
    return [
        line(CLIENT, decode_frontend(frame.code, frame.payload) if frame.code else decode_startup(frame.payload))
        for frame in frames
    ]


def server_lines(data: bytes) -> list[str]:
    """The lines of what a server sent."""
    return [line(SERVER, decode_backend(frame.code, frame.payload)) for frame in FrameReader().feed(data)]
