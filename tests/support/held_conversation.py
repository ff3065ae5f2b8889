"""A session in which a human can be asked, played against both peers."""

from __future__ import annotations

from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.session import held
from dbshield.session.held import (
    HeldStatement,
    Phase,
)
from dbshield.wire.backend import (
    BackendMessage,
    ErrorResponse,
    decode_backend,
)
from dbshield.wire.framing import FrameReader
from dbshield.wire.frontend import (
    Bind,
    Describe,
    Execute,
    Parse,
    Query,
    Sync,
    Target,
)
from dbshield.wire.message import Message
from support.conversation import (
    IDLE,
    MARKER,
    TOLD,
    Conversation,
    refused,
    syntax_error,
)

DELETE = b"delete from shop.orders"
DELETE_VALUES = b"update shop.orders set note = $1"
RETURNING = b"delete from shop.orders returning id"
SELECT = b"select 1"
STAND_IN = Query(query=f"{MARKER}_1".encode())
STAND_IN_PARSE = Parse(name=f"{MARKER}_1".encode(), query=f"{MARKER}_1".encode())
PORTAL = Describe(target=Target.PORTAL)
ONE_RUN = (Bind(), PORTAL, Execute(), Sync())


class Waiting(Conversation):
    """A session in which a human can be asked."""

    def __init__(self, *, counts: bool = True, asks: bool = True, max_statement: int = 1 << 16) -> None:
        super().__init__(counts=counts, max_statement=max_statement)
        self.asks = asks
        self.relay.holding = held.Holding(lambda: self.asks)
        self.told: tuple[Message, ...] = TOLD

    def server(self, *messages: Message | bytes) -> list[BackendMessage]:
        """When a held statement has come to its place, the server is asked for the session's terms, and tells them."""
        heard = super().server(*messages)
        holding = self.relay.holding
        if holding is not None and holding.phase is Phase.LOOKING:
            assert self.relay.outcomes.pop() is holding.statement
            assert len(FrameReader().feed(held.look(self.relay))) == 5
            assert super().server(*self.told) == []
        return heard

    @property
    def waits(self) -> HeldStatement | None:
        """The statement that waits, when the server is ready."""
        holding = self.relay.holding
        assert holding is not None
        return holding.statement if holding.phase is Phase.WAITING else None

    def decided(self, answer: bytes) -> tuple[list[BackendMessage], bytes]:
        """What the client hears then, and what it had sent meanwhile."""
        holding = self.relay.holding
        assert holding is not None
        assert self.waits
        heard = FrameReader().feed(answer + holding.ready)
        return [decode_backend(frame.code, frame.payload) for frame in heard], held.release(self.relay)

    def reach(self, statement: bytes = DELETE) -> HeldStatement:
        """A simple query up to where it waits."""
        assert self.client(Query(query=statement)) == [STAND_IN]
        assert self.server(syntax_error(), IDLE) == []
        found = self.waits
        assert found is not None
        return found


def advised(messages: list[BackendMessage], advice: str) -> bool:
    """Whether the first message is the refusal with this advice, and no other is one."""
    first = messages[0]
    return refused(messages) and isinstance(first, ErrorResponse) and first.hint.endswith(advice)


def judge(*, frozen: bool = False, access: AccessLevel = AccessLevel.WRITE) -> Judge:
    return Judge(policy=Policy(access=access, frozen=frozen), functions=FunctionCatalogue.builtin())
