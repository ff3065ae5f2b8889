"""The first packet of a login: versions, requests, cancels, settings, lengths that lie."""

from __future__ import annotations

import pytest
from support.logins import NOW, USER, Talk, by_hand

from dbshield.session.login import Authenticated, Cancel, ClientLogin, Fail
from dbshield.wire.authentication import (
    AuthenticationSASL,
    SASLResponse,
)
from dbshield.wire.backend import NegotiateProtocolVersion
from dbshield.wire.message import Message
from dbshield.wire.startup import CancelRequest, GSSENCRequest, SSLRequest, StartupMessage


class TestStartup:
    @pytest.mark.parametrize(
        "asked, served", [((3, 0), (3, 0)), ((3, 1), (3, 1)), ((3, 2), (3, 2)), ((3, 3), (3, 2)), ((3, 9999), (3, 2))]
    )
    def test_trap_2_versions(self, asked: tuple[int, int], served: tuple[int, int]) -> None:
        talk = Talk()
        talk.startup(("database", "shop"), protocol=asked)
        negotiated = [answer for answer in talk.answers if isinstance(answer, NegotiateProtocolVersion)]
        assert negotiated == ([] if asked <= (3, 2) else [NegotiateProtocolVersion(protocol=(3, 2))])
        talk.send(SASLResponse(data=by_hand(talk, "dbs_live")))
        assert isinstance(talk.end, Authenticated)
        assert talk.end.protocol == served

    def test_trap_2_libpq_19_gets_exactly_one_negotiation_with_all_options(self) -> None:
        talk = Talk()
        talk.startup(("_pq_.test_protocol_negotiation", ""), ("_pq_.b", "1"), protocol=(3, 9999))
        assert talk.answers == [
            NegotiateProtocolVersion(protocol=(3, 2), options=("_pq_.test_protocol_negotiation", "_pq_.b")),
            AuthenticationSASL(mechanisms=("SCRAM-SHA-256",)),
        ]

    def test_trap_2_options_alone_are_negotiated_too(self) -> None:
        talk = Talk()
        talk.startup(("_pq_.b", "1"))
        assert talk.answers[0] == NegotiateProtocolVersion(protocol=(3, 0), options=("_pq_.b",))

    @pytest.mark.parametrize("protocol", [(2, 0), (4, 0), (0, 0), (1234, 1)])
    def test_other_versions_are_refused_as_postgresql_does(self, protocol: tuple[int, int]) -> None:
        talk = Talk()
        talk.startup(protocol=protocol)
        assert talk.error.sqlstate == "0A000"
        assert "server supports 3.0 to 3.2" in talk.error.message
        assert talk.lookups == []

    @pytest.mark.parametrize("request_", [SSLRequest(), GSSENCRequest()])
    def test_trap_1_a_request_for_encryption_has_no_place_here(self, request_: Message) -> None:
        talk = Talk()
        talk.send(request_)
        assert talk.error.sqlstate == "0A000"

    @pytest.mark.parametrize("key", [b"1234", b"k" * 32, b"k" * 256])
    def test_trap_2_cancel_with_keys_of_4_to_256_bytes(self, key: bytes) -> None:
        talk = Talk()
        talk.send(CancelRequest(process_id=-7, secret_key=key))
        assert talk.end == Cancel(process_id=-7, secret_key=key)
        assert talk.answers == []
        assert key.decode() not in repr(talk.end)

    @pytest.mark.parametrize("tail", [b"", b"123", b"k" * 257])
    def test_trap_2_cancel_with_other_keys_is_refused(self, tail: bytes) -> None:
        data = b"\x04\xd2\x16\x2e\0\0\0\x01" + tail
        talk = Talk()
        talk.send((len(data) + 4).to_bytes(4, "big") + data)
        assert talk.error.sqlstate == "08P01"

    def test_tls_required(self) -> None:
        talk = Talk(encrypted=False, tls_required=True)
        talk.startup()
        assert (talk.error.sqlstate, talk.lookups) == ("28000", [])
        assert "sslmode" in talk.error.hint
        talk = Talk(encrypted=True, tls_required=True)
        talk.startup()
        assert talk.lookups == [USER]

    def test_a_cancel_needs_no_tls(self) -> None:
        """libpq before 17 sends it in clear whatever the session used; it carries nothing but the key."""
        talk = Talk(encrypted=False, tls_required=True)
        talk.send(CancelRequest(process_id=1, secret_key=b"1234"))
        assert isinstance(talk.end, Cancel)

    @pytest.mark.parametrize(
        "name, value, sqlstate",
        [
            ("replication", "database", "42501"),
            ("replication", "true", "42501"),
            ("options", "-c session_replication_role=replica", "42501"),
            ("client_encoding", "SJIS", "22023"),
            ("dbshield.agent", "1", "42704"),
        ],
    )
    def test_trap_10_settings_that_are_refused(self, name: str, value: str, sqlstate: str) -> None:
        talk = Talk()
        talk.startup((name, value))
        assert talk.error.sqlstate == sqlstate
        assert talk.error.hint
        assert talk.lookups == []

    def test_trap_4_settings_run_nothing_during_the_login(self) -> None:
        """CVE-2025-12819: a pooler looked users up under the client's search_path. Here it is data for the server."""
        talk = Talk()
        talk.login("dbs_live", ("database", "shop"), ("search_path", "evil"), ("options", "-c search_path=worse"))
        assert talk.lookups == [USER]
        assert [type(answer).__name__ for answer in talk.answers] == [
            "AuthenticationSASL",
            "AuthenticationSASLContinue",
            "AuthenticationSASLFinal",
        ]
        assert isinstance(talk.end, Authenticated)
        assert talk.end.settings["search_path"] == "evil"

    def test_no_user(self) -> None:
        talk = Talk()
        talk.send(StartupMessage(parameters=(("database", "shop"),)))
        assert talk.error.sqlstate == "28000"

    @pytest.mark.parametrize("length", [-1, 0, 7, 10_005, 2**31 - 1])
    def test_trap_8_absurd_startup_lengths(self, length: int) -> None:
        talk = Talk()
        talk.send(length.to_bytes(4, "big", signed=True) + b"\0\x03\0\0")
        assert talk.error.sqlstate == "08P01"

    def test_trap_8_a_startup_packet_without_its_end(self) -> None:
        talk = Talk()
        talk.send(b"\0\0\0\x0d\0\x03\0\0user\0")
        assert talk.error.sqlstate == "08P01"

    def test_a_limit_of_our_own(self) -> None:
        machine = ClientLogin(nonce="n", mock_secret=b"", encrypted=True, tls_required=False, max_startup=20)
        [action] = machine.receive((30).to_bytes(4, "big"), now=NOW)
        assert isinstance(action, Fail)
