"""A span for each statement, where traces are switched on: from its arrival to the server's answer, with its verdict.

Laws:
- Switched off, nothing of this is called, and OpenTelemetry is not even imported.
- A span says no more of a statement than the audit does: its text without constants, or none at all.
- Nothing waits for a collector. What it does not take in time is dropped.

A span ends when the server has answered all that its session had asked, so those of a pipeline end together. Source:
OpenTelemetry's semantic conventions for database spans.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import dbshield
from dbshield.config.metrics import TracingConfig
from dbshield.control.audit_fields import STATEMENT_MAX
from dbshield.control.tokens import hidden
from dbshield.errors import ConfigError, DbshieldError
from dbshield.model import AgentLogin, Deny, Hold, Judgement
from dbshield.proxy.around import Around, end_of
from dbshield.proxy.pair import Pair, Record, WhenDurable
from dbshield.proxy.verdicts import decisive

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
EXPORT_TIMEOUT: Final = 5.0
"""Seconds for the collector to take a batch."""
STOP_TIMEOUT: Final = 6.0
"""Seconds for the last batch."""
PENDING: Final = 1_000
"""Statements of one session that wait for an answer and are traced; what is pipelined beyond that has no span."""


def require(config: TracingConfig) -> None:
    """Raises ConfigError where traces are wanted, and what makes them is not installed."""
    try:
        there = not config.endpoint or importlib.util.find_spec(EXPORTER) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        raise ConfigError(
            "[tracing] endpoint is set, and OpenTelemetry is not installed", hint='Install it with pip install "dbshield[otel]".'
        )


class Tracing:
    """The traces of one worker; made in its process, since it has a thread."""

    def __init__(self, config: TracingConfig, *, statements: bool) -> None:
        self._ratio = config.ratio
        self._statements = statements
        self._provider = _provider(config) if config.endpoint else None

    def show(self, *, statements: bool) -> None:
        """Have spans tell the text of statements, or not, from now on."""
        self._statements = statements

    def session(self, login: AgentLogin, database: str, number: int) -> TracedSession | None:
        """What traces a session; nothing where it is not traced."""
        if self._provider is None or int.from_bytes(os.urandom(4), "big") >= self._ratio * 2**32:
            return None
        about: dict[str, str | int] = {
            "db.system.name": "postgresql",
            "db.namespace": database,
            "dbshield.environment": login.environment,
            "dbshield.agent": login.agent,
            "dbshield.session": number,
        }
        tracer = self._provider.get_tracer("dbshield", dbshield.__version__)
        return TracedSession(tracer, about, shows_text=lambda: self._statements)

    async def stop(self) -> None:
        """Sends what is left, if the collector takes it in time."""
        provider, self._provider = self._provider, None
        if provider is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(provider.shutdown), STOP_TIMEOUT)


def _provider(config: TracingConfig) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  (only where it is wanted)
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(
        resource=Resource.create({"service.name": "dbshield", "service.version": dbshield.__version__}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=config.endpoint, timeout=EXPORT_TIMEOUT)))
    return provider


@dataclass(slots=True, kw_only=True)
class _Open:
    """A statement that is not answered yet; times are nanoseconds since 1970."""

    judgement: Judgement
    arrived: int
    forwarded: int = 0


class TracedSession:
    """The statements of one session on their way. `record` and `when_durable` go around those of the audit, `attach` around the
    ends of the pair."""

    def __init__(self, tracer: Any, about: dict[str, str | int], *, shows_text: Callable[[], bool]) -> None:
        self._tracer = tracer
        self._about = about
        self._shows_text = shows_text
        self._open: list[_Open] = []
        self._arrived = 0
        self._withheld = False

    def record(self, record: Record) -> Record:
        """`record`, and remember the statement."""

        def traced(now: float, judgement: Judgement) -> None:
            record(now, judgement)
            if len(self._open) < PENDING:
                self._open.append(_Open(judgement=judgement, arrived=self._arrived or int(now * 1e9)))

        return traced

    def when_durable(self, when_durable: WhenDurable) -> WhenDurable:
        """`when_durable`, and see when what was withheld goes on."""

        def traced(told: Callable[[DbshieldError | None], None]) -> None:
            self._withheld = True

            def release(error: DbshieldError | None) -> None:
                self._withheld = False
                told(error)
                self._forwarded(time.time_ns())

            when_durable(release)

        return traced

    def attach(self, pair: Pair) -> None:
        """See what comes and goes, from now on."""
        assert pair.client is not None
        assert pair.server is not None
        pair.client.set_protocol(_Client(self, end_of(pair.client), pair))
        pair.server.set_protocol(_Server(self, end_of(pair.server), pair))

    def chunk(self, receive: Callable[[bytes], None], data: bytes) -> None:
        """The client sent something."""
        self._arrived = time.time_ns()
        receive(data)
        self._arrived = 0
        if not self._withheld:
            self._forwarded(time.time_ns())

    def answered(self, *, reason: str = "") -> None:
        """All statements are answered, or the session is over, for a reason that is told."""
        now = time.time_ns()
        over, self._open = self._open, []
        for one in over:
            self._span(one, now, reason)

    def _forwarded(self, now: int) -> None:
        for one in reversed(self._open):
            if one.forwarded:
                break
            one.forwarded = now

    def _span(self, one: _Open, now: int, reason: str) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415  (only where it is wanted)

        judgement, finding = one.judgement, decisive(one.judgement)
        effect = judgement.effects[0] if judgement.effects else None
        span = self._tracer.start_span(
            hidden(f"{effect.operation} {effect.name}") if effect is not None else "statement",
            kind=SpanKind.SERVER,
            start_time=one.arrived,
            attributes=self._about
            | {
                "dbshield.verdict": judgement.verdict.word,
                "dbshield.rules": tuple(dict.fromkeys(finding.rule for finding in judgement.findings)),
            }
            | ({"db.query.text": hidden(judgement.normal)[:STATEMENT_MAX]} if self._shows_text() else {}),
        )
        if one.forwarded:
            span.set_attribute("dbshield.added_seconds", (one.forwarded - one.arrived) / 1e9)
            span.add_event("forwarded", timestamp=one.forwarded)
        if isinstance(judgement.verdict, (Hold, Deny)):
            span.set_status(Status(StatusCode.ERROR, hidden(finding.message) if finding is not None else "stopped"))
        elif reason:
            span.set_status(Status(StatusCode.ERROR, reason))
        span.end(end_time=now)


class _Traced(Around):
    def __init__(self, traced: TracedSession, inner: asyncio.Protocol, pair: Pair) -> None:
        super().__init__(inner)
        self._traced = traced
        self._pair = pair


class _Client(_Traced):
    def data_received(self, data: bytes) -> None:
        self._traced.chunk(self._receive, data)


class _Server(_Traced):
    def data_received(self, data: bytes) -> None:
        self._receive(data)
        relay = self._pair.relay
        if not (relay.busy or relay.keeps):
            self._traced.answered()
