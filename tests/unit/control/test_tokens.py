"""Tokens: their form, their verifier, and how long they may live."""

from __future__ import annotations

import hashlib
import hmac
import stringprep
from datetime import timedelta

import pytest
import scramp
from hypothesis import given
from hypothesis import strategies as st

from dbshield.config.names import NAME_PATTERN
from dbshield.control import tokens
from dbshield.control.tokens import (
    Token,
    Verifier,
    hidden,
    make_verifier,
    matches,
    new_salt,
    new_token,
    parse_duration,
    parse_token,
)
from dbshield.errors import ConfigError

SALT = bytes(range(16))


@given(st.from_regex(NAME_PATTERN, fullmatch=True))
def test_a_token_reads_back(environment: str) -> None:
    token = new_token(environment)
    assert parse_token(token.text) == token
    assert token.text.split("_") == ["dbs", environment, token.id, token.secret]


def test_a_secret_has_160_bits_and_is_never_the_same() -> None:
    made = [new_token("staging") for _ in range(200)]
    assert {len(token.secret) for token in made} == {32}
    assert {len(token.id) for token in made} == {12}
    assert len({token.secret for token in made}) == len({token.id for token in made}) == 200
    assert set("".join(token.secret for token in made)) == set("abcdefghijklmnopqrstuvwxyz234567")


@given(st.from_regex(NAME_PATTERN, fullmatch=True), st.text(), st.text())
def test_a_token_in_the_wrong_place_is_hidden_and_named(environment: str, before: str, behind: str) -> None:
    token = new_token(environment)
    shown = hidden(f"{before} {token.text} {behind}")
    assert token.secret not in shown
    assert f"dbs_{environment}_{token.id}_***" in shown
    assert hidden(f"{before} dbs_ {behind}") == f"{before} dbs_ {behind}"


def test_saslprep_leaves_a_token_as_it_is() -> None:
    text = new_token("a-b-c").text
    assert scramp.utils.saslprep(text) == text
    assert not any(stringprep.in_table_a1(letter) for letter in text)


def test_a_token_does_not_show_its_secret() -> None:
    token = new_token("staging")
    assert token.secret not in repr(token)
    assert "b'" not in repr(make_verifier(token, salt=SALT, iterations=4096))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dbs",
        "dbs_staging_" + "a" * 12,
        "dbs_staging_" + "a" * 12 + "_" + "a" * 31,
        "dbs_staging_" + "a" * 12 + "_" + "a" * 33,
        "dbs_staging_" + "a" * 11 + "_" + "a" * 32,
        "dbs_Staging_" + "a" * 12 + "_" + "a" * 32,
        "dbs_sta_ging_" + "a" * 12 + "_" + "a" * 32,
        "dbs_staging_" + "a" * 12 + "_" + "A" * 32,
        "dbs_staging_" + "a" * 12 + "_" + "1" * 32,
        "dbs_staging_" + "a" * 12 + "_" + "a" * 32 + "\n",
        " dbs_staging_" + "a" * 12 + "_" + "a" * 32,
    ],
)
def test_what_is_no_token_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="is no token") as caught:
        parse_token(text)
    assert "aaaa" not in str(caught.value)


def test_the_verifier_is_that_of_rfc_5802() -> None:
    token = new_token("staging")
    salted = hashlib.pbkdf2_hmac("sha256", token.text.encode(), SALT, 4096)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    verifier = make_verifier(token, salt=SALT, iterations=4096)
    assert verifier.stored_key == hashlib.sha256(client_key).digest()
    assert verifier.server_key == hmac.digest(salted, b"Server Key", "sha256")


def test_a_scram_login_with_the_token_succeeds_and_with_another_fails() -> None:
    token = new_token("staging")
    verifier = make_verifier(token, salt=SALT, iterations=4096)
    mechanism = scramp.ScramMechanism("SCRAM-SHA-256")

    def login(password: str) -> None:
        server = mechanism.make_server(lambda user: (SALT, verifier.stored_key, verifier.server_key, 4096))
        client = scramp.ScramClient(["SCRAM-SHA-256"], "agent", password)
        server.set_client_first(client.get_client_first())
        client.set_server_first(server.get_server_first())
        server.set_client_final(client.get_client_final())
        client.set_server_final(server.get_server_final())

    login(token.text)
    with pytest.raises(scramp.ScramException):
        login(new_token("staging").text)


def test_only_the_token_itself_matches() -> None:
    token = new_token("staging")
    verifier = make_verifier(token, salt=SALT, iterations=4096)
    assert matches(token, verifier, salt=SALT, iterations=4096)
    assert not matches(new_token("staging"), verifier, salt=SALT, iterations=4096)
    assert not matches(token, verifier, salt=new_salt(), iterations=4096)
    assert not matches(token, verifier, salt=SALT, iterations=4097)
    assert not matches(Token(environment="production", id=token.id, secret=token.secret), verifier, salt=SALT, iterations=4096)
    assert not matches(token, Verifier(stored_key=verifier.stored_key, server_key=bytes(32)), salt=SALT, iterations=4096)


def test_the_constants_keep_what_the_module_promises() -> None:
    assert tokens.SECRET_BYTES * 8 >= 160
    assert tokens.ITERATIONS >= 4096
    assert len(new_salt()) == 16
    assert new_salt() != new_salt()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30d", timedelta(days=30)),
        ("12h", timedelta(hours=12)),
        ("45m", timedelta(minutes=45)),
        (" 2w ", timedelta(weeks=2)),
    ],
)
def test_lengths_of_time(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "-1d", "1.5d", "1y", "1d12h", "9999999d", "٣d"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ConfigError, match="is no length of time"):
        parse_duration(text)
