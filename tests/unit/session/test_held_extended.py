"""Statements that wait for a human in the extended protocol, played against both peers."""

from __future__ import annotations

import pytest
from support.conversation import (
    DELETED,
    FAILED,
    IDLE,
    IN_TRANSACTION,
    MARKER,
    SELECTED,
    other_error,
    syntax_error,
)
from support.held_conversation import (
    DELETE,
    DELETE_VALUES,
    ONE_RUN,
    PORTAL,
    RETURNING,
    SELECT,
    STAND_IN_PARSE,
    Waiting,
    advised,
    judge,
)

from dbshield.model import AccessLevel
from dbshield.session import held
from dbshield.session.held import (
    ALONE,
    BINARY,
    DESCRIBED,
    IN_BLOCK,
    MAX_HELD_NAMES,
    MAX_HELD_TEXT,
    NO_TEXT,
    ONE_GO,
    TOO_LONG,
    Parameter,
    Phase,
)
from dbshield.session.held_answers import Rows, ran
from dbshield.wire.backend import (
    BindComplete,
    CloseComplete,
    CommandComplete,
    DataRow,
    ErrorResponse,
    NoData,
    ParseComplete,
    RowDescription,
)
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
)
from dbshield.wire.message import Message


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
