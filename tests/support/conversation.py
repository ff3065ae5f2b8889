"""Playbooks for the relay: what one peer says, and what the other one hears, as lists of messages."""

from __future__ import annotations

from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Mode, Policy
from dbshield.session.counting import RowCounter
from dbshield.session.relay import Relay
from dbshield.wire.backend import (
    BackendMessage,
    BindComplete,
    CloseComplete,
    CommandComplete,
    DataRow,
    ErrorResponse,
    ParseComplete,
    ReadyForQuery,
    TransactionStatus,
    decode_backend,
)
from dbshield.wire.framing import FrameReader
from dbshield.wire.frontend import FrontendMessage, decode_frontend
from dbshield.wire.message import Message

MARKER = "dbshield_test"
COUNTER = "dbshield_count"
IDLE, IN_TRANSACTION, FAILED = (ReadyForQuery(status=status) for status in TransactionStatus)
DELETED = CommandComplete(tag="DELETE 1")
SELECTED = CommandComplete(tag="SELECT 1")
PREPARED = CommandComplete(tag="PREPARE")
TOLD = (
    ParseComplete(),
    BindComplete(),
    DataRow(values=(b"search_path", b"shop, public")),
    DataRow(values=(b"datestyle", b"ISO, MDY")),
    DataRow(values=(b"lc_time", None)),
    DataRow(values=(b"(idle_session_timeout)", b"90000")),
    SELECTED,
    CloseComplete(),
    IDLE,
)
"""What the server tells of the session's terms."""


class Conversation:
    """A relay between two peers that a test plays."""

    def __init__(
        self,
        access: AccessLevel = AccessLevel.WRITE,
        *,
        counts: bool = False,
        observes: bool = False,
        max_message: int = 1 << 20,
        max_statement: int = 1 << 16,
    ) -> None:
        """With `counts` the session counts rows, and the server has taken its counting queries already; where the policy only
        `observes` nothing is counted, and what would be is let through."""
        policy = Policy(access=access, mode=Mode.OBSERVE if observes else Mode.ENFORCE)
        judge = Judge(policy=policy, functions=FunctionCatalogue.builtin(), max_statement_bytes=max_statement)
        self.relay = Relay(
            judge=judge,
            marker=MARKER,
            counter=RowCounter(COUNTER) if counts else None,
            max_message=max_message,
            max_statement=max_statement,
        )
        if counts:
            self.relay.opening()
            self.server(PREPARED, PREPARED, IDLE)

    def client(self, *messages: Message | bytes) -> list[FrontendMessage]:
        """The client says all of it in one segment; what the server hears."""
        heard = FrameReader().feed(self.relay.from_client(_bytes(messages)))
        return [decode_frontend(frame.code, frame.payload) for frame in heard]

    def server(self, *messages: Message | bytes) -> list[BackendMessage]:
        """The server says all of it in one segment; what the client hears."""
        heard = FrameReader().feed(self.relay.from_server(_bytes(messages)))
        return [decode_backend(frame.code, frame.payload) for frame in heard]


def _bytes(messages: tuple[Message | bytes, ...]) -> bytes:
    return b"".join(message if isinstance(message, bytes) else message.encode() for message in messages)


def syntax_error(serial: int = 1) -> ErrorResponse:
    """What the server answers to the message that stands for the refusal of that number."""
    return ErrorResponse.of("ERROR", "42601", f'syntax error at or near "{MARKER}_{serial}"')


def other_error() -> ErrorResponse:
    return ErrorResponse.of("ERROR", "42P01", 'relation "missing" does not exist')


def refused(messages: list[BackendMessage], rule: str = "rule=DS") -> bool:
    """Whether exactly the first message is a refusal, and no other is."""
    errors = [isinstance(message, ErrorResponse) and message.sqlstate == "42501" for message in messages]
    first = messages[0]
    return errors == [True, *[False] * (len(messages) - 1)] and isinstance(first, ErrorResponse) and rule in first.detail
