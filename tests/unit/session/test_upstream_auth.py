"""How servers ask for a password, and servers that are not what they say."""

from __future__ import annotations

import hashlib

import pytest
from support.upstreams import BINDING, IDLE, KEY, PASSWORD, REPORTED, Play, scram, scram_server

from dbshield.session.upstream import Ready
from dbshield.wire.authentication import (
    AuthenticationCleartextPassword,
    AuthenticationGSS,
    AuthenticationKerberosV5,
    AuthenticationMD5Password,
    AuthenticationOk,
    AuthenticationSASL,
    AuthenticationSASLContinue,
    AuthenticationSASLFinal,
    AuthenticationSSPI,
    PasswordMessage,
    SASLInitialResponse,
)
from dbshield.wire.message import Message


class TestMethods:
    def test_trust(self) -> None:
        play = Play(password=None)
        play.server(AuthenticationOk(), *REPORTED, KEY, IDLE)
        assert play.sent == []
        assert play.ready == Ready(
            process_id=42,
            secret_key=b"1234",
            parameters={"client_encoding": "UTF8", "standard_conforming_strings": "on", "server_version": "18.1"},
            status=b"I",
            notices=(),
            trailing=b"",
        )

    def test_clear_text_over_tls(self) -> None:
        play = Play(encrypted=True)
        play.server(AuthenticationCleartextPassword())
        assert PasswordMessage.decode(play.sent[0]).password == PASSWORD.encode()
        play.server(AuthenticationOk(), *REPORTED, KEY, IDLE)
        assert play.ready.process_id == 42

    def test_clear_text_over_a_unix_socket(self) -> None:
        play = Play(encrypted=False, host="/run/postgresql")
        play.server(AuthenticationCleartextPassword())
        assert len(play.sent) == 1

    def test_clear_text_in_the_open_is_refused(self) -> None:
        play = Play(encrypted=False)
        play.server(AuthenticationCleartextPassword())
        assert play.sent == []
        assert play.error.sqlstate == "28000"
        assert "sslmode" in play.error.hint

    def test_md5(self) -> None:
        play = Play(encrypted=False)
        play.server(AuthenticationMD5Password(salt=b"salt"))
        inner = hashlib.md5(PASSWORD.encode() + b"role").hexdigest().encode()
        assert PasswordMessage.decode(play.sent[0]).password == b"md5" + hashlib.md5(inner + b"salt").hexdigest().encode()

    def test_scram(self) -> None:
        play = Play(encrypted=False)
        scram(play, scram_server(), ("SCRAM-SHA-256",))
        play.server(AuthenticationOk(), *REPORTED, KEY, IDLE)
        assert play.ready.process_id == 42

    def test_scram_plus_where_both_can(self) -> None:
        play = Play(binding=BINDING)
        scram(play, scram_server("SCRAM-SHA-256-PLUS", offers_binding=True), ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"))
        assert SASLInitialResponse.decode(play.sent[0]).mechanism == "SCRAM-SHA-256-PLUS"
        play.server(AuthenticationOk(), *REPORTED, IDLE)
        assert isinstance(play.end, Ready)

    @pytest.mark.parametrize(
        "binding, mechanisms, chosen, flag",
        [
            (None, ("SCRAM-SHA-256",), "SCRAM-SHA-256", b"n,,"),
            (None, ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"), "SCRAM-SHA-256", b"n,,"),
            (BINDING, ("SCRAM-SHA-256",), "SCRAM-SHA-256", b"y,,"),
            (BINDING, ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"), "SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,"),
            (BINDING, ("OAUTHBEARER", "SCRAM-SHA-256"), "SCRAM-SHA-256", b"y,,"),
            (BINDING, ("SCRAM-SHA-512", "SCRAM-SHA-256"), "SCRAM-SHA-256", b"y,,"),
        ],
    )
    def test_the_flag_says_what_was_possible(
        self, binding: tuple[str, bytes] | None, mechanisms: tuple[str, ...], chosen: str, flag: bytes
    ) -> None:
        play = Play(binding=binding)
        play.server(AuthenticationSASL(mechanisms=mechanisms))
        first = SASLInitialResponse.decode(play.sent[0])
        assert first.mechanism == chosen
        assert first.data is not None
        assert first.data.startswith(flag)

    @pytest.mark.parametrize(
        "request_",
        [
            AuthenticationCleartextPassword(),
            AuthenticationMD5Password(salt=b"salt"),
            AuthenticationSASL(mechanisms=("SCRAM-SHA-256",)),
        ],
    )
    @pytest.mark.parametrize("password", [None, ""])
    def test_a_missing_password_is_refused_by_name(self, request_: Message, password: str | None) -> None:
        play = Play(password=password)
        play.server(request_)
        assert play.sent == []
        assert play.error.sqlstate == "28000"
        assert '"role"' in play.error.message

    @pytest.mark.parametrize(
        "request_, name",
        [
            (AuthenticationGSS(), "GSS"),
            (AuthenticationSSPI(), "SSPI"),
            (AuthenticationKerberosV5(), "KerberosV5"),
            (AuthenticationSASL(mechanisms=("OAUTHBEARER",)), "OAUTHBEARER"),
            (AuthenticationSASL(mechanisms=()), "no mechanism"),
            (AuthenticationSASL(mechanisms=("SCRAM-SHA-256-PLUS",)), "channel binding"),
            (b"R\0\0\0\x08\0\0\0\x63", "99"),
        ],
    )
    def test_other_methods_are_refused_by_name(self, request_: Message | bytes, name: str) -> None:
        play = Play()
        play.server(request_)
        assert play.sent == []
        assert name in play.error.message


class TestScramServers:
    def test_a_server_that_does_not_know_the_password_is_not_believed(self) -> None:
        play = Play()
        server = scram_server()
        play.server(AuthenticationSASL(mechanisms=("SCRAM-SHA-256",)))
        first = SASLInitialResponse.decode(play.sent[-1])
        assert first.data is not None
        server.set_client_first(first.data.decode())
        play.server(AuthenticationSASLContinue(data=server.get_server_first().encode()))
        play.server(AuthenticationSASLFinal(data=b"v=" + b"A" * 43 + b"="), AuthenticationOk(), *REPORTED, IDLE)
        assert play.error.sqlstate == "28000"

    @pytest.mark.parametrize("steps", [1, 2])
    def test_a_server_that_skips_its_proof_is_not_believed(self, steps: int) -> None:
        play = Play()
        server = scram_server()
        play.server(AuthenticationSASL(mechanisms=("SCRAM-SHA-256",)))
        if steps == 2:
            first = SASLInitialResponse.decode(play.sent[-1])
            assert first.data is not None
            server.set_client_first(first.data.decode())
            play.server(AuthenticationSASLContinue(data=server.get_server_first().encode()))
        play.server(AuthenticationOk(), *REPORTED, KEY, IDLE)
        assert "AuthenticationOk" in play.error.message

    def test_another_method_after_scram_began_is_refused(self) -> None:
        """A server in between could else have the password in clear after all."""
        play = Play()
        play.server(AuthenticationSASL(mechanisms=("SCRAM-SHA-256",)), AuthenticationCleartextPassword())
        assert len(play.sent) == 1
        assert "CleartextPassword" in play.error.message

    @pytest.mark.parametrize("request_", [AuthenticationCleartextPassword(), AuthenticationMD5Password(salt=b"abcd")])
    def test_the_password_is_sent_once(self, request_: Message) -> None:
        play = Play()
        play.server(request_, request_)
        assert len(play.sent) == 1
        assert play.error.sqlstate == "08P01"

    @pytest.mark.parametrize(
        "challenge",
        [
            b"",
            b"\xff",
            b"e=other-error",
            b"r=client-nonce,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=4096",
            b"r=other,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=4096",
            b"r=client-nonceX,s=!,i=4096",
            b"r=client-nonceX,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=1",
            b"r=client-nonceX,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=1000001",
            b"r=client-nonceX,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=" + b"9" * 5000,
            b"r=client-nonceX,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=-1",
        ],
    )
    def test_malformed_challenges(self, challenge: bytes) -> None:
        play = Play()
        play.server(AuthenticationSASL(mechanisms=("SCRAM-SHA-256",)), AuthenticationSASLContinue(data=challenge))
        assert len(play.sent) == 1
        assert play.error.sqlstate in {"28000", "08P01"}
