"""What takes back settings and prepared statements, played against both peers of a session that counts."""

from __future__ import annotations

import pytest
from support.conversation import (
    COUNTER,
    FAILED,
    IDLE,
    IN_TRANSACTION,
    Conversation,
    refused,
)

from dbshield.wire.backend import (
    CommandComplete,
    ErrorResponse,
)
from dbshield.wire.frontend import Bind, Execute, Parse, Query, Sync

DELETE = b"delete from shop.orders where id = 1"


class TestForgetting:
    def test_ours_are_made_again_behind_discard_all(self) -> None:
        talk = Conversation(counts=True)
        sent = talk.client(Query(query=b"discard all"))
        assert [type(message).__name__ for message in sent] == ["Query", "Query"]
        done = CommandComplete(tag="DISCARD ALL")
        assert talk.server(done, IDLE, CommandComplete(tag="PREPARE"), CommandComplete(tag="PREPARE"), IDLE) == [done, IDLE]
        assert talk.relay.idle

    def test_in_the_extended_protocol_behind_its_sync(self) -> None:
        talk = Conversation(counts=True)
        sent = talk.client(Parse(query=b"discard all"), Bind(), Execute(), Sync())
        assert [type(message).__name__ for message in sent] == ["Parse", "Bind", "Execute", "Sync", "Query"]

    @pytest.mark.parametrize("text", [b"reset all", b"discard temp", b'deallocate "all"'])
    def test_what_leaves_ours_alone_makes_none_again(self, text: bytes) -> None:
        assert Conversation(counts=True).client(Query(query=text)) == [Query(query=text)]

    @pytest.mark.parametrize("text", [b"discard temp", b"discard plans", b"deallocate all"])
    def test_what_takes_no_setting_back_may_come_in_a_block(self, text: bytes) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=b"begin"))
        talk.server(CommandComplete(tag="BEGIN"), IN_TRANSACTION)
        assert talk.client(Query(query=text))[0] == Query(query=text)

    def test_where_nothing_is_counted_reset_all_may_come_at_any_time(self) -> None:
        talk = Conversation(counts=True, observes=True)
        talk.client(Query(query=b"begin"))
        talk.server(CommandComplete(tag="BEGIN"), IN_TRANSACTION)
        assert talk.client(Query(query=b"reset all")) == [Query(query=b"reset all")]

    @pytest.mark.parametrize("text", [b"reset all", b"discard all"])
    def test_not_while_a_transaction_may_be_open(self, text: bytes) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=b"begin"))
        assert text not in talk.client(Query(query=text))[0].encode()

    def test_why_the_server_did_not_take_ours_is_told_with_the_refusal(self) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=b"deallocate all"))
        denied = ErrorResponse.of("ERROR", "42501", "permission denied for function pg_stat_get_xact_tuples_updated")
        assert talk.server(CommandComplete(tag="DEALLOCATE ALL"), IDLE, denied, IDLE)[1:] == [IDLE]
        talk.client(Query(query=DELETE))
        missing = ErrorResponse.of("ERROR", "26000", f'prepared statement "{COUNTER}_before" does not exist')
        heard = talk.server(missing, FAILED)
        assert refused(heard, "rule=DS223")
        assert isinstance(heard[0], ErrorResponse)
        assert "permission denied" in heard[0].message
