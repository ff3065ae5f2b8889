"""Statements that wait for a human, played against both peers: whatever the form, the held text never reaches the server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversation import (
    DELETED,
    FAILED,
    IDLE,
    IN_TRANSACTION,
    MARKER,
    SELECTED,
    TOLD,
    Conversation,
    other_error,
    refused,
    syntax_error,
)

from dbshield.errors import ProtocolError
from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.session import held
from dbshield.session.held import (
    ALONE,
    BINARY,
    DESCRIBED,
    IN_BLOCK,
    MAX_HELD_NAMES,
    MAX_HELD_TEXT,
    NO_TEXT,
    OF_SESSION,
    ONE_GO,
    TOO_LONG,
    HeldStatement,
    Parameter,
    Phase,
)
from dbshield.session.held_answers import Rows, failed, notice, ran, stopped
from dbshield.session.terms import Terms
from dbshield.wire.backend import (
    BackendMessage,
    BindComplete,
    CloseComplete,
    CommandComplete,
    DataRow,
    ErrorResponse,
    NoData,
    NoticeResponse,
    NotificationResponse,
    ParseComplete,
    RowDescription,
    decode_backend,
)
from dbshield.wire.framing import FrameReader
from dbshield.wire.frontend import (
    Bind,
    Close,
    Describe,
    Execute,
    Flush,
    Parse,
    Query,
    Sync,
    Target,
    Terminate,
    decode_frontend,
)
from dbshield.wire.message import Message

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


class TestAQuery:
    def test_it_waits_when_the_server_is_ready(self) -> None:
        talk = Waiting()
        found = talk.reach()
        assert (found.text, found.parameters, found.extended) == (DELETE, None, False)
        assert talk.relay.outcomes == [found]
        assert not talk.relay.idle
        assert not talk.relay.busy
        assert [judgement.verdict.word for judgement in talk.relay.judged] == ["hold"]

    def test_the_answer_stands_at_its_place(self) -> None:
        talk = Waiting()
        found = talk.reach()
        heard, kept = talk.decided(ran(found, "DELETE 9"))
        assert heard == [CommandComplete(tag="DELETE 9"), IDLE]
        assert kept == b""
        assert talk.relay.idle
        assert talk.client(Query(query=SELECT)) == [Query(query=SELECT)]
        assert talk.server(SELECTED, IDLE) == [SELECTED, IDLE]

    def test_with_rows(self) -> None:
        talk = Waiting()
        found = talk.reach(RETURNING)
        heard, _ = talk.decided(ran(found, "DELETE 2", Rows(columns=[("id", 23, -1)], rows=[["7"], [None]])))
        assert [type(message) for message in heard[:3]] == [RowDescription, DataRow, DataRow]
        assert heard[1:] == [DataRow(values=(b"7",)), DataRow(values=(None,)), CommandComplete(tag="DELETE 2"), IDLE]

    def test_it_waits_on_the_terms_that_the_server_told(self) -> None:
        found = Waiting().reach()
        assert found.terms == Terms(settings={"search_path": "shop, public", "datestyle": "ISO, MDY"}, idle_timeout=90.0)

    def test_where_the_server_does_not_tell_nobody_knows(self) -> None:
        for told in ((*TOLD[:3], other_error(), IDLE), (*TOLD[:2], *TOLD[-3:])):
            talk = Waiting()
            talk.told = told
            assert talk.reach().terms is None

    def test_what_is_sent_while_the_server_is_asked_is_kept(self) -> None:
        talk = Waiting()
        talk.client(Query(query=DELETE))
        Conversation.server(talk, syntax_error(), IDLE)
        holding = talk.relay.holding
        assert holding is not None
        assert holding.phase is Phase.LOOKING
        asked = [decode_frontend(frame.code, frame.payload) for frame in FrameReader().feed(held.look(talk.relay))]
        assert [type(message) for message in asked] == [Parse, Bind, Execute, Close, Sync]
        assert not any(DELETE in message.encode() for message in asked)
        assert talk.client(Query(query=SELECT)) == []
        for message in TOLD[:-1]:
            assert Conversation.server(talk, message) == []
        assert len(talk.relay.outcomes) == 1
        assert Conversation.server(talk, TOLD[-1]) == []
        assert talk.waits is not None
        assert talk.decided(stopped(talk.waits, "no", hint="none"))[1] == Query(query=SELECT).encode()

    def test_a_transaction_that_the_question_would_open_ends_the_session(self) -> None:
        talk = Waiting()
        talk.told = (*TOLD[:-1], IN_TRANSACTION)
        with pytest.raises(ProtocolError, match="in a transaction"):
            talk.reach()

    def test_a_server_that_ends_the_session_meanwhile_is_heard(self) -> None:
        talk = Waiting()
        talk.client(Query(query=DELETE))
        Conversation.server(talk, syntax_error(), IDLE)
        end = ErrorResponse.of("FATAL", "57P01", "terminating connection")
        assert Conversation.server(talk, end) == [end]
        assert talk.relay.fatal

    def test_what_the_client_sends_meanwhile_is_kept_in_order(self) -> None:
        talk = Waiting()
        assert talk.client(Query(query=DELETE), Query(query=SELECT)) == [STAND_IN]
        assert talk.client(Parse(query=SELECT)) == []
        talk.server(syntax_error(), IDLE)
        assert talk.client(Sync()) == []
        found = talk.waits
        assert found is not None
        _, kept = talk.decided(stopped(found, "no", hint="none"))
        assert talk.client(kept) == [Query(query=SELECT), Parse(query=SELECT), Sync()]

    def test_a_good_bye_is_seen_while_it_waits(self) -> None:
        talk = Waiting()
        talk.client(Query(query=DELETE), Query(query=b"select 'X'"))
        talk.server(syntax_error(), IDLE)
        assert not talk.relay.terminated
        data = Query(query=SELECT).encode() + Terminate().encode()
        for index in range(len(data)):
            assert talk.relay.terminated is False
            assert talk.client(data[index : index + 1]) == []
        assert talk.relay.terminated

    def test_what_came_before_is_answered_before(self) -> None:
        talk = Waiting()
        assert talk.client(Query(query=SELECT), Query(query=DELETE)) == [Query(query=SELECT), STAND_IN]
        assert talk.server(SELECTED, IDLE) == [SELECTED, IDLE]
        assert talk.waits is None
        assert talk.server(syntax_error(), IDLE) == []
        assert talk.waits

    def test_news_come_through_meanwhile(self) -> None:
        talk = Waiting()
        talk.reach()
        news: list[Message] = [
            NotificationResponse(process_id=1, channel=b"c"),
            NoticeResponse.of("NOTICE", "00000", "n" * 20_000),
        ]
        data = b"".join(message.encode() for message in news)
        heard = [talk.relay.from_server(data[:9_000]), talk.relay.from_server(data[9_000:])]
        assert [len(each) for each in heard] == [len(news[0].encode()), len(news[1].encode())]
        assert b"".join(heard) == data

    def test_a_server_that_speaks_out_of_turn_ends_the_session(self) -> None:
        talk = Waiting()
        talk.reach()
        with pytest.raises(ProtocolError):
            talk.server(IDLE)

    @pytest.mark.parametrize("counts", [False, True])
    def test_a_block_that_the_session_knows_of(self, *, counts: bool) -> None:
        talk = Waiting(counts=counts)
        talk.client(Query(query=b"begin"))
        talk.server(CommandComplete(tag="BEGIN"), IN_TRANSACTION)
        assert talk.client(Query(query=DELETE)) == [STAND_IN]
        heard = talk.server(syntax_error(), FAILED)
        assert advised(heard, IN_BLOCK)
        assert heard[1:] == [FAILED]

    def test_a_block_that_only_the_server_knows_of_is_told_when_it_is_ready(self) -> None:
        talk = Waiting()
        talk.client(Query(query=b"begin"), Query(query=DELETE))
        talk.server(CommandComplete(tag="BEGIN"), IN_TRANSACTION)
        assert talk.server(syntax_error(), FAILED) == []
        assert talk.waits
        assert talk.relay.status == ord("E")
        heard, _ = talk.decided(stopped(talk.waits, "no", hint=IN_BLOCK))
        assert heard[-1] == FAILED

    def test_behind_a_bind_without_a_sync(self) -> None:
        """Both would be one transaction, and the error that stands for the held one takes the first back."""
        talk = Waiting()
        talk.client(Parse(query=SELECT), Bind(), Execute())
        assert talk.client(Query(query=DELETE)) == [STAND_IN]
        assert advised(talk.server(syntax_error(), IDLE), ALONE)

    @pytest.mark.parametrize(
        "text, advice",
        [
            (b"select 1; delete from shop.orders", ALONE),
            (b"copy (delete from shop.orders returning id) to stdout", OF_SESSION),
            (b"prepare p as delete from shop.orders", OF_SESSION),
            (
                b"declare c cursor with hold for with gone as (delete from shop.orders returning id) select * from gone",
                OF_SESSION,
            ),
        ],
    )
    def test_what_nobody_else_could_run(self, text: bytes, advice: str) -> None:
        talk = Waiting()
        assert talk.client(Query(query=text)) == [STAND_IN]
        assert advised(talk.server(syntax_error(), IDLE), advice)

    def test_where_no_human_can_be_asked(self) -> None:
        talk = Waiting(asks=False)
        assert talk.client(Query(query=DELETE)) == [STAND_IN]
        assert refused(talk.server(syntax_error(), IDLE))
        assert talk.client(Parse(query=DELETE), *ONE_RUN) == [Parse(name=b"dbshield_test_2", query=b"dbshield_test_2"), Sync()]

    def test_what_is_denied_waits_for_nobody(self) -> None:
        talk = Waiting()
        assert talk.client(Query(query=b"alter system set fsync = off")) == [STAND_IN]
        assert refused(talk.server(syntax_error(), IDLE))

    def test_one_after_the_other(self) -> None:
        talk = Waiting()
        for _ in range(2):
            found = talk.reach() if not talk.relay.judged else None
            if found is None:
                talk.client(Query(query=DELETE))
                talk.server(syntax_error(2), IDLE)
                found = talk.waits
            assert found is not None
            assert talk.decided(ran(found, "DELETE 1"))[0] == [DELETED, IDLE]


class TestOneGo:
    """Parse, Bind, Describe, Execute and Sync together: what libpq and JDBC send."""

    def test_the_server_gets_an_empty_statement(self) -> None:
        talk = Waiting()
        sent = talk.client(
            Parse(query=DELETE_VALUES, parameter_types=(25,)), Bind(parameters=(b"gone",)), PORTAL, Execute(), Sync()
        )
        assert sent == [Parse(query=b"", parameter_types=(25,)), STAND_IN_PARSE, Sync()]
        assert talk.server(ParseComplete(), syntax_error(), IDLE) == [ParseComplete()]
        found = talk.waits
        assert found is not None
        assert (found.text, found.parameters) == (DELETE_VALUES, (Parameter(type=25, format=0, value=b"gone"),))
        heard, _ = talk.decided(ran(found, "UPDATE 3"))
        assert heard == [BindComplete(), NoData(), CommandComplete(tag="UPDATE 3"), IDLE]

    def test_without_describe_and_with_close(self) -> None:
        talk = Waiting()
        talk.client(Parse(query=DELETE), Bind(), Execute(max_rows=1), Close(target=Target.PORTAL), Sync())
        talk.server(ParseComplete(), syntax_error(), IDLE)
        assert talk.waits
        heard, _ = talk.decided(ran(talk.waits, "DELETE 3"))
        assert heard == [BindComplete(), CommandComplete(tag="DELETE 3"), CloseComplete(), IDLE]

    def test_with_rows_as_text(self) -> None:
        talk = Waiting()
        talk.client(Parse(query=RETURNING), *ONE_RUN)
        talk.server(ParseComplete(), syntax_error(), IDLE)
        assert talk.waits
        heard, _ = talk.decided(ran(talk.waits, "DELETE 1", Rows(columns=[("id", 23, -1)], rows=[["7"]])))
        assert [type(message) for message in heard] == [BindComplete, RowDescription, DataRow, CommandComplete, type(IDLE)]

    @pytest.mark.parametrize("formats", [(0,), (1,), (0, 1)])
    def test_formats_of_parameters(self, formats: tuple[int, ...]) -> None:
        talk = Waiting()
        values = (b"1234", None)
        text = b"update shop.orders set note = $2, customer_id = $1"
        talk.client(
            Parse(query=text, parameter_types=(23,)), Bind(parameter_formats=formats, parameters=values), Execute(), Sync()
        )
        talk.server(ParseComplete(), syntax_error(), IDLE)
        assert talk.waits
        assert talk.waits.parameters is not None
        both = formats * 2 if len(formats) == 1 else formats
        assert [(each.type, each.format) for each in talk.waits.parameters] == [(23, both[0]), (0, both[1])]

    @pytest.mark.parametrize("formats", [(), (0,), (1, 0)])
    @pytest.mark.parametrize("value", [b"7\0 or more", b"\xff", b"\0"])
    def test_a_value_that_is_no_text(self, formats: tuple[int, ...], value: bytes) -> None:
        """The executor's library ends a text at its NUL: it would run with another value than a human was shown."""
        talk = Waiting()
        values = (b"\0\xff", value) if len(formats) == 2 else (value,)
        talk.client(Parse(query=DELETE_VALUES), Bind(parameter_formats=formats, parameters=values), Execute(), Sync())
        assert advised(talk.server(ParseComplete(), syntax_error(), IDLE)[1:], NO_TEXT)
        assert talk.waits is None

    @pytest.mark.parametrize("formats", [(7,), (0, 1), (1, 1, 1, 0)])
    def test_formats_that_no_server_would_take(self, formats: tuple[int, ...]) -> None:
        """An approval that nobody can read would stop everybody who lists them."""
        talk = Waiting()
        bind = Bind(parameter_formats=formats, parameters=(b"1", b"2", b"3"))
        talk.client(Parse(query=DELETE_VALUES), bind, Execute(), Sync())
        assert advised(talk.server(ParseComplete(), syntax_error(), IDLE)[1:], ONE_GO)

    @pytest.mark.parametrize(
        "messages",
        [
            (Bind(), Execute(), Bind(), Execute(), Sync()),
            (Bind(), Execute(), Execute(), Sync()),
            (Bind(), Execute(), PORTAL, Sync()),
            (Bind(), PORTAL, Sync()),
            (Bind(), Execute(portal=b"other"), Sync()),
            (Bind(), Execute(), Close(target=Target.STATEMENT), Sync()),
            (Bind(), Execute(), Parse(query=SELECT), Bind(), Execute(), Sync()),
            (Bind(), Query(query=SELECT), Sync()),
            (Bind(), Describe(target=Target.STATEMENT), Execute(), Sync()),
            (Bind(), Execute(), Flush(), Sync()),
            (Bind(), Sync()),
        ],
    )
    def test_another_form_is_refused(self, messages: tuple[Message, ...]) -> None:
        talk = Waiting()
        heard = talk.client(Parse(query=DELETE), *messages)
        assert heard == [Parse(query=b""), STAND_IN_PARSE, Sync()]
        told = talk.server(ParseComplete(), syntax_error(), IDLE)
        assert told[0] == ParseComplete()
        assert advised(told[1:], ONE_GO)
        assert told[-1] == IDLE
        assert talk.relay.idle
        assert talk.client(Query(query=SELECT)) == [Query(query=SELECT)]

    def test_a_flush_gets_its_error_without_a_sync(self) -> None:
        talk = Waiting()
        talk.client(Parse(query=DELETE))
        assert talk.client(Bind(), Execute(), Flush()) == [STAND_IN_PARSE]
        assert advised(talk.server(ParseComplete(), syntax_error())[1:], ONE_GO)

    def test_rows_for_one_page_at_a_time(self) -> None:
        talk = Waiting()
        talk.client(Parse(query=RETURNING), Bind(), Execute(max_rows=10), Sync())
        assert advised(talk.server(ParseComplete(), syntax_error(), IDLE)[1:], ONE_GO)

    def test_rows_in_binary(self) -> None:
        talk = Waiting()
        talk.client(Parse(query=RETURNING), Bind(result_formats=(1,)), Execute(), Sync())
        assert advised(talk.server(ParseComplete(), syntax_error(), IDLE)[1:], BINARY)

    def test_behind_another_statement_of_the_same_sync(self) -> None:
        talk = Waiting()
        before = (Parse(name=b"s", query=SELECT), Bind(statement=b"s"), Execute())
        heard = talk.client(*before, Parse(query=DELETE), *ONE_RUN)
        assert heard == [*before, Parse(query=b""), STAND_IN_PARSE, Sync()]
        told = talk.server(ParseComplete(), BindComplete(), SELECTED, ParseComplete(), syntax_error(), IDLE)
        assert advised(told[4:], ALONE)

    def test_in_a_block(self) -> None:
        talk = Waiting()
        talk.client(Query(query=b"begin"))
        talk.server(CommandComplete(tag="BEGIN"), IN_TRANSACTION)
        assert talk.client(Parse(query=DELETE), *ONE_RUN) == [STAND_IN_PARSE, Sync()]
        assert advised(talk.server(syntax_error(), FAILED), IN_BLOCK)

    def test_behind_an_error_it_is_never_reached(self) -> None:
        talk = Waiting()
        talk.client(Parse(name=b"s", query=b"select * from missing"), Parse(query=DELETE), *ONE_RUN, Query(query=SELECT))
        assert talk.server(other_error(), IDLE) == [other_error(), IDLE]
        holding = talk.relay.holding
        assert holding is not None
        assert holding.phase is Phase.SKIPPED
        assert len(talk.relay.outcomes) == 1
        assert talk.client(held.release(talk.relay)) == [Query(query=SELECT)]

    @pytest.mark.parametrize("counts", [False, True])
    def test_large_values_are_read_whole(self, *, counts: bool) -> None:
        talk = Waiting(counts=counts)
        data = Bind(parameters=(b"v" * 30_000,)).encode() + Execute().encode() + Sync().encode()
        talk.client(Parse(query=DELETE_VALUES))
        assert talk.client(data[:12_000]) == []
        assert talk.client(data[12_000:20_000]) == []
        assert talk.client(data[20_000:]) == [STAND_IN_PARSE, Sync()]
        talk.server(ParseComplete(), syntax_error(), IDLE)
        assert talk.waits
        assert talk.waits.parameters == (Parameter(type=0, format=0, value=b"v" * 30_000),)

    def test_values_that_are_too_long(self) -> None:
        talk = Waiting()
        talk.client(Parse(query=DELETE_VALUES))
        data = Bind(parameters=(b"v" * 200_000,)).encode() + Execute().encode() + Sync().encode()
        assert talk.client(
            data[:100_000],
        ) == [STAND_IN_PARSE]
        assert talk.client(data[100_000:]) == [Sync()]
        assert advised(talk.server(ParseComplete(), syntax_error(), IDLE)[1:], TOO_LONG)

    def test_a_large_message_in_between(self) -> None:
        talk = Waiting()
        talk.client(Parse(query=DELETE), Bind())
        assert talk.client(Parse(query=b"select '" + b"v" * 300_000 + b"'").encode()[:1_000]) == [STAND_IN_PARSE]
        assert advised(talk.server(ParseComplete(), syntax_error())[1:], ONE_GO)


class TestNames:
    """Prepared once, bound later: psycopg's prepare, asyncpg, JDBC after a few runs."""

    def test_a_name_is_bound_again_and_again(self) -> None:
        talk = Waiting()
        assert talk.client(Parse(name=b"s", query=DELETE), Sync()) == [Parse(name=b"s", query=b""), Sync()]
        assert talk.server(ParseComplete(), IDLE) == [ParseComplete(), IDLE]
        for serial in (1, 2):
            name = f"{MARKER}_{serial}".encode()
            assert talk.client(Bind(statement=b"s"), PORTAL, Execute(), Sync()) == [Parse(name=name, query=name), Sync()]
            talk.server(syntax_error(serial), IDLE)
            assert talk.waits
            assert talk.decided(ran(talk.waits, "DELETE 1"))[0] == [BindComplete(), NoData(), DELETED, IDLE]

    def test_without_values_and_rows_the_server_describes_it(self) -> None:
        talk = Waiting()
        described = Describe(target=Target.STATEMENT, name=b"s")
        assert talk.client(Parse(name=b"s", query=DELETE), described, Flush()) == [
            Parse(name=b"s", query=b""),
            described,
            Flush(),
        ]

    @pytest.mark.parametrize("counts", [False, True])
    @pytest.mark.parametrize("text", [RETURNING, DELETE_VALUES])
    def test_otherwise_it_cannot_be_described(self, text: bytes, *, counts: bool) -> None:
        talk = Waiting(counts=counts)
        described = Describe(target=Target.STATEMENT, name=b"s")
        assert talk.client(Parse(name=b"s", query=text), described, Flush()) == [Parse(name=b"s", query=b""), STAND_IN_PARSE]
        assert advised(talk.server(ParseComplete(), syntax_error())[1:], DESCRIBED)
        talk.client(Sync())
        talk.server(IDLE)
        other = (
            Parse(name=b"t", query=SELECT),
            Describe(target=Target.STATEMENT, name=b"t"),
            Bind(statement=b"t"),
            PORTAL,
            Sync(),
        )
        assert talk.client(*other) == list(other)

    def test_a_close_forgets_it(self) -> None:
        talk = Waiting()
        talk.client(Parse(name=b"s", query=DELETE), Close(target=Target.STATEMENT, name=b"s"), Sync())
        assert talk.client(Bind(statement=b"s"), Execute(), Sync())[0] == Bind(statement=b"s")
        assert talk.relay.judged[0].normal == "execute prepared_by_name"

    def test_another_parse_takes_its_place(self) -> None:
        talk = Waiting()
        talk.client(Parse(query=DELETE), Sync())
        run = (Parse(query=SELECT), Bind(), Execute(), Sync())
        assert talk.client(*run) == list(run)
        assert talk.client(Bind(), Execute(), Sync()) == [Bind(), Execute(), Sync()]

    def test_and_the_other_way_round(self) -> None:
        talk = Waiting()
        talk.client(Parse(query=SELECT), Sync(), Parse(query=DELETE), Sync())
        assert talk.client(*ONE_RUN) == [STAND_IN_PARSE, Sync()]

    def test_a_select_behind_it_is_no_doubtful_name(self) -> None:
        """What stands for a held statement on the server runs nothing, so a reader is not stopped for having sent one."""
        talk = Waiting(counts=False)
        talk.client(Parse(query=DELETE), Sync(), Parse(query=SELECT), Sync())
        talk.relay.use(judge(access=AccessLevel.READ))
        assert talk.client(Bind(), Execute(), Sync()) == [Bind(), Execute(), Sync()]

    def test_a_policy_that_denies_it_meanwhile(self) -> None:
        talk = Waiting()
        talk.client(Parse(name=b"s", query=DELETE), Sync())
        talk.relay.use(judge(frozen=True))
        talk.client(Bind(statement=b"s"), Execute(), Sync())
        [told] = talk.server(ParseComplete(), IDLE, syntax_error())[2:]
        assert isinstance(told, ErrorResponse)
        assert (told.sqlstate, told.detail.partition(" ")[0]) == ("26000", "rule=DS225")

    def test_a_policy_that_still_holds_it(self) -> None:
        talk = Waiting()
        talk.client(Parse(name=b"s", query=DELETE), Sync())
        talk.relay.use(judge(access=AccessLevel.MIGRATE))
        assert talk.client(Bind(statement=b"s"), Execute(), Sync()) == [STAND_IN_PARSE, Sync()]

    def test_names_and_texts_that_are_too_many(self) -> None:
        talk = Waiting()
        for number in range(MAX_HELD_NAMES):
            talk.client(Parse(name=b"%d" % number, query=DELETE), Sync())
        assert talk.client(Parse(name=b"one more", query=DELETE), Sync()) == [STAND_IN_PARSE, Sync()]
        assert talk.client(Parse(name=b"0", query=DELETE), Sync())[0] == Parse(name=b"0", query=b"")

    def test_a_long_text(self) -> None:
        talk = Waiting(max_statement=1 << 20)
        text = DELETE + b" " * (MAX_HELD_TEXT - len(DELETE))
        assert talk.client(Parse(query=text)) == [Parse(query=b"")]
        assert talk.client(Parse(query=text + b" ")) == [STAND_IN_PARSE]
        assert advised(talk.server(ParseComplete(), syntax_error())[1:], TOO_LONG)


class TestWhatIsSaid:
    def test_a_refusal_names_rule_approval_and_state(self) -> None:
        found = Waiting().reach()
        error = ErrorResponse.decode(stopped(found, "says no", hint="Leave it.", approval="apr-abcdefgh", state="denied")[5:])
        assert error.sqlstate == "42501"
        assert error.detail.startswith("rule=DS2")
        assert error.detail.endswith("verdict=deny approval=apr-abcdefgh state=denied")
        assert error.message.startswith("dbshield says no (")

    def test_an_error_is_the_servers_own(self) -> None:
        stored = {"sqlstate": "23503", "message": "violates", "detail": "Key", "hint": None}
        error = ErrorResponse.decode(failed(stored, "apr-abcdefgh")[5:])
        assert (error.sqlstate, error.message, error.detail, error.hint) == ("23503", "violates", "Key", "")

    def test_a_notice_has_the_id(self) -> None:
        told = NoticeResponse.decode(notice("waiting", approval="apr-abcdefgh")[5:])
        assert (told.severity, told.detail) == ("NOTICE", "approval=apr-abcdefgh")


@given(st.data())
def test_where_the_segments_are_cut_makes_no_difference(data: st.DataObject) -> None:
    messages = (
        *(Query(query=SELECT), Parse(name=b"s", query=DELETE), Sync()),
        *(Bind(statement=b"s"), PORTAL, Execute(), Sync(), Query(query=SELECT)),
    )
    said = b"".join(message.encode() for message in messages)
    talk = Waiting()
    heard: list[Message] = []
    position = 0
    while position < len(said):
        size = data.draw(st.integers(1, len(said) - position))
        heard += talk.client(said[position : position + size])
        position += size
    assert heard == [Query(query=SELECT), Parse(name=b"s", query=b""), Sync(), STAND_IN_PARSE, Sync()]
    answers = [SELECTED, IDLE, ParseComplete(), IDLE]
    assert talk.server(*answers, syntax_error(), IDLE) == answers
    assert talk.waits
    assert talk.client(held.release(talk.relay)) == [Query(query=SELECT)]


@given(st.lists(st.sampled_from(["P", "B", "D", "DS", "E", "S", "H", "Q", "C", "QD"]), max_size=12))
def test_whatever_the_form_the_server_never_hears_of_it(said: list[str]) -> None:
    forms: dict[str, Message] = {
        "P": Parse(query=DELETE),
        "B": Bind(),
        "D": PORTAL,
        "DS": Describe(target=Target.STATEMENT),
        "E": Execute(),
        "S": Sync(),
        "H": Flush(),
        "Q": Query(query=SELECT),
        "C": Close(target=Target.STATEMENT),
        "QD": Query(query=DELETE),
    }
    talk = Waiting()
    forward = talk.relay.from_client(b"".join(forms[each].encode() for each in said))
    assert b"orders" not in forward
