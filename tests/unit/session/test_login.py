"""Logins of clients as conversations, against scramp's client and against messages written by hand."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from dataclasses import dataclass, field
from typing import assert_never

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramClient, ScramException, ScramMechanism

from dbshield.model import AccessLevel, AgentLogin, TokenVerifier, Upstream
from dbshield.session.login import Authenticated, Cancel, ClientAction, ClientLogin, Fail, Lookup, Send
from dbshield.session.scram import mock
from dbshield.wire.authentication import (
    AuthenticationData,
    AuthenticationSASL,
    AuthenticationSASLContinue,
    AuthenticationSASLFinal,
    PasswordMessage,
    SASLInitialResponse,
    SASLResponse,
)
from dbshield.wire.backend import NegotiateProtocolVersion, decode_backend
from dbshield.wire.framing import FrameReader
from dbshield.wire.frontend import Query
from dbshield.wire.message import Message
from dbshield.wire.report import ErrorResponse
from dbshield.wire.startup import CancelRequest, GSSENCRequest, SSLRequest, StartupMessage

NOW = 1_800_000_000.0
SALT = b"0123456789abcdef"
SECRET = b"the installation's own"
USER = "claude.staging"


def verifier(token: str, *, expires_at: float = NOW + 60, token_id: str = "") -> TokenVerifier:
    _, stored, server, _ = ScramMechanism("SCRAM-SHA-256").make_auth_info(token, salt=SALT, iteration_count=4096)
    return TokenVerifier(token_id=token_id or token, stored_key=stored, server_key=server, expires_at=expires_at)


LIVE = verifier("dbs_live")
SECOND = verifier("dbs_second")
EXPIRED = verifier("dbs_expired", expires_at=NOW)


def agent(*tokens: TokenVerifier, databases: tuple[str, ...] = ("shop", "books")) -> AgentLogin:
    return AgentLogin(
        agent="claude",
        environment="staging",
        access=AccessLevel.READ,
        databases=databases,
        salt=SALT,
        iterations=4096,
        tokens=tokens,
        upstream=Upstream(host="db", port=5432, user="dbshield_claude"),
    )


@dataclass
class Talk:
    """A login, and what came out of it."""

    agents: dict[str, AgentLogin] = field(default_factory=lambda: {USER: agent(LIVE, SECOND, EXPIRED)})
    encrypted: bool = True
    tls_required: bool = False
    now: float = NOW
    answers: list[Message] = field(default_factory=list)
    lookups: list[str] = field(default_factory=list)
    end: Authenticated | Fail | Cancel | None = None

    def __post_init__(self) -> None:
        self.machine = ClientLogin(
            nonce="server-nonce", mock_secret=SECRET, encrypted=self.encrypted, tls_required=self.tls_required
        )

    def send(self, *messages: Message | bytes) -> None:
        data = b"".join(m if isinstance(m, bytes) else m.encode() for m in messages)
        self.take(self.machine.receive(data, now=self.now))

    def take(self, actions: list[ClientAction]) -> None:
        for action in actions:
            assert self.end is None, "nothing follows the end"
            match action:
                case Send(data=data):
                    self.answers += [decode_backend(f.code, f.payload) for f in FrameReader().feed(data)]
                case Lookup(user=user):
                    self.lookups.append(user)
                    self.take(self.machine.found(self.agents.get(user), now=self.now))
                case Authenticated() | Fail() | Cancel():
                    self.end = action
                case _:
                    assert_never(action)

    def startup(self, *pairs: tuple[str, str], user: str = USER, protocol: tuple[int, int] = (3, 0)) -> None:
        self.send(StartupMessage(protocol=protocol, parameters=(("user", user), *pairs)))

    def login(self, token: str, *pairs: tuple[str, str], user: str = USER) -> None:
        """All of it, as scramp's client does it."""
        self.startup(*(pairs or (("database", "shop"),)), user=user)
        client = ScramClient(["SCRAM-SHA-256"], "ignored", token, c_nonce="client-nonce")
        self.send(SASLInitialResponse(mechanism="SCRAM-SHA-256", data=client.get_client_first().encode()))
        assert isinstance(self.answers[-1], AuthenticationSASLContinue)
        client.set_server_first(self.answers[-1].data.decode())
        self.send(SASLResponse(data=client.get_client_final().encode()))
        if isinstance(self.answers[-1], AuthenticationSASLFinal):
            client.set_server_final(self.answers[-1].data.decode())

    @property
    def error(self) -> ErrorResponse:
        assert isinstance(self.end, Fail)
        [frame] = FrameReader().feed(self.end.data)
        error = ErrorResponse.decode(frame.payload)
        assert error.severity == "FATAL"
        return error


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
                "TimeZone": "UTC",
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


def by_hand(talk: Talk, token: str, *, flag: bytes = b"n", name: bytes = b"", extra: bytes = b"") -> bytes:
    """The client's final message as libpq writes it, with an empty user name."""
    bare = b"n=" + name + b",r=client" + extra
    talk.send(SASLInitialResponse(mechanism="SCRAM-SHA-256", data=flag + b",," + bare))
    challenge = talk.answers[-1]
    assert isinstance(challenge, AuthenticationSASLContinue)
    nonce = challenge.data.split(b",")[0]
    without_proof = b"c=" + b64encode(flag + b",,") + b"," + nonce + extra
    salted = hashlib.pbkdf2_hmac("sha256", token.encode(), SALT, 4096)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    signature = hmac.digest(stored_key, b",".join((bare, challenge.data, without_proof)), "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return without_proof + b",p=" + b64encode(proof)


class TestScram:
    @pytest.mark.parametrize("flag", [b"n", b"y"])
    @pytest.mark.parametrize("name", [b"", b"*", b"claude=2Cx", b"\xff"])
    def test_trap_4_flags_n_and_y_and_any_name_inside(self, flag: bytes, name: bytes) -> None:
        """libpq sends an empty name, others `*`; the name of the start-up packet is what counts."""
        talk = Talk()
        talk.startup(("database", "shop"))
        talk.send(SASLResponse(data=by_hand(talk, "dbs_live", flag=flag, name=name)))
        assert isinstance(talk.end, Authenticated)

    def test_extensions_are_signed_and_ignored(self) -> None:
        talk = Talk()
        talk.startup(("database", "shop"))
        talk.send(SASLResponse(data=by_hand(talk, "dbs_live", extra=b",x=y")))
        assert isinstance(talk.end, Authenticated)

    def test_trap_4_channel_binding_that_was_not_offered_is_refused(self) -> None:
        talk = Talk()
        talk.startup()
        talk.send(SASLInitialResponse(mechanism="SCRAM-SHA-256", data=b"p=tls-server-end-point,,n=,r=x"))
        assert talk.error.sqlstate == "28000"
        assert "channel_binding" in talk.error.hint

    @pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1", "PLAIN", "OAUTHBEARER", ""])
    def test_trap_4_a_mechanism_that_was_not_offered_is_refused(self, mechanism: str) -> None:
        talk = Talk()
        talk.startup()
        talk.send(SASLInitialResponse(mechanism=mechanism, data=b"n,,n=,r=x"))
        assert talk.error.sqlstate == "08P01"

    @pytest.mark.parametrize(
        "first",
        [
            None,
            b"",
            b"n",
            b"n,",
            b"n,,",
            b"x,,n=,r=x",
            b"nn,,n=,r=x",
            b"n,a=root,n=,r=x",
            b"n,,m=x,n=,r=x",
            b"n,,n=",
            b"n,,n=,",
            b"n,,r=x,n=",
            b"n,,n=,r=",
            b"n,,n=,r=a b",
            b"n,,n=,r=\xc3\xa9",
            b"n,,n=,r=a\0b",
            b"\0" * 900,
        ],
    )
    def test_trap_4_malformed_first_messages(self, first: bytes | None) -> None:
        """CVE-2026-6664: malformed SCRAM crashed a pooler. CVE-2026-6666: an error went without a SQLSTATE."""
        talk = Talk()
        talk.startup()
        talk.send(SASLInitialResponse(mechanism="SCRAM-SHA-256", data=first))
        assert talk.error.sqlstate in {"08P01", "0A000"}

    @pytest.mark.parametrize(
        "final",
        [
            b"",
            b"p=",
            b"c=biws",
            b"c=biws,p=AAAA",
            b"c=biws,r=clientserver-nonce",
            b"c=biws,r=clientserver-nonce,p=",
            b"c=biws,r=clientserver-nonce,p=AAAA",
            b"c=biws,r=clientserver-nonce,p=!!!!",
            b"c=biws,r=clientserver-nonce,p=\xff\xff",
            b"c=eSws,r=clientserver-nonce,p=" + b64encode(b"x" * 32),
            b"c=,r=clientserver-nonce,p=" + b64encode(b"x" * 32),
            b"c=biws,r=client,p=" + b64encode(b"x" * 32),
            b"c=biws,r=clientserver-nonce2,p=" + b64encode(b"x" * 32),
            b"r=clientserver-nonce,c=biws,p=" + b64encode(b"x" * 32),
            b"c=biws,r=clientserver-nonce,p=" + b64encode(b"x" * 33),
            b"c=biws,r=clientserver-nonce,p=" + b64encode(b"x" * 32) + b",x=y",
        ],
    )
    def test_trap_4_malformed_final_messages(self, final: bytes) -> None:
        talk = Talk()
        talk.startup()
        talk.send(SASLInitialResponse(mechanism="SCRAM-SHA-256", data=b"n,,n=,r=client"))
        talk.send(SASLResponse(data=final))
        assert talk.error.sqlstate == "08P01"

    def test_a_changed_flag_is_a_changed_conversation(self) -> None:
        talk = Talk()
        talk.startup()
        final = by_hand(talk, "dbs_live", flag=b"n").replace(b"c=biws", b"c=eSws")
        talk.send(SASLResponse(data=final))
        assert talk.error.sqlstate == "08P01"

    def test_a_proof_cannot_be_replayed(self) -> None:
        first = Talk()
        first.startup(("database", "shop"))
        final = by_hand(first, "dbs_live")
        other = Talk()
        other.machine = ClientLogin(nonce="another", mock_secret=SECRET, encrypted=True, tls_required=False)
        other.startup(("database", "shop"))
        other.send(SASLInitialResponse(mechanism="SCRAM-SHA-256", data=b"n,,n=,r=client"))
        other.send(SASLResponse(data=final))
        assert other.error.sqlstate == "08P01"
        swapped = Talk()
        swapped.startup(("database", "shop"))
        swapped.send(SASLInitialResponse(mechanism="SCRAM-SHA-256", data=b"n,,n=changed,r=client"))
        swapped.send(SASLResponse(data=final))
        assert swapped.error.sqlstate == "28P01"

    @pytest.mark.parametrize(
        "message", [PasswordMessage(password=b"dbs_live"), Query(query=b"select 1"), AuthenticationData(data=b"")]
    )
    def test_anything_else_instead_of_sasl(self, message: Message) -> None:
        talk = Talk()
        talk.startup()
        talk.send(message)
        assert talk.error.sqlstate == "08P01"

    def test_a_sasl_message_over_the_limit(self) -> None:
        talk = Talk()
        talk.startup()
        talk.send(b"p\0\0\x04\x01")
        assert talk.error.sqlstate == "08P01"


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
            ("app.tenant", "1", "42704"),
        ],
    )
    def test_trap_10_settings_that_are_refused(self, name: str, value: str, sqlstate: str) -> None:
        talk = Talk()
        talk.startup((name, value))
        assert talk.error.sqlstate == sqlstate
        assert talk.error.hint
        assert talk.lookups == []

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
