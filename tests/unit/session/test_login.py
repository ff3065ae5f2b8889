"""Logins of clients: the proof, the database, the stream of bytes; against scramp's client and by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramException
from support.logins import EXPIRED, LIVE, NOW, SALT, SECOND, SECRET, USER, Talk, agent, by_hand, verifier

from dbshield.model import TokenVerifier
from dbshield.session.login import Authenticated, ClientLogin, Fail, Lookup, Send
from dbshield.session.scram import mock
from dbshield.wire.authentication import (
    AuthenticationSASL,
    AuthenticationSASLContinue,
    AuthenticationSASLFinal,
    SASLInitialResponse,
    SASLResponse,
)
from dbshield.wire.frontend import Query
from dbshield.wire.startup import StartupMessage


class TestProof:
    def test_a_token_that_proves_right(self) -> None:
        talk = Talk()
        talk.login("dbs_live", ("database", "shop"), ("application_name", "psql"), ("TimeZone", "UTC"))
        assert [type(answer) for answer in talk.answers] == [
            AuthenticationSASL,
            AuthenticationSASLContinue,
            AuthenticationSASLFinal,
        ]
        assert talk.lookups == [USER]
        assert talk.end == Authenticated(
            login=talk.agents[USER],
            token_id="dbs_live",
            database="shop",
            settings={
                "application_name": "dbshield:claude psql",
                "timezone": "UTC",
                "client_encoding": "UTF8",
                "standard_conforming_strings": "on",
            },
            protocol=(3, 0),
        )

    def test_any_live_token_of_the_agent_will_do(self) -> None:
        talk = Talk()
        talk.login("dbs_second")
        assert isinstance(talk.end, Authenticated)
        assert talk.end.token_id == "dbs_second"

    def test_plus_is_never_offered(self) -> None:
        talk = Talk()
        talk.startup()
        assert talk.answers == [AuthenticationSASL(mechanisms=("SCRAM-SHA-256",))]

    def test_trap_4_an_expired_token_is_refused(self) -> None:
        """CVE-2025-2291: a pooler let passwords in after their VALID UNTIL."""
        talk = Talk()
        talk.login("dbs_expired")
        assert talk.error.sqlstate == "28P01"
        assert "expired" in talk.error.message
        assert isinstance(talk.end, Fail)
        assert "dbs_expired" in talk.end.reason
        assert talk.end.token_id == "dbs_expired"
        assert not any(isinstance(answer, AuthenticationSASLFinal) for answer in talk.answers)

    def test_a_token_expires_while_the_client_computes(self) -> None:
        talk = Talk(now=NOW + 60)
        talk.login("dbs_live")
        assert talk.error.sqlstate == "28P01"

    def test_failures_cannot_be_told_apart(self) -> None:
        conversations = []
        for agents in ({}, {USER: agent()}, {USER: agent(LIVE)}, {USER: agent(EXPIRED)}, {USER: agent(LIVE, SECOND)}):
            talk = Talk(agents=agents)
            talk.login("dbs_wrong")
            shapes = [type(answer).__name__ for answer in talk.answers]
            challenge = talk.answers[-1]
            assert isinstance(challenge, AuthenticationSASLContinue)
            sizes = [len(part) for part in challenge.data.split(b",")]
            conversations.append((shapes, sizes, talk.error))
        assert all(conversation == conversations[0] for conversation in conversations)
        assert conversations[0][2].sqlstate == "28P01"

    def test_an_unknown_agent_has_the_same_salt_each_time_and_another_than_others(self) -> None:
        def challenge(user: str) -> bytes:
            talk = Talk(agents={})
            talk.startup(user=user)
            talk.send(SASLInitialResponse(mechanism="SCRAM-SHA-256", data=b"n,,n=,r=x"))
            assert isinstance(talk.answers[-1], AuthenticationSASLContinue)
            return talk.answers[-1].data

        assert challenge("a") == challenge("a")
        assert challenge("a") != challenge("b")
        assert mock(SECRET, "a").salt != mock(b"another", "a").salt

    def test_the_server_proves_itself_to_the_client(self) -> None:
        talk = Talk(agents={USER: agent(verifier("dbs_live", token_id="a"))})
        forged = TokenVerifier(token_id="a", stored_key=LIVE.stored_key, server_key=b"x" * 32, expires_at=NOW + 60)
        with pytest.raises(ScramException):
            Talk(agents={USER: agent(forged)}).login("dbs_live")
        talk.login("dbs_live")
        assert isinstance(talk.end, Authenticated)


class TestDatabase:
    def test_trap_4_no_database_means_the_users_name(self) -> None:
        talk = Talk()
        talk.login("dbs_live", ("application_name", "x"))
        assert talk.error.sqlstate == "3D000"
        assert isinstance(talk.answers[-1], AuthenticationSASLFinal)
        talk = Talk(agents={USER: agent(LIVE, databases=(USER,))})
        talk.login("dbs_live", ("database", ""))
        assert isinstance(talk.end, Authenticated)
        assert talk.end.database == USER

    @pytest.mark.parametrize("database", ["postgres", "SHOP", "shop ", "template1"])
    def test_a_database_of_others_is_refused_after_the_proof(self, database: str) -> None:
        talk = Talk()
        talk.login("dbs_live", ("database", database))
        assert talk.error.sqlstate == "3D000"
        assert talk.error.hint == "It may use: shop, books."

    def test_which_databases_there_are_is_not_said_before_the_proof(self) -> None:
        talk = Talk()
        talk.login("dbs_wrong", ("database", "postgres"))
        assert talk.error.sqlstate == "28P01"
        assert "shop" not in repr(talk.error)

    def test_an_agent_without_databases(self) -> None:
        talk = Talk(agents={USER: agent(LIVE, databases=())})
        talk.login("dbs_live")
        assert talk.error.hint == "It may use: none."


class TestStream:
    def whole(self) -> list[bytes]:
        talk = Talk()
        talk.startup(("database", "shop"))
        final = SASLResponse(data=by_hand(talk, "dbs_live")).encode()
        first = SASLInitialResponse(mechanism="SCRAM-SHA-256", data=b"n,,n=,r=client").encode()
        return [StartupMessage(parameters=(("user", USER), ("database", "shop"))).encode(), first, final]

    def test_byte_by_byte(self) -> None:
        talk = Talk()
        for byte in b"".join(self.whole()):
            talk.send(bytes((byte,)))
        assert isinstance(talk.end, Authenticated)
        assert talk.machine.trailing == b""

    def test_nothing_behind_the_login_is_consumed(self) -> None:
        talk = Talk()
        *early, final = self.whole()
        for data in early:
            talk.send(data)
        more = Query(query=b"x" * 5000).encode() + b"Q\0\0"
        talk.send(final + more)
        assert isinstance(talk.end, Authenticated)
        talk.send(b"\0")
        assert talk.machine.trailing == more + b"\0"

    def test_a_client_that_does_not_wait(self) -> None:
        talk = Talk()
        talk.send(b"".join(self.whole()))
        assert isinstance(talk.end, Authenticated)

    def test_a_flood_during_the_lookup_ends_the_login(self) -> None:
        machine = ClientLogin(nonce="n", mock_secret=SECRET, encrypted=True, tls_required=False)
        assert machine.receive(self.whole()[0], now=NOW) == [Lookup(user=USER)]
        assert machine.receive(b"p" * 1000, now=NOW) == []
        [action] = machine.receive(b"p" * 1000, now=NOW)
        assert isinstance(action, Fail)
        assert machine.found(agent(LIVE), now=NOW) == []

    def test_nothing_happens_after_the_end(self) -> None:
        talk = Talk()
        talk.startup(("replication", "true"))
        assert isinstance(talk.end, Fail)
        talk.startup()
        assert talk.machine.found(agent(LIVE), now=NOW) == []
        assert talk.answers == []

    @given(st.lists(st.binary(max_size=60), max_size=8))
    def test_property_fuzz_any_bytes_end_in_one_error_or_none(self, pieces: list[bytes]) -> None:
        talk = Talk()
        for piece in pieces:
            talk.send(piece)
        assert not isinstance(talk.end, Authenticated)
        if isinstance(talk.end, Fail):
            assert len(talk.error.sqlstate) == 5

    @given(st.integers(0, 2), st.data())
    def test_property_fuzz_a_damaged_login_never_gets_in(self, which: int, data: st.DataObject) -> None:
        messages = self.whole()
        head = 4 if which == 0 else 5
        payload = bytearray(messages[which][head:])
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at] ^= data.draw(st.integers(1, 255))
        messages[which] = messages[which][:head] + bytes(payload)
        talk = Talk(agents={USER: agent(LIVE, databases=("shop",))})
        for message in messages:
            talk.send(message)
        if isinstance(talk.end, Authenticated):
            # A bit that SCRAM does not sign: another minor version, or the case of a name.
            assert which == 0
            assert (talk.end.login.user, talk.end.database) == (USER, "shop")
        elif isinstance(talk.end, Fail):
            assert len(talk.error.sqlstate) == 5


def test_secrets_are_not_shown() -> None:
    talk = Talk()
    talk.login("dbs_live")
    shown = repr(talk.end) + repr(Send(data=b"hush")) + repr(talk.answers)
    assert "hush" not in shown
    assert repr(SALT)[2:-1] not in shown
    assert repr(LIVE.server_key)[2:-1] not in shown
