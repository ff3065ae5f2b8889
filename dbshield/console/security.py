"""What stands in front of every page: who may be asked, from where, and what a browser may do with the answer.

Laws:
- A Host header that is not the console's own is refused, so that no name that somebody points at this address (DNS rebinding)
  makes a browser read it.
- A request that may change something comes from a page of the console: its Origin is the console's, and it carries the token of
  the browser's own cookie, in a field or a header. All of its body is read before anything is done.
- No page runs or loads what the console does not serve itself, and none is kept by a cache.

Sources: OWASP Cross-Site Request Forgery Prevention (signed double-submit), Content Security Policy Level 3, Fetch ("Origin").
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": a browser would then say "Origin: null" of the console's own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
HSTS: Final = "max-age=31536000"
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110, section 9.2.1)."""
BODY_MOST: Final = 256 << 10
"""Bytes of a form; a statement to try out is the longest thing in one."""
FIELD: Final = "csrf"
HEADER: Final = "x-csrf-token"
FORM: Final = "application/x-www-form-urlencoded"

NUL: Final = "There is a NUL in it, which no text of a database holds.\n"
STATIC: Final = "/static/"
KEPT: Final = "public, max-age=31536000, immutable"
"""For files that are asked for by what is in them."""


def cookie_name(*, secure: bool, form: bool = False) -> str:
    """`__Host-` binds a cookie to this very host and to TLS (RFC 6265bis, section 4.1.3). Who has no session has a cookie for the
    form alone; it has another name, because a link from elsewhere comes without the session's cookie and must not replace it."""
    return ("__Host-" if secure else "") + ("dbshield-form" if form else "dbshield")


def csrf_token(cookie: str) -> str:
    """What a form has to carry that was made for the holder of a cookie: nobody else can make it, and it does not tell the
    cookie."""
    return hmac.digest(cookie.encode("utf-8", "surrogatepass"), b"dbshield console form", hashlib.sha256).hex()


class Gate:
    """ASGI middleware. `origins` tells the console's own sites by the Host header of their requests; the origin of a request that
    was let in is in `scope["state"]["origin"]`, its cookie in `["cookie"]`, empty where it has none."""

    def __init__(self, app: ASGIApp, *, origins: Callable[[], Mapping[str, str]]) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # There are no WebSockets here; the lifespan has no headers.
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = self._origins().get(headers.get("host", "").lower())
        send = _with_headers(scope, send, secure=origin is not None and origin.startswith("https:"))
        if origin is None:
            text = "This is not an address of this console; [console] address in dbshield.toml says which is.\n"
            await PlainTextResponse(text, 421)(scope, receive, send)
            return
        cookies, secure = cookie_parser(headers.get("cookie", "")), origin.startswith("https:")
        cookie = cookies.get(cookie_name(secure=secure)) or cookies.get(cookie_name(secure=secure, form=True), "")
        scope.setdefault("state", {}).update(origin=origin, cookie=cookie)
        if "\0" in scope["path"] or _has_nul(scope["query_string"]):
            await PlainTextResponse(NUL, 400)(scope, receive, send)
            return
        if scope["method"] in SAFE:
            await self._app(scope, receive, send)
            return
        refused = _objection(headers, origin)
        body = b"" if refused else await _body(receive)
        if not refused and body is None:
            refused = ("The form is too long.\n", 413)
        if not refused and _has_nul(body or b""):
            refused = (NUL, 400)
        if not refused and not _is_ours(headers, body or b"", cookie):
            refused = (
                "This form was not made for you, or your session is over: go back, load the page again, and repeat.\n",
                403,
            )
        if refused:
            await PlainTextResponse(*refused)(scope, receive, send)
            return
        await self._app(scope, _again(body or b"", receive), send)


def _has_nul(form: bytes) -> bool:
    return b"%00" in form or b"\0" in form


def _objection(headers: Headers, origin: str) -> tuple[str, int] | None:
    if headers.get("origin", "").lower() != origin or headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return "This did not come from a page of the console.\n", 403
    if headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        return "The console takes forms alone.\n", 415
    return None


def _is_ours(headers: Headers, body: bytes, cookie: str) -> bool:
    given = headers.get(HEADER)
    if given is None:
        try:
            fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=100)
        except ValueError:
            return False
        found = fields.get(FIELD, [])
        given = found[0] if len(found) == 1 else ""
    return bool(cookie) and hmac.compare_digest(given.encode("utf-8", "replace"), csrf_token(cookie).encode())


async def _body(receive: Receive) -> bytes | None:
    """All of it; None where it is too long, or the browser went away."""
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > BODY_MOST:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, and then whatever else comes."""
    given = False

    async def read() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read


def _with_headers(scope: Scope, send: Send, *, secure: bool) -> Send:
    immutable = scope["path"].startswith(STATIC) and scope["query_string"].startswith(b"v=")

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers["Cache-Control"] = KEPT if immutable and message["status"] == 200 else "no-store"
            if secure:
                headers["Strict-Transport-Security"] = HSTS
        await send(message)

    return answer
