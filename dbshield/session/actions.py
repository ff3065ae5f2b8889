"""What the login machines ask their caller to do. Each union is closed: match it with `assert_never`.

The machines do no I/O: bytes go in, and these come out, in the order in which they are to be done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dbshield.model import AgentLogin
from dbshield.wire.report import ErrorResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send these bytes to the peer of this machine. They may hold a proof or a password, so they are not shown."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """Find the agent that logs in as `user`, and tell the machine with `found`."""

    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """The client asks to cancel what another session runs; the connection ends without an answer. The key has 4–256 bytes."""

    process_id: int
    secret_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated:
    """The client proved that it holds the token `token_id` of this agent, and may use `database`.

    `settings` go into the start-up packet to the server; `protocol` is what this client is served as, (3, 0) to (3, 2).
    """

    login: AgentLogin
    token_id: str
    database: str
    settings: dict[str, str]
    protocol: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Send `data`, an ErrorResponse, and close. `reason` is for the log: it may say more than the client is told. `guessed` is
    true where the client proved no token at all; `token_id` names the one that it proved."""

    data: bytes
    reason: str
    guessed: bool = False
    token_id: str = ""


ClientAction = Send | Lookup | Cancel | Authenticated | Fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The server waits for queries.

    `secret_key` is empty where the server gave none; `status` is the byte of its ReadyForQuery; `notices` are whole messages
    to pass on; `trailing` are bytes that came behind.
    """

    process_id: int
    secret_key: bytes = field(repr=False)
    parameters: dict[str, str]
    status: bytes
    notices: tuple[bytes, ...]
    trailing: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """There is no session: `error` is the server's own, or, with `ours`, says why dbshield would not go on. Close."""

    error: ErrorResponse
    ours: bool = False


UpstreamAction = Send | Ready | Failed
