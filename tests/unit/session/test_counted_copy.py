"""A counted COPY of the extended protocol: what the client may send until its data has ended, and which Sync is answered."""

from __future__ import annotations

import pytest
from support.conversation import IDLE, Conversation, other_error

from dbshield.errors import Refused
from dbshield.wire.backend import BindComplete, CopyInResponse, ParseComplete
from dbshield.wire.copying import CopyData, CopyDone
from dbshield.wire.frontend import Bind, CopyFail, Execute, Parse, Query, Sync

ASKS = (ParseComplete(), BindComplete(), CopyInResponse(format=0, column_formats=(0,)))


def at_copy() -> Conversation:
    """The COPY is on its way to the server."""
    talk = Conversation(counts=True)
    talk.client(Parse(query=b"copy shop.orders from stdin"), Bind(), Execute(), Sync())
    return talk


def test_nothing_goes_ahead_of_the_server_s_wish_for_data() -> None:
    for message in (
        CopyData(data=b"1\n"),
        CopyDone(),
        Query(query=b"commit"),
        Bind(),
        Parse(query=b"select 1"),
        Execute(),
    ):
        talk = at_copy()
        with pytest.raises(Refused, match="COPY"):
            talk.client(message)


def test_nor_does_the_beginning_of_what_is_long() -> None:
    talk = at_copy()
    with pytest.raises(Refused, match="COPY"):
        talk.relay.from_client(CopyData(data=b"1\n" * 9000).encode()[:1000])


def test_a_sync_amid_the_data_is_dropped_as_the_server_does() -> None:
    talk = at_copy()
    talk.server(*ASKS)
    assert talk.client(Sync(), CopyData(data=b"1\n"), Sync()) == [CopyData(data=b"1\n")]
    assert talk.client(CopyFail(reason=b"no"), Sync()) == [CopyFail(reason=b"no"), Sync()]
    assert talk.relay.busy
    talk.server(IDLE)
    assert not talk.relay.busy


def test_behind_data_that_the_server_did_not_take_the_session_goes_on() -> None:
    talk = at_copy()
    talk.server(*ASKS)
    talk.client(CopyData(data=b"x\n"))
    talk.server(other_error())
    assert talk.client(CopyDone(), Sync()) == [CopyDone(), Sync()]
    talk.server(IDLE)
    assert not talk.relay.busy
