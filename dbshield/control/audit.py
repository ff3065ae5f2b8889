"""The audit: a JSON line for every statement with its verdict, and for every connection, refused login and end of a session;
for the rows that counted statements changed, and for every freeze and every change of what agents may do.

Laws:
- It cannot be switched off, and holds no literal that a client sent: a statement is written in its normal form alone, unless the
  configuration wants all of it.
- Recording is an append to a list, or a number that grows where a session repeats what only reads. Rendering happens in batches,
  in `flush`, which the proxy calls several times a second: what is the same for a connection is rendered once a connection, what
  is the same for a shape of statements once a shape.
- Nothing here raises into the proxy. What cannot be written is kept, up to a limit, in order; what was lost beyond it leaves a
  line of its own that says how many. `healthy` says whether the last write succeeded, and the proxy decides what follows.
- The database is the audit that counts: `when_durable` and `durable` are about it. The file is for whoever reads lines.
- Lines of several workers go to one file: it is opened for appending, and a batch is one write.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from dbshield.control.audit_fields import connection_fields, freeze_fields, judgement_fields, quoted, time_of
from dbshield.control.audit_shipping import Shipping
from dbshield.control.tokens import hidden
from dbshield.errors import ConfigError, DbshieldError
from dbshield.model import Allow, Judgement
from dbshield.store.frozen import Freeze

BATCH: Final = 5_000
"""Events after which a flush does not wait for its turn: two milliseconds' work."""
KEPT_BYTES: Final = 32 << 20
"""What a worker keeps in memory while nothing can be written."""
CACHED_CHARACTERS: Final = 8 << 20
"""Of rendered judgements; when they are more, all are forgotten and the live ones come back by themselves."""
STDOUT: Final = 1

THREE_DIGITS: Final = tuple(f"{number:03d}" for number in range(1000))
"""Looking digits up costs half of what formatting them does."""

COMPACT: Final = json.JSONEncoder(separators=(",", ":")).encode
"""Made once: json.dumps would make one for each transaction that has changed rows."""

Record = Callable[[float, Judgement], None]


@dataclass(slots=True)
class Event:
    """One line: when, in seconds since 1970, the text that follows it, and the judgement for a statement.

    A session that repeats a statement which only reads, with no other one of its own in between, makes one event until that is
    handed over: `count` says how many they are, `until` when the last of them was, `repeatable` what the next one has to be.
    """

    at: float
    head: str
    judgement: Judgement | None = None
    repeatable: Judgement | None = None
    count: int = 1
    until: float = 0.0


class AuditedSession:
    """The events of one session. `statement` is called for each statement, with the time and its judgement."""

    __slots__ = ("_add", "_fields", "statement")

    def __init__(self, fields: str, pending: list[Event], full: Callable[[], None]) -> None:
        self._fields = fields
        self._add = pending.append
        self.statement: Record = _recorder(f'Z","event":"statement",{fields},', pending, full)

    def rows(self, now: float, changed: Mapping[str, int]) -> None:
        """The rows of each table that a transaction has changed by counted statements, once it is over."""
        tables = COMPACT(dict(changed))
        self._add(Event(now, f'Z","event":"rows",{self._fields},"changed":{tables}}}\n'))

    def ended(self, now: float, reason: str) -> None:
        self._add(Event(now, f'Z","event":"disconnected",{self._fields},"reason":{quoted(reason)}}}\n'))


class AuditLog:
    """The audit of one worker, in a file of its own or shared with others; without a path, on standard output. What goes there
    goes to the control database as well, by `shipping`. Without `statements` only what they do is written, not their text.

    Raises ConfigError where the file cannot be opened: a proxy without an audit does not start.
    """

    def __init__(self, path: Path | None, shipping: Shipping | None = None, *, statements: bool = True) -> None:
        self._path = path
        self._shipping = shipping
        self._statements = statements
        self._pending: list[Event] = []
        # Added to with every batch that a write waits for, so it must not be copied each time.
        self._buffer = bytearray()
        self._torn = b""
        self._second, self._stamp = -1, ""
        self._lost = 0
        self._healthy = True
        self._rendered: dict[int, tuple[Judgement, str]] = {}
        self._rendered_characters = 0
        self.counted: Callable[[Sequence[Event]], None] = lambda events: None
        """Whoever counts sets this: it gets each batch of events."""
        self._log: Any = structlog.get_logger(__name__)
        self._descriptor = self._open()
        if shipping is not None:
            # To the database alone: the file has its own time.
            shipping.recorded = self._hand_over

    @property
    def healthy(self) -> bool:
        """Whether everything that was recorded before the last flush is written."""
        return self._healthy

    @property
    def lost(self) -> int:
        """Events that were neither written nor kept, and are not yet accounted for in the file."""
        return self._lost

    def connected(
        self,
        now: float,
        *,
        agent: str,
        environment: str,
        database: str,
        session: int,
        client: str,
        token_id: str,
        application_name: str,
    ) -> AuditedSession:
        """An agent logged in; what is returned records the rest of its session."""
        fields = connection_fields(
            agent=agent,
            environment=environment,
            database=database,
            session=session,
            client=client,
            application_name=application_name,
        )
        self._pending.append(Event(now, f'Z","event":"connected",{fields},"token":{quoted(token_id)}}}\n'))
        return AuditedSession(fields, self._pending, self.flush)

    def connection_refused(self, now: float, *, client: str, user: str, why: str) -> None:
        """A login that failed. `user` is what the client claimed, cut to what a name can be."""
        fields = f'"user":{quoted(user[:128])},"client":{quoted(client)},"reason":{quoted(why)}'
        self._pending.append(Event(now, f'Z","event":"refused",{fields}}}\n'))
        if len(self._pending) >= BATCH:
            self.flush()

    def frozen(self, now: float, freeze: Freeze) -> None:
        """This proxy has begun to apply a freeze. Each worker says so; `freeze` is the same number in all their lines."""
        fields = f'{freeze_fields(freeze)},"by":{quoted(freeze.frozen_by)},"until":{time_of(freeze.until)}'
        self._pending.append(Event(now, f'Z","event":"frozen",{fields}}}\n'))

    def thawed(self, now: float, freeze: Freeze) -> None:
        """This proxy no longer applies a freeze: it was lifted, is over, or gave way to a longer one."""
        self._pending.append(Event(now, f'Z","event":"thawed",{freeze_fields(freeze)}}}\n'))

    def policy_changed(self, now: float, *, environment: str, changed: Mapping[str, tuple[Any, Any]]) -> None:
        """A reload changed what agents may do: each setting with its old and new value, as JSON knows values."""
        fields = f'"environment":{quoted(environment)},"changed":{hidden(json.dumps(changed, separators=(",", ":")))}'
        self._pending.append(Event(now, f'Z","event":"policy-changed",{fields}}}\n'))

    def event(self, now: float, kind: str, /, **fields: Any) -> None:
        """Anything else that happened, such as "approval-requested" or "executed"; `fields` are what JSON knows. What stands
        under `environment`, `agent`, `database`, `session`, `person`, `verdict` and `rules` can be searched for quickly."""
        text = hidden(json.dumps(fields, separators=(",", ":"), default=str))[1:]
        self._pending.append(Event(now, f'Z","event":{quoted(kind)}{"," if fields else ""}{text}\n'))

    def kept_elsewhere(self, line: str) -> None:
        """A line for the file alone: somebody has brought it to the database in a transaction of their own."""
        self._hand_over()
        self._buffer += f"{line}\n".encode("ascii")

    def when_durable(self, told: Callable[[DbshieldError | None], None]) -> None:
        """Calls `told` when all that was recorded up to now is kept for good, or with the error where it cannot be."""
        if self._shipping is None:
            told(None)
        else:
            self._shipping.when_durable(told)

    async def durable(self) -> None:
        """Returns when all that was recorded up to now is kept for good. Raises Refused where it cannot be."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def told(error: DbshieldError | None) -> None:
            if not future.done():
                future.set_result(None) if error is None else future.set_exception(error)

        self.when_durable(told)
        await future

    async def start(self) -> None:
        """Raises StoreError where the control database is away."""
        if self._shipping is not None:
            await self._shipping.start()

    async def stop(self) -> None:
        """Brings what was recorded to where it is kept. What comes later is in the file alone."""
        self.flush()
        if self._shipping is not None:
            await self._shipping.stop()

    def show(self, *, statements: bool) -> None:
        """Write the text of statements, or only what they do, from now on; what was recorded before as it was to be."""
        if statements != self._statements:
            self._hand_over()
            self._statements = statements
            self._rendered.clear()
            self._rendered_characters = 0

    def flush(self) -> None:
        """Writes what was recorded. Never raises."""
        self._hand_over()
        if self._buffer:
            self._write()

    def _hand_over(self) -> None:
        if self._pending:
            events = self._pending[:]
            # The list stays the same: every session holds its append.
            self._pending.clear()
            for event in events:
                event.repeatable = None
            self._take(events)

    def reopen(self) -> None:
        """Goes on in a new file after the old one was moved away. Where that cannot be opened, the old one is kept."""
        self.flush()
        if self._path is None:
            return
        try:
            descriptor = self._open()
        except ConfigError as error:
            self._log.error("audit.not_reopened", reason=error.message)
            return
        if self._torn and not os.path.sameopenfile(descriptor, self._descriptor):
            # A full disk cut a line: in the new file it stands whole.
            self._buffer[:0] = self._torn
            self._torn = b""
        os.close(self._descriptor)
        self._descriptor = descriptor
        self.flush()

    def close(self) -> None:
        """The last flush. What cannot be written even now is lost, and said so."""
        self.flush()
        if self._buffer or self._lost:
            self._log.critical("audit.lost", events=self._lost + self._buffer.count(b"\n"))
        if self._path is not None:
            os.close(self._descriptor)

    def _open(self) -> int:
        if self._path is None:
            return STDOUT
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"the audit file {self._path} cannot be opened: {error.strerror}",
                hint="Look at [audit] file, and at who may write there.",
            ) from error

    def _take(self, events: list[Event]) -> None:
        """Renders events, for the database and behind what is still to be written, unless that has grown too long already."""
        self.counted(events)
        lines = self._render(events)
        if self._shipping is not None:
            self._shipping.take([line[:-1] for line in lines])
        if len(self._buffer) >= KEPT_BYTES:
            self._lost += sum(event.count for event in events)
            return
        if self._lost:
            gap = f'Z","event":"audit-gap","lost":{self._lost}}}\n'
            lines = self._render([Event(events[0].at, gap)]) + lines
            self._lost = 0
        self._buffer += "".join(lines).encode("ascii")

    def _render(self, events: Sequence[Event]) -> list[str]:
        lines: list[str] = []
        rendered = self._rendered.get
        second, stamp = self._second, self._stamp
        for event in events:
            at = event.at
            if not second <= at < second + 1:
                second, stamp = int(at), _second(at)
            micro = int((at - second) * 1e6)
            line = f'{{"ts":"{stamp}{THREE_DIGITS[micro // 1000]}{THREE_DIGITS[micro % 1000]}{event.head}'
            judgement = event.judgement
            if judgement is not None:
                # By identity, which hashes nothing; the judgement is kept with it, so that no other takes its place in memory.
                entry = rendered(id(judgement))
                line += entry[1] if entry is not None else self._render_judgement(judgement)
                if event.count > 1:
                    until = f"{_second(event.until)}{int(event.until % 1 * 1e6):06d}"
                    line = f'{line[:-2]},"repeats":{event.count},"until":"{until}Z"}}\n'
            lines.append(line)
        # A batch that a write waits for comes many times a second.
        self._second, self._stamp = second, stamp
        return lines

    def _render_judgement(self, judgement: Judgement) -> str:
        text = judgement_fields(judgement, statement=self._statements)
        if judgement.values is not None:
            # Of one execution: it does not come again.
            return text
        if self._rendered_characters > CACHED_CHARACTERS:
            self._rendered.clear()
            self._rendered_characters = 0
        self._rendered[id(judgement)] = (judgement, text)
        # The judgement's own text counts as well: it would be gone without this entry.
        self._rendered_characters += len(text) + len(judgement.normal)
        return text

    def _write(self) -> None:
        try:
            while self._buffer:
                written = os.write(self._descriptor, self._buffer)
                if written == len(self._buffer):
                    self._buffer.clear()
                    self._torn = b""
                else:
                    self._cut(written)
        except OSError as error:
            if self._healthy:
                self._healthy = False
                self._log.critical("audit.not_written", file=str(self._path or "standard output"), reason=error.strerror)
            return
        if not self._healthy:
            self._healthy = True
            self._log.warning("audit.written_again", lost=self._lost)

    def _cut(self, written: int) -> None:
        """A part was written; the beginning of the line that it ends in is remembered, should the file be exchanged now."""
        begin = self._buffer.rfind(b"\n", 0, written) + 1
        self._torn = bytes(self._buffer[begin:written]) if begin else self._torn + self._buffer[:written]
        del self._buffer[:written]


def _second(at: float) -> str:
    """A time in UTC up to its second's point."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(at))


def _recorder(head: str, pending: list[Event], full: Callable[[], None]) -> Record:
    """A closure, because this is called for every statement and finds its three things without a look into an object."""
    append = pending.append
    newest = Event(0.0, head)

    def record(now: float, judgement: Judgement) -> None:
        nonlocal newest
        if newest.repeatable is judgement:
            newest.count += 1
            newest.until = now
            return
        repeatable = judgement if not judgement.writes and type(judgement.verdict) is Allow else None
        newest = Event(now, head, judgement, repeatable)
        append(newest)
        if len(pending) >= BATCH:
            full()

    return record
