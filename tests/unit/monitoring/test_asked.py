"""By which names the metrics' endpoint is asked."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from dbshield.config.metrics import MetricsConfig
from dbshield.monitoring.asked import is_ours

NAMES = frozenset({"proxy1.example.com"})


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:9632",
        "127.0.0.1",
        "10.1.2.3:9632",
        "[::1]:9632",
        "[fd00::7]",
        "localhost:9632",
        "LOCALHOST",
        "proxy1.example.com:9632",
        "Proxy1.Example.com",
        "proxy1.example.com.:9632",
        "",
    ],
)
def test_addresses_and_known_names_are_answered(host: str) -> None:
    assert is_ours([host], NAMES)


def test_a_check_without_a_host_is_answered() -> None:
    """As HAProxy sends it, and no browser does."""
    assert is_ours([], NAMES)


@pytest.mark.parametrize(
    "hosts",
    [
        ["rebound.example:9632"],
        ["proxy2.example.com"],
        ["sub.proxy1.example.com"],
        ["127.0.0.1.rebound.example"],
        ["localhost.rebound.example"],
        ["rebound.example@127.0.0.1.rebound.example"],
        ["[::1"],
        ["127.0.0.1", "rebound.example"],
        ["2130706433"],
        [":9632"],
        [" "],
    ],
    ids=repr,
)
def test_any_other_name_is_not(hosts: list[str]) -> None:
    assert not is_ours(hosts, NAMES)


def test_names_are_names() -> None:
    assert MetricsConfig(names=("Proxy1.Example.com.", "proxy2")).names == ("proxy1.example.com", "proxy2")
    for wrong in ("http://proxy1", "proxy1:9632", "*", "*.example.com", "[::1]", "ann@proxy1"):
        with pytest.raises(ValidationError, match="no name of a host"):
            MetricsConfig(names=(wrong,))
