"""A session whose audit shows the values of its statements ([audit] statements = "full").

What the client sends is handled as in any other session, by the same functions; around those for Parse, Bind and FunctionCall
stands one that reads the values and puts them beside the judgement. Other sessions have other tables and pay nothing for it.

Of long values only the beginning is kept. What a Bind says of itself has to be true here: a length beyond the message ends the
session, as it does where a message itself is malformed. A Bind that is longer than what is held streams through, so of its values
only those are read that stand in its first piece.

Source: PostgreSQL 18 manual, "Message Formats": Parse, Bind, FunctionCall.
"""

from __future__ import annotations

from dataclasses import replace
from struct import Struct
from typing import Any, Final

from dbshield.errors import ProtocolError
from dbshield.model import VALUE_BYTES, VALUE_MARGIN, Allow, BoundValue, BoundValues, Judgement, Operation
from dbshield.session import held_cycle
from dbshield.session.counted import COUNTING_CLIENT
from dbshield.session.handlers import CLIENT, HEADER, Handler, changed_table, declared
from dbshield.session.names import MAX_NAMES, NAME_BYTES
from dbshield.session.relay import Relay
from dbshield.session.text_judge import TextJudge
from dbshield.sqltext.normal import redacted

ENTRY_BYTES: Final = 16 << 10
"""Bytes of a statement's values, after which no further one is shown."""
VALUES_MOST: Final = 1_000
"""Values of a statement that are shown; NULLs take no bytes."""
TYPES_MOST: Final = 256
"""Types of parameters that are remembered of a statement."""

Table = tuple[Handler | None, ...]

_UINT16: Final = Struct("!H")
_INT16: Final = Struct("!h")
_INT32: Final = Struct("!i")
_UINT32: Final = Struct("!I")


class RecordingRelay(Relay):
    """A relay whose judgements carry the values of what was bound or called."""

    __slots__ = ("_in_full", "_types", "_waiting_values")

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._in_full = True
        """Whether it is to be shown still: a reload may want less."""
        self._types: dict[bytes, bytes] = {}
        """The types that a Parse gave the parameters of a name, as they stand there."""
        self._waiting_values: BoundValues | None = None
        """Of a Bind that is held, until its cycle ends in one way or the other."""
        self._client_handlers = RECORDING[id(CLIENT)]

    def choose_client_handlers(self) -> None:
        super().choose_client_handlers()
        self._client_handlers = _recording(self._client_handlers)

    def use(self, judge: TextJudge) -> None:
        super().use(judge)
        self._in_full = judge.full
        if not self._in_full:
            self._waiting_values = None
        # What only reads is not judged again: it has kept its verdict, and how it is written down.
        for name, judgement in [*self.prepared.items()]:
            if type(judgement.verdict) is Allow and all(effect.operation is Operation.READ for effect in judgement.effects):
                text = self.prepared.texts.get(name)
                if text:
                    self.prepared[name] = replace(judgement, normal=judge.judge(text).normal)
                elif not self._in_full:
                    self.prepared[name] = replace(judgement, normal=redacted(judgement.normal.encode()))

    def stand_in(self, judgement: Judgement, answer: bytes) -> bytes:
        values, self._waiting_values = self._waiting_values, None
        return super().stand_in(judgement if values is None else replace(judgement, values=values), answer)

    def parsed(self, name: bytes, types: bytes) -> None:
        """A Parse has named the types of its parameters."""
        self._types.pop(name, None)
        if types:
            self._types[name] = types
            if len(self._types) > MAX_NAMES:
                del self._types[next(iter(self._types))]

    def handle(self, kind: int, data: bytes, pos: int, end: int, values: BoundValues | None) -> bytes | None:
        """What another session does with this message, and its values beside what came of it."""
        ours = self._client_handlers
        plain = PLAIN[id(ours)]
        handler = plain[kind]
        assert handler is not None
        before = len(self.judged)
        self._waiting_values = values if self._in_full else None
        # Handlers look at which table it is.
        self._client_handlers = plain
        instead = handler(self, data, pos, end)
        self._client_handlers = _recording(self._client_handlers)
        if len(self.judged) > before:
            if self._waiting_values is not None:
                self.judged[before] = replace(self.judged[before], values=self._waiting_values)
            self._waiting_values = None
        return instead

    def types(self, name: bytes) -> bytes:
        return self._types.get(name, b"")


def _recording(table: Table) -> Table:
    """The table that records; the one that collects a held statement binds nothing."""
    return RECORDING.get(id(table), table)


def _parse(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    assert isinstance(relay, RecordingRelay)
    instead = relay.handle(data[pos], data, pos, end, None)
    name_end = data.index(0, pos + HEADER)
    # The length of the name and text was looked at by now.
    reader = _Reader(data, data.index(0, name_end + 1) + 1, end, whole=True)
    count = reader.number(_UINT16)
    relay.parsed(data[pos + HEADER : name_end][:NAME_BYTES], reader.take(4 * count)[: 4 * TYPES_MOST])
    return instead


def _bind(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    assert isinstance(relay, RecordingRelay)
    return relay.handle(data[pos], data, pos, end, bound_values(relay, data, pos, end))


def _function_call(relay: Relay, data: bytes, pos: int, end: int) -> bytes | None:
    assert isinstance(relay, RecordingRelay)
    reader = _Reader(data, pos + HEADER, end, whole=True)
    reader.number(_UINT32)
    return relay.handle(data[pos], data, pos, end, reader.values(b""))


def bound_values(relay: RecordingRelay, data: bytes, pos: int, end: int) -> BoundValues | None:
    """The values of the Bind at `pos`, None where there are none. Raises ProtocolError where it is not what it says."""
    portal_end = data.find(0, pos + HEADER, end)
    name_end = data.find(0, portal_end + 1, end) if portal_end >= 0 else -1
    if name_end < 0:
        raise ProtocolError("a string in a Bind has no end")
    reader = _Reader(data, name_end + 1, end, whole=end - pos == declared(data, pos))
    return reader.values(relay.types(data[portal_end + 1 : name_end][:NAME_BYTES]))


class _Reader:
    """Reads a message from `at`; where it is not `whole`, what is missing at its end is no error."""

    __slots__ = ("_at", "_data", "_end", "_whole")

    def __init__(self, data: bytes, at: int, end: int, *, whole: bool) -> None:
        self._data = data
        self._at = at
        self._end = end
        self._whole = whole

    def number(self, layout: Struct) -> int:
        if self._end - self._at < layout.size:
            raise ProtocolError("a message with values is shorter than it says")
        found: int = layout.unpack_from(self._data, self._at)[0]
        self._at += layout.size
        return found

    def take(self, size: int) -> bytes:
        if self._end - self._at < size:
            raise ProtocolError("a message with values is shorter than it says")
        self._at += size
        return self._data[self._at - size : self._at]

    def values(self, types: bytes) -> BoundValues | None:
        """Formats, and the values behind them."""
        try:
            formats = [self.number(_INT16) for _ in range(self.number(_UINT16))]
            count = self.number(_UINT16)
        except ProtocolError:
            if self._whole:
                raise
            return BoundValues(values=(), left_out=None)
        shown: list[BoundValue] = []
        room = ENTRY_BYTES
        for index in range(count):
            if not self._whole and self._end - self._at < _INT32.size:
                break
            value, size = self._value()
            if room <= 0 or index >= VALUES_MOST:
                # What follows is looked at for its lengths alone.
                continue
            room -= len(value or b"")
            kind = _UINT32.unpack_from(types, 4 * index)[0] if len(types) >= 4 * index + 4 else 0
            form = formats[index] if index < len(formats) else formats[0] if len(formats) == 1 else 0
            shown.append(BoundValue(type=kind, format=form, value=value, size=size))
        return BoundValues(values=tuple(shown), left_out=count - len(shown)) if count else None

    def _value(self) -> tuple[bytes | None, int]:
        """The beginning of the next value, and its length."""
        size = self.number(_INT32)
        if size == -1:
            return None, 0
        if size < -1:
            raise ProtocolError(f"a value has length {size}")
        begin, self._at = self._at, self._at + size
        if self._at > self._end:
            if self._whole:
                raise ProtocolError("a message with values is shorter than it says")
            self._at = self._end
        return self._data[begin : min(self._at, begin + VALUE_BYTES + VALUE_MARGIN)], size


def _tables() -> tuple[dict[int, Table], dict[int, Table]]:
    plain = (CLIENT, COUNTING_CLIENT, held_cycle.DESCRIBING_CLIENT, held_cycle.DESCRIBING_COUNTING_CLIENT)
    recording = [changed_table(table, P=_parse, B=_bind, F=_function_call) for table in plain]
    return (
        {id(table): ours for table, ours in zip(plain, recording, strict=True)},
        {id(ours): table for table, ours in zip(plain, recording, strict=True)},
    )


RECORDING, PLAIN = _tables()
"""The tables of a session that records, by the identity of those of any other, and the other way round."""
