"""Negotiations as conversations: what the client sends, and the one thing that may follow."""

from __future__ import annotations

from typing import assert_never

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.errors import ProtocolError
from dbshield.session.negotiation import Answer, Negotiation, Proceed, StartTls, Step
from dbshield.wire.startup import CancelRequest, GSSENCRequest, SSLRequest, StartupMessage

SSL = SSLRequest().encode()
GSS = GSSENCRequest().encode()
STARTUP = StartupMessage(parameters=(("user", "a"),)).encode()[:8]
CANCEL = CancelRequest(process_id=1, secret_key=b"k" * 256).encode()[:8]


def word(step: Step) -> str:
    match step:
        case Answer(data=data):
            return data.decode()
        case StartTls(data=data):
            return data.decode() + " tls"
        case Proceed():
            return "go"
        case _:
            assert_never(step)


def play(heads: list[bytes], *, tls: bool) -> list[str]:
    """The steps, and `error` where a ProtocolError ends them."""
    negotiation = Negotiation(tls_available=tls)
    words = []
    for head in heads:
        try:
            words.append(word(negotiation.receive(head)))
        except ProtocolError:
            words.append("error")
    return words


@pytest.mark.parametrize(
    "tls, heads, steps",
    [
        (False, [STARTUP], ["go"]),
        (True, [STARTUP], ["go"]),
        (True, [CANCEL], ["go"]),
        (True, [SSL, STARTUP], ["S tls", "go"]),
        (True, [SSL, CANCEL], ["S tls", "go"]),
        (False, [SSL, STARTUP], ["N", "go"]),
        (True, [GSS, SSL, STARTUP], ["N", "S tls", "go"]),
        (False, [GSS, SSL, STARTUP], ["N", "N", "go"]),
        (False, [SSL, GSS, STARTUP], ["N", "N", "go"]),
        (True, [GSS, STARTUP], ["N", "go"]),
    ],
)
def test_what_clients_do(tls: bool, heads: list[bytes], steps: list[str]) -> None:
    assert play(heads, tls=tls) == steps


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("heads", [[SSL, SSL], [GSS, GSS], [GSS, SSL, GSS], [GSS, SSL, SSL]])
def test_trap_1_a_second_request_ends_the_connection(tls: bool, heads: list[bytes]) -> None:
    steps = play([*heads, STARTUP], tls=tls)
    assert steps[-2:] == ["error", "error"]


def test_trap_1_gss_encryption_is_not_asked_for_inside_tls() -> None:
    assert play([SSL, GSS], tls=True) == ["S tls", "error"]


@pytest.mark.parametrize(
    "head",
    [
        b"",
        STARTUP[:7],
        STARTUP + b"x",
        b"\0\0\0\x09" + SSL[4:],
        b"\0\0\0\x07" + GSS[4:],
        b"\xff\xff\xff\xff\0\x03\0\0",
        b"\0\0\0\x04\0\x03\0\0",
        (10_005).to_bytes(4, "big") + b"\0\x03\0\0",
        b"GET / HT",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
    ],
)
def test_trap_8_what_is_no_head_of_a_packet(head: bytes) -> None:
    assert play([head, STARTUP], tls=True)[0] == "error"


def test_trap_8_the_longest_startup_packet() -> None:
    assert play([(10_004).to_bytes(4, "big") + b"\0\x03\0\0"], tls=True) == ["go"]


def test_nothing_follows_the_end() -> None:
    assert play([STARTUP, STARTUP], tls=True) == ["go", "error"]


@given(st.lists(st.sampled_from([SSL, GSS, STARTUP]) | st.binary(min_size=8, max_size=8), max_size=5), st.booleans())
def test_property_fuzz_at_most_one_answer_each(heads: list[bytes], tls: bool) -> None:
    steps = play(heads, tls=tls)
    answered = [step for step in steps if step != "error"]
    assert len(answered) <= 3
    assert answered.count("S tls") <= 1
    assert "go" not in answered[:-1]
