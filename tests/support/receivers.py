"""Where alerts arrive in tests: a real HTTP server and a real SMTP server on this machine."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from email.header import decode_header, make_header
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from support.ports import free_port
from support.waiting import DEADLINE


class HttpReceiver:
    """Takes apprise's json:// messages; `status` is what it answers. While `gate` is shut it takes messages and says nothing."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.tries = 0
        self.status = 200
        self.gate = threading.Event()
        self.gate.set()
        self.port = 0
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The apprise URL, with a secret in its path."""
        return f"json://127.0.0.1:{self.port}/hook-{SECRET}"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in list(self.messages)]

    @property
    def text(self) -> str:
        """All that arrived."""
        return "\n".join(f"{message['title']}\n{message['message']}" for message in list(self.messages))

    def start(self) -> None:
        """On the port that it had before, if it had one, so it is none that the kernel gives away meanwhile."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.tries += 1
                receiver.gate.wait(60)
                if receiver.status == 200:
                    receiver.messages.append(json.loads(body))
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Nobody wants to see it."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A sender that is killed leaves a broken pipe behind."""

        # None that the kernel gives away meanwhile: it is stopped and comes back where it was.
        self.port = self.port or free_port()
        self._server = Server(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self.gate.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None


SECRET = "T0PS3CRET"


@contextmanager
def http_receiver() -> Iterator[HttpReceiver]:
    receiver = HttpReceiver()
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()


class SmtpReceiver:
    """Takes mail; `subjects` and `text` are what arrived."""

    def __init__(self) -> None:
        self.subjects: list[str] = []
        self.text = ""

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:  # noqa: N802  (aiosmtpd's name)
        mail = message_from_bytes(envelope.content)
        body = mail.get_payload(decode=True) if not mail.is_multipart() else b""
        for part in mail.walk():
            if part.get_content_type() == "text/plain":
                body = part.get_payload(decode=True)
        assert isinstance(body, bytes)
        self.text += body.decode()
        self.subjects.append(str(make_header(decode_header(mail["Subject"]))).replace("\n", ""))
        return "250 taken"


@contextmanager
def smtp_receiver() -> Iterator[tuple[SmtpReceiver, str]]:
    """The receiver and the apprise URL that leads to it."""
    port = free_port()
    receiver = SmtpReceiver()
    controller = Controller(receiver, hostname="127.0.0.1", port=port, ready_timeout=DEADLINE)
    controller.start()
    try:
        yield receiver, f"mailto://127.0.0.1:{port}?from=dbshield@example.com&to=team@example.com&mode=insecure"
    finally:
        controller.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span as a collector reads it; times are nanoseconds since 1970."""

    name: str
    start: int
    end: int
    attributes: Mapping[str, object]
    events: Mapping[str, int]
    failed: bool


class TraceReceiver:
    """Takes OTLP over HTTP as an OpenTelemetry collector does; `bodies` is all that arrived, unpacked."""

    def __init__(self) -> None:
        self.port = 0
        self.bodies = b""
        self.spans: list[Span] = []

    def take(self, body: bytes) -> None:
        self.bodies += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += map(_span, scope.spans)


@contextmanager
def trace_receiver() -> Iterator[TraceReceiver]:
    """A collector on this machine."""
    receiver = TraceReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.take(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def _span(span: Any) -> Span:
    return Span(
        name=span.name,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes={one.key: _value(one.value) for one in span.attributes},
        events={event.name: event.time_unix_nano for event in span.events},
        failed=span.status.code == Status.STATUS_CODE_ERROR,
    )


def _value(value: Any) -> object:
    kind = value.WhichOneof("value")
    return tuple(map(_value, value.array_value.values)) if kind == "array_value" else getattr(value, kind)
