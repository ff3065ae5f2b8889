"""ErrorResponse and NoticeResponse: fields of text, each under a letter (PostgreSQL manual, "Error and Notice Message Fields").

Law: a report always has a SQLSTATE. One that comes without, or with something that is none, gets XX000 (00000 in a notice)
when it is made, so no client ever meets a report that it cannot classify.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self

from dbshield.errors import ProtocolError, Refused
from dbshield.wire import buffer
from dbshield.wire.buffer import Reader
from dbshield.wire.message import Message

SEVERITY: Final = "S"
SEVERITY_PLAIN: Final = "V"
"""The severity that no locale translates (since PostgreSQL 9.6)."""
SQLSTATE: Final = "C"
MESSAGE: Final = "M"
DETAIL: Final = "D"
HINT: Final = "H"
POSITION: Final = "P"
"""Where in the text the error is, in characters from 1."""

INTERNAL_ERROR: Final = "XX000"
SUCCESS: Final = "00000"


def _is_sqlstate(text: str) -> bool:
    return len(text) == 5 and text.isascii() and text.isalnum() and text == text.upper()


def _writable(text: str) -> str:
    return text.replace("\0", "").encode(errors="replace").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report(Message):
    """What both kinds share. Field letters are ASCII; texts that are not UTF-8 are read with replacement characters."""

    default_sqlstate: ClassVar[str]
    fields: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if not _is_sqlstate(self.get(SQLSTATE)):
            kept = tuple(pair for pair in self.fields if pair[0] != SQLSTATE)
            # The one place where a frozen message is finished: the law above must hold for whoever builds one.
            object.__setattr__(self, "fields", (*kept, (SQLSTATE, self.default_sqlstate)))

    @classmethod
    def of(cls, severity: str, sqlstate: str, message: str, *, detail: str = "", hint: str = "") -> Self:
        """A report of our own. `sqlstate` has five letters or digits, else XX000 or 00000 stands in its place."""
        pairs = (
            (SEVERITY, severity),
            (SEVERITY_PLAIN, severity),
            (SQLSTATE, sqlstate),
            (MESSAGE, message),
            (DETAIL, detail),
            (HINT, hint),
        )
        # A text may quote what a peer sent: neither a NUL nor a lone surrogate can stand in a field.
        return cls(fields=tuple((letter, _writable(text)) for letter, text in pairs if text))

    def get(self, letter: str) -> str:
        """The first field under `letter`, empty where there is none."""
        return next((text for found, text in self.fields if found == letter), "")

    @property
    def severity(self) -> str:
        return self.get(SEVERITY_PLAIN) or self.get(SEVERITY)

    @property
    def sqlstate(self) -> str:
        return self.get(SQLSTATE)

    @property
    def message(self) -> str:
        return self.get(MESSAGE)

    @property
    def detail(self) -> str:
        return self.get(DETAIL)

    @property
    def hint(self) -> str:
        return self.get(HINT)

    def encode(self) -> bytes:
        parts: list[bytes] = []
        for letter, text in self.fields:
            if len(letter) != 1 or not "\0" < letter < "\x80":
                raise ProtocolError(f"{letter!r} is no field of a report")
            parts += (letter.encode(), buffer.string(text))
        return buffer.message(self.code, *parts, b"\0")

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        fields = []
        while letter := reader.byte():
            if letter > 0x7F:
                raise reader.fail(f"{letter} is no field")
            fields.append((chr(letter), reader.lenient_text()))
        reader.end()
        return cls(fields=tuple(fields))


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorResponse(_Report):
    """An error; with severity FATAL the connection ends behind it."""

    code: ClassVar[bytes] = b"E"
    default_sqlstate: ClassVar[str] = INTERNAL_ERROR

    @classmethod
    def fatal(cls, error: ProtocolError | Refused) -> Self:
        """What a client reads before it is disconnected for `error`."""
        detail = error.detail if isinstance(error, Refused) else ""
        return cls.of("FATAL", error.sqlstate, error.message, detail=detail, hint=error.hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeResponse(_Report):
    """A warning or a word of advice; may arrive at any time."""

    code: ClassVar[bytes] = b"N"
    default_sqlstate: ClassVar[str] = SUCCESS
