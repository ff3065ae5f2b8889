"""Sessions whose policy changes while statements are prepared."""

from __future__ import annotations

from support.conversation import Conversation, refused, syntax_error

from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.session.names import TEXT_BYTES
from dbshield.wire.backend import ErrorResponse
from dbshield.wire.frontend import Bind, Execute, Parse, Sync

INSERT = b"insert into shop.settings values ($1, $2)"
RUN = (Bind(statement=b"s"), Execute(), Sync())


def judge(*, frozen: bool) -> Judge:
    policy = Policy(access=AccessLevel.WRITE, frozen=frozen)
    return Judge(policy=policy, functions=FunctionCatalogue.builtin())


def test_what_is_prepared_is_judged_by_the_policy_of_the_moment() -> None:
    talk = Conversation(counts=True)
    talk.client(Parse(name=b"s", query=INSERT), Sync())
    talk.relay.use(judge(frozen=True))
    talk.client(*RUN)
    assert refused(talk.server(syntax_error()), "rule=DS313")
    talk.relay.use(judge(frozen=False))
    assert talk.client(*RUN) == list(RUN)


def test_what_only_reads_goes_on() -> None:
    talk = Conversation(counts=True)
    talk.client(Parse(name=b"s", query=b"select * from shop.settings"), Sync())
    talk.relay.use(judge(frozen=True))
    assert talk.client(*RUN) == list(RUN)


def test_a_text_that_was_too_long_to_be_kept_must_be_prepared_again() -> None:
    talk = Conversation(counts=True)
    talk.client(Parse(name=b"s", query=INSERT + b" " * TEXT_BYTES), Sync())
    talk.relay.use(judge(frozen=True))
    talk.client(*RUN)
    (told,) = talk.server(syntax_error())
    assert isinstance(told, ErrorResponse)
    assert (told.sqlstate, told.detail.partition(" ")[0]) == ("26000", "rule=DS225")
