"""The console's configuration read again: what is taken at once, what waits for a start, what changes nothing."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from structlog.testing import capture_logs
from support.people import vault_in
from support.pki import Authority, Certificate

from dbshield.config import Config
from dbshield.config.console import ConsoleConfig
from dbshield.config.model import ControlConfig
from dbshield.console.app import build
from dbshield.console.frame import Parts, parts_in
from dbshield.console.reloading import reload, usable
from dbshield.errors import ConfigError
from dbshield.store.database import Database


def config(**console: Any) -> Config:
    return Config(console=ConsoleConfig(**console))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def console(folder: Path, settings: Config) -> Starlette:
    # Nothing here asks the database.
    return build(Parts(config=settings, database=Database("host=/nowhere"), dsn="", vault=vault_in(folder)))


def with_tls(made: Certificate, **console: Any) -> Config:
    return config(tls_certificate=made.certificate, tls_key=made.key, **console)


def subject(context: ssl.SSLContext, authority: Authority) -> str:
    """Whom a browser meets now, by a handshake without a network."""
    client = ssl.create_default_context(cafile=str(authority.ca))
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there, server_hostname="localhost")
    answering = context.wrap_bio(there, back, server_side=True)
    done = 0
    while done < 2:
        done = 0
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            done += 1
    found: Any = asking.getpeercert()
    return str(found["subject"][0][0][1])


def test_another_certificate_is_met_at_once(tmp_path: Path, authority: Authority) -> None:
    old, new = authority.server("old"), authority.server("new")
    app = console(tmp_path, with_tls(old))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(old.certificate, old.key)
    reload(app, lambda: with_tls(new), context)
    assert subject(context, authority) == "new"
    # A renewal in place, with nothing changed in the file.
    new.certificate.write_bytes(old.certificate.read_bytes())
    new.key.write_bytes(old.key.read_bytes())
    reload(app, lambda: with_tls(new), context)
    assert subject(context, authority) == "old"


def test_what_cannot_be_used_changes_nothing(tmp_path: Path, authority: Authority) -> None:
    made, other = authority.server("made"), authority.server("other")
    before = with_tls(made)
    app = console(tmp_path, before)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    mismatched = with_tls(Certificate(certificate=made.certificate, key=other.key), idle_minutes=5)

    def wrong() -> Config:
        raise ConfigError("[console] idle_minutes: not a number")

    with capture_logs() as said:
        reload(app, lambda: mismatched, context)
        reload(app, wrong, context)
    assert [(line["event"], line["log_level"]) for line in said] == [("the configuration was not reloaded", "error")] * 2
    assert "cannot be used" in said[0]["why"]
    assert said[1]["why"] == "[console] idle_minutes: not a number"
    assert parts_in(app).config is before
    assert subject(context, authority) == "made"


def test_sign_ins_and_names_are_taken_at_once(tmp_path: Path) -> None:
    app = console(tmp_path, config())
    with capture_logs() as said:
        reload(app, lambda: config(idle_minutes=5, address="https://shield.example.com"), None)
    assert [line["event"] for line in said] == ["configuration reloaded"]
    now = parts_in(app).config.console
    assert now.idle_minutes == 5
    assert "shield.example.com" in now.origins


@pytest.mark.parametrize(
    ("old", "new", "waiting"),
    [
        ({}, {"listen": "127.0.0.1:7434"}, ["console.listen"]),
        (
            {"listen": "0.0.0.0:7433", "address": "http://a.example.com", "allow_plaintext": True},
            {"listen": "127.0.0.1:7433"},
            ["console.listen"],
        ),
        ({}, {"trusted_proxies": ["10.0.0.1"]}, ["console.trusted_proxies"]),
        (
            {},
            {"tls_certificate": "c.pem", "tls_key": "k.pem"},
            ["console.tls_certificate", "console.tls_key"],
        ),
    ],
    ids=["listen", "listen and address", "trusted_proxies", "tls"],
)
def test_what_a_start_alone_changes_stays_as_it_was(old: dict[str, Any], new: dict[str, Any], waiting: list[str]) -> None:
    """The sites that the console is go by it: who reaches it now is not locked out."""
    found, keys = usable(config(**old), config(**new, idle_minutes=7))
    assert keys == waiting
    assert found.console.origins == config(**old).console.origins
    assert found.console.tls == config(**old).console.tls
    assert found.console.trusted_proxies == config(**old).console.trusted_proxies
    assert found.console.idle_minutes == 7


def test_other_sections_that_wait_are_named() -> None:
    found, keys = usable(Config(), Config(state=Path("/elsewhere"), control=ControlConfig(url="postgresql://h/d")))
    assert keys == ["state", "control"]
    assert (found.state, found.control) == (Config().state, Config().control)
