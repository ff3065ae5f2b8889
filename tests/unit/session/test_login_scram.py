"""SCRAM as clients write it, and as nobody should."""

from __future__ import annotations

from base64 import b64encode

import pytest
from support.logins import SECRET, Talk, by_hand

from dbshield.session.login import Authenticated, ClientLogin
from dbshield.wire.authentication import (
    AuthenticationData,
    PasswordMessage,
    SASLInitialResponse,
    SASLResponse,
)
from dbshield.wire.frontend import Query
from dbshield.wire.message import Message


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
