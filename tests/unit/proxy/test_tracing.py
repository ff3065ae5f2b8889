"""Spans: when they begin and end, what they say, and that nothing is there where nobody asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.receivers import trace_receiver
from support.waiting import until

from dbshield.config.metrics import TracingConfig
from dbshield.control.audit_fields import STATEMENT_MAX
from dbshield.errors import ConfigError, DbshieldError
from dbshield.model import AccessLevel, AgentLogin, Upstream
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.proxy.tracing import PENDING, TracedSession, Tracing, require

ENDPOINT = "http://127.0.0.1:4318/v1/traces"
JUDGE = Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.builtin())
READ = JUDGE.judge(b"select 1 where 'secret' = 'secret'")
WRITE = JUDGE.judge(b"update t set a = 1 where b = 2")
STOPPED = JUDGE.judge(b"drop table t")
LOGIN = AgentLogin(
    agent="claude",
    environment="production",
    access=AccessLevel.WRITE,
    databases=("shop",),
    salt=b"0" * 16,
    iterations=4096,
    tokens=(),
    upstream=Upstream(host="db", port=5432, user="app"),
)
NOW = 1_800_000_000.0

Traced = Callable[[bool], tuple[TracedSession, Callable[[], tuple[ReadableSpan, ...]]]]


@pytest.fixture
def traced() -> Iterator[Traced]:
    """Makes a session whose spans can be read."""
    provider = TracerProvider(shutdown_on_exit=False)

    def make(statements: bool) -> tuple[TracedSession, Callable[[], tuple[ReadableSpan, ...]]]:
        exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        return TracedSession(provider.get_tracer("test"), {"dbshield.agent": "claude"}, shows_text=lambda: statements), (
            exporter.get_finished_spans
        )

    yield make
    provider.shutdown()


def said(span: ReadableSpan) -> Mapping[str, object]:
    assert span.attributes is not None
    return span.attributes


def test_a_span_ends_with_the_answer_and_those_of_a_pipeline_together(traced: Traced) -> None:
    session, spans = traced(True)
    kept: list[float] = []
    record = session.record(lambda now, judgement: kept.append(now))
    session.chunk(lambda data: (record(NOW, READ), record(NOW, STOPPED))[0], b"data")
    assert spans() == ()
    session.answered()
    read, stopped = spans()
    assert kept == [NOW, NOW]
    assert read.end_time == stopped.end_time
    for span in (read, stopped):
        assert span.start_time is not None
        assert span.end_time is not None
        assert [event.name for event in span.events] == ["forwarded"]
        assert span.start_time <= span.events[0].timestamp <= span.end_time
    assert said(read)["dbshield.verdict"] == "allow"
    assert said(read)["db.query.text"] == READ.normal
    assert "secret" not in str(said(read))
    assert (said(stopped)["dbshield.verdict"], said(stopped)["dbshield.rules"]) == ("deny", ("DS101", "DS301"))
    assert stopped.status.description == STOPPED.findings[1].message
    assert (read.status.is_ok, stopped.status.is_ok) == (True, False)
    session.answered()
    assert len(spans()) == 2


def test_no_token_is_told_wherever_somebody_put_it(traced: Traced) -> None:
    secret = "a" * 32
    misplaced = f"dbs_staging_abcdefghijkl_{secret}"
    far_away = " ".join(f"x{number} int," for number in range(STATEMENT_MAX // 10))[: STATEMENT_MAX - 60]
    session, spans = traced(True)
    record = session.record(lambda now, judgement: None)
    for statement in (f'drop table "{misplaced}"', f'create table t ({far_away.rpartition(",")[0]}, "{misplaced}" int)'):
        session.chunk(lambda data: record(NOW, JUDGE.judge(data)), statement.encode())
    session.answered()
    assert len(spans()) == 2
    for span in spans():
        assert secret[:20] not in span.to_json(), span.name


def test_what_waits_for_the_audit_is_forwarded_when_it_goes_on(traced: Traced) -> None:
    session, spans = traced(True)
    record = session.record(lambda now, judgement: None)
    waiting: list[Callable[[DbshieldError | None], None]] = []
    told: list[DbshieldError | None] = []
    when_durable = session.when_durable(waiting.append)

    def receive(data: bytes) -> None:
        record(NOW, WRITE)
        when_durable(told.append)

    session.chunk(receive, b"data")
    assert [one.forwarded > 0 for one in session._open] == [False]
    waiting[0](None)
    assert told == [None]
    assert [one.forwarded > 0 for one in session._open] == [True]
    session.answered()
    assert float(str(said(spans()[0])["dbshield.added_seconds"])) > 0


def test_a_session_that_ends_leaves_no_span_open_and_says_why(traced: Traced) -> None:
    session, spans = traced(True)
    session.record(lambda now, judgement: None)(NOW, READ)
    session.answered(reason="the client went away")
    (span,) = spans()
    assert span.status.description == "the client went away"
    assert span.start_time == int(NOW * 1e9)


def test_without_statements_in_the_audit_there_is_none_in_a_span(traced: Traced) -> None:
    session, spans = traced(False)
    session.record(lambda now, judgement: None)(NOW, READ)
    session.answered()
    assert "db.query.text" not in said(spans()[0])


async def test_a_session_that_stands_shows_what_is_wanted_now() -> None:
    with trace_receiver() as receiver:
        tracing = Tracing(TracingConfig(endpoint=f"http://127.0.0.1:{receiver.port}/v1/traces"), statements=True)
        session = tracing.session(LOGIN, "shop", 1)
        assert session is not None
        for shown in (True, False, True):
            tracing.show(statements=shown)
            session.record(lambda now, judgement: None)(NOW, READ)
            session.answered()
        await tracing.stop()
        # The last ones may be on their way when a stop has waited for long enough.
        assert until(lambda: len(receiver.spans) == 3)
    assert ["db.query.text" in span.attributes for span in receiver.spans] == [True, False, True]


def test_a_client_that_pipelines_without_end_makes_no_memory_grow(traced: Traced) -> None:
    session, spans = traced(False)
    kept: list[float] = []
    record = session.record(lambda now, judgement: kept.append(now))
    for _ in range(PENDING + 10):
        record(NOW, READ)
    session.answered()
    assert (len(kept), len(spans())) == (PENDING + 10, PENDING)


async def test_switched_off_nothing_is_traced() -> None:
    tracing = Tracing(TracingConfig(), statements=True)
    assert tracing.session(LOGIN, "shop", 1) is None
    await tracing.stop()


async def test_a_share_of_the_sessions_is_traced() -> None:
    tracing = Tracing(TracingConfig(endpoint=ENDPOINT, ratio=0.5), statements=True)
    sessions = [tracing.session(LOGIN, "shop", number) for number in range(400)]
    await tracing.stop()
    assert 100 < sum(session is not None for session in sessions) < 300
    assert tracing.session(LOGIN, "shop", 1) is None


def test_opentelemetry_is_not_imported_where_it_is_not_wanted() -> None:
    program = (
        "import sys; from dbshield.proxy.tracing import Tracing; from dbshield.config.metrics import TracingConfig\n"
        "Tracing(TracingConfig(), statements=True); print('opentelemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_what_is_not_installed_is_said_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    require(TracingConfig(endpoint=ENDPOINT))
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    require(TracingConfig())
    with pytest.raises(ConfigError) as caught:
        require(TracingConfig(endpoint=ENDPOINT))
    assert "dbshield[otel]" in caught.value.hint
