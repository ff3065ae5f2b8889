"""A session whose audit shows the values: what is read of a Bind, and that nothing else differs from any other session."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversation import MARKER

from dbshield.errors import ProtocolError
from dbshield.model import VALUE_BYTES, VALUE_MARGIN, AccessLevel, Allow, BoundValue, Deny, Hold, Judgement
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.session.counting import RowCounter
from dbshield.session.names import TEXT_BYTES
from dbshield.session.recorded import ENTRY_BYTES, TYPES_MOST, VALUES_MOST, RecordingRelay
from dbshield.session.relay import Relay
from dbshield.wire import buffer
from dbshield.wire.backend import CommandComplete, ReadyForQuery, TransactionStatus
from dbshield.wire.frontend import Bind, Close, Describe, Execute, FunctionCall, Parse, Query, Sync, Target

INT4, TEXT, BYTEA = 23, 25, 17
SELECT = b"select * from t where a = $1"


def relay_of(kind: type[Relay], *, counts: bool = False, holds: bool = False, access: AccessLevel = AccessLevel.WRITE) -> Relay:
    judge = Judge(policy=Policy(access=access), functions=FunctionCatalogue.builtin(), full=True)
    relay = kind(
        judge=judge,
        marker=MARKER,
        counter=RowCounter("dbshield_count") if counts else None,
        asks=(lambda: True) if holds else None,
        max_statement=1 << 16,
    )
    if counts:
        relay.opening()
        idle = ReadyForQuery(status=TransactionStatus.IDLE)
        relay.from_server(b"".join(message.encode() for message in (CommandComplete(tag="PREPARE"), idle)))
    return relay


@pytest.fixture
def relay() -> Relay:
    return relay_of(RecordingRelay)


def sent(*messages: Parse | Bind | Execute | Sync | Query | FunctionCall | Close | Describe) -> bytes:
    return b"".join(message.encode() for message in messages)


def judged(relay: Relay, data: bytes) -> list[Judgement]:
    relay.judged.clear()
    relay.from_client(data)
    return relay.judged


def test_values_stand_beside_the_judgement_of_their_bind(relay: Relay) -> None:
    parse = Parse(name=b"s", query=SELECT, parameter_types=(INT4, TEXT))
    bind = Bind(statement=b"s", parameter_formats=(1, 0), parameters=(b"\0\0\0\x2a", b"hunter2"))
    found = judged(relay, sent(parse, bind, Execute(), bind, Execute(), Sync()))
    assert len(found) == 2
    for one in found:
        assert type(one.verdict) is Allow
        assert one.values is not None
        assert one.values.left_out == 0
        assert one.values.values == (
            BoundValue(type=INT4, format=1, value=b"\0\0\0\x2a", size=4),
            BoundValue(type=TEXT, format=0, value=b"hunter2", size=7),
        )
        assert "hunter2" not in repr(one)
    (other,) = judged(relay, sent(Query(query=b"select 1")))
    assert other.values is None


@pytest.mark.parametrize("kept", [True, False], ids=["short", "too long to be kept"])
def test_what_is_wanted_no_more_is_shown_no_more(relay: Relay, kept: bool) -> None:
    """A reload: also of what was prepared before."""
    read = b"select 'hunter3', a from t where b = $1" + b" " * (0 if kept else TEXT_BYTES)
    prepared = Parse(name=b"r", query=read), Parse(name=b"w", query=b"insert into t values ('hunter3', $1)")
    run = [part for name in (b"r", b"w") for part in (Bind(statement=name, parameters=(b"hunter2",)), Execute())]
    found = judged(relay, sent(*prepared, *run, Sync()))
    assert [("hunter3" in one.normal, one.values is None) for one in found] == [(True, False)] * 2
    relay.use(Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.builtin()))
    found = judged(relay, sent(*run, Sync(), Query(query=b"select 'hunter3'")))
    assert [type(one.verdict) for one in found] == [Allow] * 3
    assert all("hunter" not in one.normal and one.values is None for one in found)
    assert found[0].normal.endswith(", a from t where b = $1")
    again = Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.builtin(), full=True)
    relay.use(again)
    (one,) = judged(relay, sent(Parse(query=b"select 'hunter3', $1"), Bind(parameters=(b"hunter2",)), Execute(), Sync()))
    assert ("hunter3" in one.normal, one.values is None) == (True, False)


@pytest.mark.parametrize(
    ("formats", "expected"), [((), [0, 0, 0]), ((1,), [1, 1, 1]), ((0, 1, 0), [0, 1, 0])], ids=["none", "one for all", "each"]
)
def test_formats_are_those_of_the_protocol(relay: Relay, formats: tuple[int, ...], expected: list[int]) -> None:
    bind = Bind(parameter_formats=formats, parameters=(b"a", None, b""))
    (found,) = judged(relay, sent(Parse(query=SELECT), bind, Sync()))
    assert found.values is not None
    assert [value.format for value in found.values.values] == expected
    assert [value.value for value in found.values.values] == [b"a", None, b""]
    assert {value.type for value in found.values.values} == {0}


def test_a_statement_without_values_keeps_its_judgement(relay: Relay) -> None:
    """So that repeated reads stay one entry."""
    first, second = judged(relay, sent(Parse(query=b"select 1"), Bind(), Execute(), Bind(), Execute(), Sync()))
    assert first is second


def test_long_values_and_many_are_cut(relay: Relay) -> None:
    long = b"x" * (VALUE_BYTES + VALUE_MARGIN + 7)
    (found,) = judged(relay, sent(Parse(query=SELECT), Bind(parameters=(long,) * 40), Sync()))
    assert found.values is not None
    shown = found.values.values
    assert {(value.size, len(value.value or b"")) for value in shown} == {(len(long), VALUE_BYTES + VALUE_MARGIN)}
    assert ENTRY_BYTES <= sum(len(value.value or b"") for value in shown) < ENTRY_BYTES + VALUE_BYTES + VALUE_MARGIN
    assert found.values.left_out == 40 - len(shown)
    (found,) = judged(relay, sent(Parse(query=SELECT), Bind(parameters=(None,) * 5_000), Sync()))
    assert found.values is not None
    assert (len(found.values.values), found.values.left_out) == (VALUES_MOST, 5_000 - VALUES_MOST)


def test_a_bind_that_streams_shows_what_has_arrived(relay: Relay) -> None:
    data = sent(Parse(query=SELECT), Bind(parameters=(b"first", b"y" * 100_000, b"last")))
    relay.judged.clear()
    head = relay.from_client(data[:20_000])
    assert head + relay.from_client(data[20_000:]) == data
    (found,) = relay.judged
    assert found.values is not None
    assert [value.size for value in found.values.values] == [5, 100_000]
    assert found.values.left_out == 1


def test_formats_without_end_leave_the_values_open(relay: Relay) -> None:
    data = sent(Parse(query=SELECT), Bind(parameter_formats=(0,) * 20_000, parameters=(b"a",) * 20_000))
    relay.from_client(data[:9_000])
    (found,) = relay.judged
    assert found.values is not None
    assert (found.values.values, found.values.left_out) == ((), None)


def test_of_many_types_the_first_are_remembered(relay: Relay) -> None:
    types = tuple(range(1, TYPES_MOST + 11))
    (found,) = judged(relay, sent(Parse(query=SELECT, parameter_types=types), Bind(parameters=(None,) * len(types)), Sync()))
    assert found.values is not None
    assert [value.type for value in found.values.values] == [*types[:TYPES_MOST], *[0] * 10]


def bind(*parts: bytes) -> bytes:
    return buffer.message(b"B", buffer.string(b""), buffer.string(b""), *parts)


@pytest.mark.parametrize(
    "body",
    [
        (),
        (b"\0",),
        (b"\0\1",),
        (b"\0\0",),
        (b"\0\0", b"\0\2", b"\0\0\0\1a"),
        (b"\0\0", b"\0\1", b"\0\0\0"),
        (b"\0\0", b"\0\1", b"\0\0\0\5a"),
        (b"\0\0", b"\0\1", b"\x7f\xff\xff\xffa"),
        (b"\0\0", b"\0\1", b"\xff\xff\xff\xfea"),
        (b"\xff\xff", b"\0\0"),
        (b"\0\0", b"\xff\xff", b"\xff\xff\xff\xff"),
    ],
    ids=lambda body: b"|".join(body).hex() or "nothing",
)
def test_a_bind_that_is_not_what_it_says_ends_the_session(relay: Relay, body: tuple[bytes, ...]) -> None:
    relay.from_client(sent(Parse(query=SELECT)))
    with pytest.raises(ProtocolError):
        relay.from_client(bind(*body) + sent(Execute(), Sync()))


@given(st.binary(max_size=60))
def test_whatever_stands_in_a_bind_raises_nothing_else(body: bytes) -> None:
    relay = relay_of(RecordingRelay)
    data = sent(Parse(query=SELECT)) + buffer.message(b"B", b"\0\0", body) + sent(Sync())
    try:
        assert relay.from_client(data) == data
    except ProtocolError:
        assert not any(judgement.values for judgement in relay.judged)


def test_a_parse_whose_types_are_cut_ends_the_session(relay: Relay) -> None:
    with pytest.raises(ProtocolError):
        relay.from_client(buffer.message(b"P", buffer.string(b""), buffer.string(SELECT), b"\0\2", b"\0\0\0\x17"))


def test_a_refused_bind_has_its_values() -> None:
    """A statement that was prepared before the agent may write no more."""
    relay = relay_of(RecordingRelay, counts=True)
    relay.from_client(sent(Parse(name=b"u", query=b"update t set a = $1 where b = $2"), Sync()))
    relay.use(Judge(policy=Policy(access=AccessLevel.READ), functions=FunctionCatalogue.builtin(), full=True))
    (found,) = judged(relay, sent(Bind(statement=b"u", parameters=(b"hunter2", b"1")), Execute(), Sync()))
    assert type(found.verdict) is Deny
    assert found.values is not None
    assert [value.value for value in found.values.values] == [b"hunter2", b"1"]


@pytest.mark.parametrize("fits", [True, False], ids=["waits for a human", "is refused in the middle"])
def test_a_held_statement_has_its_values(fits: bool) -> None:
    relay = relay_of(RecordingRelay, holds=True, access=AccessLevel.MIGRATE)
    parse = Parse(name=b"d", query=b"delete from t where 'x' = $1 or true", parameter_types=(TEXT,))
    rest = (Execute(), Sync()) if fits else (Query(query=b"select 1"), Sync())
    found = judged(relay, sent(parse, Bind(statement=b"d", parameters=(b"hunter2",)), *rest))
    held = [one for one in found if type(one.verdict) in {Hold, Deny}]
    assert [[value.value for value in one.values.values] for one in held if one.values is not None] == [[b"hunter2"]]
    assert len(held) == 1


def test_a_function_call_has_its_values(relay: Relay) -> None:
    call = FunctionCall(function=1317, argument_formats=(0,), arguments=(b"hunter2",))
    (found,) = judged(relay, sent(call))
    assert found.values is not None
    assert [value.value for value in found.values.values] == [b"hunter2"]


TALK = (
    Parse(name=b"s", query=SELECT),
    Bind(statement=b"s", parameters=(b"1",)),
    Describe(target=Target.PORTAL),
    Execute(),
    Sync(),
    Parse(name=b"u", query=b"update t set a = $1 where b = $2", parameter_types=(INT4, INT4)),
    Bind(statement=b"u", portal=b"p", parameters=(b"1", b"2")),
    Execute(portal=b"p"),
    Sync(),
    Bind(statement=b"s", parameters=(b"3",)),
    Execute(),
    Sync(),
    Parse(name=b"h", query=b"truncate t"),
    Bind(statement=b"h"),
    Execute(),
    Sync(),
    Query(query=b"select 2"),
    Close(target=Target.STATEMENT, name=b"s"),
    Sync(),
)


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("holds", [False, True])
def test_nothing_else_differs_from_any_other_session(step: int, counts: bool, holds: bool) -> None:
    data = sent(*TALK)
    relays = [relay_of(kind, counts=counts, holds=holds) for kind in (Relay, RecordingRelay)]
    heard = [[relay.from_client(data[at : at + step]) for at in range(0, len(data), step)] for relay in relays]
    assert heard[0] == heard[1]
    plain, recorded = (relay.judged for relay in relays)
    assert [(one.verdict, one.normal) for one in plain] == [(one.verdict, one.normal) for one in recorded]
    assert sum(one.values is not None for one in recorded) == (3 if counts else 2), "an update is refused where nobody counts"
    assert all(one.values is None for one in plain)
