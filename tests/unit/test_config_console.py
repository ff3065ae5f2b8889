"""[console]: where it listens, by which names it is known, and what has to be said by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dbshield.config.console import ConsoleConfig

PEM = Path("/etc/dbshield/console.pem")


def test_by_default_it_is_for_this_machine_alone() -> None:
    console = ConsoleConfig()
    assert console.where is not None
    assert console.where.is_local
    site = "http://{}"
    hosts = ("127.0.0.1:7433", "localhost:7433", "[::1]:7433")
    assert console.origins == {host: site.format(host) for host in hosts}
    assert console.link("/rules/DS101") == ""


@pytest.mark.parametrize(
    ("given", "origins"),
    [
        (
            {"listen": "10.0.0.5:443", "tls_certificate": PEM, "tls_key": PEM},
            {"10.0.0.5": "https://10.0.0.5"},
        ),
        (
            {"listen": "0.0.0.0:7433", "tls_certificate": PEM, "tls_key": PEM, "address": "https://Shield.example.com:7433/"},
            {"shield.example.com:7433": "https://shield.example.com:7433"},
        ),
        ({"listen": "", "address": "https://shield.example.com"}, {"shield.example.com": "https://shield.example.com"}),
    ],
)
def test_the_sites_are_those_that_people_open(given: dict[str, Any], origins: dict[str, str]) -> None:
    assert ConsoleConfig(**given).origins == origins


def test_links_lead_to_the_address() -> None:
    assert ConsoleConfig(address="https://shield.example.com/").link("/rules/DS101") == "https://shield.example.com/rules/DS101"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"listen": "10.0.0.5:7433"}, "passwords would cross the network in clear"),
        ({"listen": "0.0.0.0:7433", "allow_plaintext": True}, "address has to say by which name"),
        ({"listen": "unix:/run/dbshield:7433"}, "no browser opens"),
        ({"tls_key": PEM}, "go together"),
        ({"address": "shield.example.com"}, "no address of a site"),
        ({"address": "https://shield.example.com/console"}, "no address of a site"),
        ({"address": "https://ann@shield.example.com"}, "user name"),
        ({"address": "javascript:alert(1)"}, "no address of a site"),
        ({"idle_minutes": 0}, "greater than 0"),
        ({"trusted_proxies": ["*"]}, "no address of a reverse proxy"),
        ({"trusted_proxies": ["10.0.0.1", "0.0.0.0/0"]}, "no address of a reverse proxy"),
        ({"trusted_proxies": ["::/0"]}, "no address of a reverse proxy"),
        ({"trusted_proxies": ["proxy.example.com"]}, "no address of a reverse proxy"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, "no address of a reverse proxy"),
    ],
)
def test_what_is_not_safe_is_not_taken(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ConsoleConfig(**given)


def test_reverse_proxies_are_addresses_and_networks() -> None:
    given = ("127.0.0.1", "10.1.0.0/16", "fd00::/8", "::1")
    assert ConsoleConfig(trusted_proxies=given).trusted_proxies == given
