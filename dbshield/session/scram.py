"""The server's side of SCRAM-SHA-256, for many verifiers under one salt.

Written out here because an agent may hold several tokens and SCRAM names none: one exchange is checked against each verifier.
scramp's server checks one, and does not take the empty user name that libpq sends.

Laws: every verifier is tried, whichever matches, and keys are compared in constant time; whatever the client sends, nothing
but ProtocolError or Refused comes out.

Source: RFC 5802, RFC 7677; PostgreSQL 18 manual, "SCRAM-SHA-256 Authentication": the user name inside SCRAM is ignored, the one
of the start-up packet counts. auth-scram.c for what is accepted.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Final

from dbshield.errors import ProtocolError, Refused

MECHANISM: Final = "SCRAM-SHA-256"
KEY_LENGTH: Final = hashlib.sha256().digest_size

FEATURE_NOT_SUPPORTED: Final = "0A000"
INVALID_AUTHORIZATION: Final = "28000"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFirst:
    """The client's first message: `n,,` or `y,,`, and the rest, of which only the nonce matters."""

    gs2_header: bytes
    bare: bytes
    nonce: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFinal:
    """The client's last message: what is signed, and the proof."""

    without_proof: bytes = field(repr=False)
    proof: bytes = field(repr=False)


def _malformed(problem: str) -> ProtocolError:
    return ProtocolError(f"malformed SCRAM message: {problem}")


def _attribute(part: bytes, name: bytes) -> bytes:
    if not part.startswith(name + b"="):
        raise _malformed(f"expected attribute {name.decode()}")
    return part[2:]


def read_client_first(data: bytes) -> ClientFirst:
    """Take the client's first message apart. Channel binding is refused: it was not offered."""
    flag, _, rest = data.partition(b",")
    authzid, _, bare = rest.partition(b",")
    if flag.startswith(b"p"):
        raise Refused(
            "SCRAM channel binding is not offered here",
            sqlstate=INVALID_AUTHORIZATION,
            hint="Connect with channel_binding=prefer or disable.",
        )
    if flag not in {b"n", b"y"}:
        raise _malformed("no channel binding flag")
    if authzid:
        raise Refused("SCRAM authorization identities are not supported", sqlstate=FEATURE_NOT_SUPPORTED)
    if bare.startswith(b"m="):
        raise Refused("the client requires a SCRAM extension", sqlstate=FEATURE_NOT_SUPPORTED)
    # A comma in a name is written =2C, so splitting at commas is sound. Extensions behind the nonce are ignored.
    name, _, rest = bare.partition(b",")
    _attribute(name, b"n")
    nonce = _attribute(rest.partition(b",")[0], b"r")
    if not nonce or not all(0x21 <= letter <= 0x7E for letter in nonce):
        raise _malformed("a nonce is printable")
    return ClientFirst(gs2_header=flag + b",,", bare=bare, nonce=nonce)


class Exchange:
    """One conversation, from the client's first message on; `nonce` is the server's part, printable and never used before."""

    __slots__ = ("_first", "_nonce", "server_first")

    def __init__(self, first: ClientFirst, *, nonce: str, salt: bytes, iterations: int) -> None:
        self._first = first
        self._nonce = first.nonce + nonce.encode()
        self.server_first = b"r=%b,s=%b,i=%d" % (self._nonce, b64encode(salt), iterations)

    def read_final(self, data: bytes) -> ClientFinal:
        """Take the client's last message apart, and check that it belongs to this exchange."""
        without_proof, found, proof = data.rpartition(b",p=")
        if not found:
            raise _malformed("no proof")
        binding, _, rest = without_proof.partition(b",")
        if _attribute(binding, b"c") != b64encode(self._first.gs2_header):
            raise _malformed("the channel binding flag changed")
        # Extensions behind the nonce are signed with the rest, and ignored.
        if _attribute(rest.partition(b",")[0], b"r") != self._nonce:
            raise _malformed("the nonce does not match")
        try:
            proof = b64decode(proof, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _malformed("the proof is not base64") from error
        if len(proof) != KEY_LENGTH:
            raise _malformed(f"a proof has {KEY_LENGTH} bytes")
        return ClientFinal(without_proof=without_proof, proof=proof)

    def _signed(self, final: ClientFinal) -> bytes:
        return b",".join((self._first.bare, self.server_first, final.without_proof))

    def proves(self, final: ClientFinal, stored_key: bytes) -> bool:
        """Whether the client knows the password behind `stored_key`; compared in constant time."""
        signature = hmac.digest(stored_key, self._signed(final), "sha256")
        client_key = bytes(a ^ b for a, b in zip(final.proof, signature, strict=True))
        return hmac.compare_digest(hashlib.sha256(client_key).digest(), stored_key)

    def server_final(self, final: ClientFinal, server_key: bytes) -> bytes:
        """The server's last message: the proof that it knows the verifier."""
        return b"v=" + b64encode(hmac.digest(server_key, self._signed(final), "sha256"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mock:
    """What an exchange that cannot succeed is held with, so that it looks like one that can (RFC 5802, section 9, wants
    unknown users to look known). The same user gets the same salt every time, from `secret`."""

    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)


MOCK_SALT_LENGTH: Final = 16
"""Bytes of a salt: SCRAM_DEFAULT_SALT_LEN in PostgreSQL's scram-common.h; real salts must not be told from mock ones by it."""

MOCK_ITERATIONS: Final = 4096
"""SCRAM_SHA_256_DEFAULT_ITERATIONS in PostgreSQL's scram-common.h."""


def mock(secret: bytes, user: str) -> Mock:
    name = user.encode(errors="replace")
    return Mock(
        salt=hmac.digest(secret, b"salt\0" + name, "sha256")[:MOCK_SALT_LENGTH],
        stored_key=hmac.digest(secret, b"key\0" + name, "sha256"),
    )
