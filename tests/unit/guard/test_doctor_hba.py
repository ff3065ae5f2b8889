"""pg_hba.conf is read as the server reads it: the first rule that matches decides."""

from __future__ import annotations

import pytest

from dbshield.guard.doctor import Severity
from dbshield.guard.doctor_hba import HbaRule, hba_findings

AGENT = {"agent": frozenset({"agent", "dbshield_agents"})}


def rules(*lines: str) -> list[HbaRule]:
    """From `type database user address netmask method`, with - for nothing."""
    made = []
    for number, line in enumerate(lines, 1):
        kind, databases, users, address, netmask, method = line.replace("-", "").split(" ")
        made.append(
            HbaRule(
                line=number,
                type=kind,
                databases=databases.split(","),
                users=users.split(","),
                address=address,
                netmask=netmask,
                method=method,
            )
        )
    return made


def checks(*lines: str) -> dict[str, tuple[str, ...]]:
    return {
        finding.check: finding.subjects
        for finding in hba_findings(rules(*lines), agents=AGENT, databases=("shop",), environment="production")
    }


WIDE4 = "0.0.0.0 0.0.0.0"
REJECT = "host all +dbshield_agents all - reject"


@pytest.mark.parametrize(
    "lines",
    [
        ["hostssl all all all - scramsha256"],
        [f"hostssl all all {WIDE4} scramsha256"],
        ["hostssl shop agent 10.0.0.0 255.0.0.0 scramsha256"],
        ["hostssl all +dbshield_agents samenet - scramsha256"],
        ["hostssl all /^agent all - scramsha256"],
        ["hostssl /sh all .example.com - scramsha256"],
        # An earlier rule that only rejects some of it.
        ["hostnossl all all all - reject", "hostssl all all all - scramsha256"],
        [f"host all all {WIDE4} reject", "hostssl all all all - scramsha256"],
        ["host other all all - reject", "hostssl all all all - scramsha256"],
        ["host all somebody all - reject", "hostssl all all all - scramsha256"],
        ["host all /agent all - reject", "hostssl all all all - scramsha256"],
        # Too late.
        ["hostssl all all all - scramsha256", REJECT],
    ],
)
def test_a_door_beside_the_proxy_is_found(lines: list[str]) -> None:
    assert "access.around-the-proxy" in checks(*lines)


@pytest.mark.parametrize(
    "lines",
    [
        ["host all agent 10.1.2.3 255.255.255.255 scramsha256", REJECT, "hostssl all all all - scramsha256"],
        ["host all all 127.0.0.1 255.255.255.255 scramsha256", "host all all ::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff peer"],
        ["local all all - - peer"],
        ["hostssl other all all - scramsha256"],
        ["hostssl all somebody all - scramsha256"],
        ["hostssl replication all all - scramsha256"],
        [f"host all all {WIDE4} reject", "host all all :: :: reject", "hostssl all all all - scramsha256"],
        ["host all all 127.0.0.0 255.0.0.0 scramsha256"],
    ],
)
def test_a_closed_door_is_not(lines: list[str]) -> None:
    assert "access.around-the-proxy" not in checks(*lines)


def test_trust_is_critical_for_others_and_a_warning_on_the_machine() -> None:
    found = hba_findings(
        rules(f"host all all {WIDE4} trust", "local all all - - trust"), agents={}, databases=("shop",), environment="x"
    )
    assert {finding.check: finding.severity for finding in found} == {
        "access.trust": Severity.CRITICAL,
        "access.clear-text": Severity.WARNING,
        "access.local-trust": Severity.WARNING,
    }


def test_what_another_machine_says_of_its_users_is_no_password() -> None:
    found = checks(f"hostssl all all {WIDE4} ident", "hostssl all all 127.0.0.1 255.255.255.255 ident", "local all all - - peer")
    assert "access.trust" in found
    assert "access.local-trust" not in found
    assert "access.trust" not in checks(
        "hostssl all all 127.0.0.1 255.255.255.255 ident", f"hostssl all all {WIDE4} scram-sha-256"
    )


def test_a_rule_without_tls_is_named_with_its_line() -> None:
    assert checks("local all all - - peer", "host all postgres 10.0.0.0 255.255.0.0 md5") == {
        "access.clear-text": ("line 2: host all postgres 10.0.0.0/16 md5",)
    }


def test_a_line_that_the_server_cannot_read_is_said() -> None:
    broken = HbaRule(line=7, type="", databases=(), users=(), address="", netmask="", method="", error="invalid type")
    (finding,) = hba_findings([broken], agents=AGENT, databases=("shop",), environment="x")
    assert (finding.check, finding.subjects) == ("access.unreadable-rule", ("line 7: invalid type",))
