"""The gate in front of every page: what it lets through, and what each answer tells the browser."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.types import Message, Receive, Scope, Send

from dbshield.console.security import BODY_MOST, CONTENT_SECURITY_POLICY, FORM, Gate, cookie_name, csrf_token

ORIGINS = {"console.example.com": "https://console.example.com", "127.0.0.1:7433": "http://127.0.0.1:7433"}
COOKIE = "a-cookie-that-nobody-guesses"
FIELDS = {"csrf": csrf_token(COOKIE), "reason": "fine"}
GOOD = {
    "host": "127.0.0.1:7433",
    "origin": "http://127.0.0.1:7433",
    "cookie": f"dbshield={COOKIE}",
    "content-type": FORM,
}


class Answer:
    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.reached = False
        self.body = b""


def ask(method: str, headers: dict[str, str | None], chunks: list[bytes], path: str = "/", query: bytes = b"") -> Answer:
    """What the gate answers, and the body that reached the application behind it."""
    answer = Answer()
    pending = [
        {"type": "http.request", "body": chunk, "more_body": place + 1 < len(chunks)} for place, chunk in enumerate(chunks)
    ]

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        answer.reached = True
        more = True
        while more:
            message = await receive()
            answer.body += message["body"]
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return pending.pop(0)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}

    given = [(name.encode(), text.encode()) for name, text in headers.items() if text is not None]
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "query_string": query, "headers": given}
    asyncio.run(Gate(application, origins=lambda: ORIGINS)(scope, receive, send))
    return answer


def post(body: str | None = None, **headers: str | None) -> Answer:
    text = urlencode(FIELDS) if body is None else body
    return ask("POST", {**GOOD, **{name.replace("_", "-"): value for name, value in headers.items()}}, [text.encode()])


def test_a_form_of_the_console_goes_through_whole() -> None:
    body = urlencode(FIELDS).encode()
    answer = ask("POST", dict(GOOD), [body[:10], body[10:11], body[11:]])
    assert (answer.status, answer.body) == (200, body)
    assert post("reason=x", x_csrf_token=csrf_token(COOKIE)).status == 200
    assert post(sec_fetch_site="same-origin").status == 200


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (403, None, {"origin": None}),
        (403, None, {"origin": "null"}),
        (403, None, {"origin": "https://127.0.0.1:7433"}),
        (403, None, {"origin": "http://127.0.0.1:7433.evil.example"}),
        (403, None, {"origin": "https://console.example.com"}),
        (403, None, {"sec_fetch_site": "cross-site"}),
        (403, None, {"sec_fetch_site": "same-site"}),
        (403, None, {"cookie": None}),
        (403, None, {"cookie": "dbshield=another"}),
        (403, None, {"cookie": "dbshield=", "x_csrf_token": csrf_token("")}),
        (403, "reason=x", {}),
        (403, "csrf=", {}),
        (403, f"csrf={csrf_token(COOKIE)}&csrf={csrf_token(COOKIE)}", {}),
        (403, f"csrf={csrf_token('another')}", {}),
        (403, "csrf=\u00fc", {}),
        (403, None, {"x_csrf_token": "wrong"}),
        (400, f"csrf={csrf_token(COOKIE)}&reason=a%00b", {}),
        (400, f"csrf={csrf_token(COOKIE)}&reason=a\0b", {}),
        (415, None, {"content_type": "application/json"}),
        (415, None, {"content_type": "text/plain"}),
        (415, None, {"content_type": "multipart/form-data; boundary=x"}),
        (415, None, {"content_type": None}),
        (421, None, {"host": "evil.example"}),
        (421, None, {"host": "127.0.0.1"}),
        (421, None, {"host": None}),
    ],
)
def test_what_no_page_of_the_console_sent_goes_no_further(status: int, body: str | None, headers: dict[str, str | None]) -> None:
    answer = post(body, **headers)
    assert (answer.status, answer.reached) == (status, False)


def test_no_name_that_points_here_is_answered_even_for_reading() -> None:
    assert ask("GET", {"host": "rebound.example"}, [b""]).status == 421
    assert ask("GET", {"host": "127.0.0.1:7433"}, [b""]).status == 200


def test_no_nul_reaches_a_page() -> None:
    assert ask("GET", {"host": "127.0.0.1:7433"}, [b""], "/approvals/a\0").status == 400
    assert ask("GET", {"host": "127.0.0.1:7433"}, [b""], "/audit", b"text=%00").status == 400
    assert ask("GET", {"host": "127.0.0.1:7433"}, [b""], "/audit", b"text=\0").status == 400


def test_a_body_without_end_is_not_read() -> None:
    chunks = [b"x" * 65_536] * (BODY_MOST // 65_536 + 2)
    answer = ask("POST", dict(GOOD), chunks)
    assert (answer.status, answer.reached) == (413, False)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "PROPFIND", "BREW"])
def test_whatever_is_not_known_to_change_nothing_is_checked(method: str) -> None:
    assert not ask(method, {"host": "127.0.0.1:7433"}, [b""]).reached


def test_every_answer_says_what_a_browser_may_do_with_it() -> None:
    for answer in (ask("GET", {"host": "console.example.com"}, [b""]), post(origin=None), ask("GET", {"host": "x"}, [b""])):
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "strict-transport-security" in ask("GET", {"host": "console.example.com"}, [b""]).headers


def test_only_files_that_are_named_by_their_content_are_kept() -> None:
    kept = ask("GET", {"host": "127.0.0.1:7433"}, [b""], "/static/console.css", b"v=0123")
    assert "immutable" in kept.headers["cache-control"]
    for path, query in (("/static/console.css", b""), ("/audit", b"v=1")):
        assert ask("GET", {"host": "127.0.0.1:7433"}, [b""], path, query).headers["cache-control"] == "no-store"


def test_a_cookie_is_bound_to_its_host_where_there_is_tls() -> None:
    assert cookie_name(secure=True).startswith("__Host-")
    other = {**GOOD, "host": "console.example.com", "origin": "https://console.example.com"}
    assert ask("POST", dict(other), [urlencode(FIELDS).encode()]).status == 403
    bound = {**other, "cookie": f"__Host-dbshield={COOKIE}"}
    assert ask("POST", dict(bound), [urlencode(FIELDS).encode()]).status == 200
