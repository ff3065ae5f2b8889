"""What needs no server: the order of findings, the access of shared roles, and what environments share."""

from __future__ import annotations

import re

from dbshield.guard.doctor import ORDER, Severity, agents_of, not_looked, ordered
from dbshield.guard.doctor_environments import Identity, identity_findings, recorded_findings
from dbshield.guard.doctor_look import CHECKS
from dbshield.model import AccessLevel, Upstream

READ, WRITE, MIGRATE = AccessLevel.READ, AccessLevel.WRITE, AccessLevel.MIGRATE


def identity(name: str, host: str, **more: object) -> Identity:
    values: dict[str, object] = {"server": Upstream(host=host, port=5432, user=f"{name}_proxy"), "databases": ("shop",), **more}
    return Identity(environment=name, **values)  # type: ignore[arg-type]


def test_the_worst_comes_first_and_equals_stay_in_order() -> None:
    findings = [check.finding([("x", "y")], environment="e") for check in CHECKS] + [not_looked("l", "e", "w", mend="m")]
    result = ordered(findings)
    ranks = [ORDER.index(finding.severity) for finding in result]
    assert ranks == sorted(ranks)
    critical = [finding.check for finding in result if finding.severity is Severity.CRITICAL]
    assert critical == [check.name for check in CHECKS if check.severity is Severity.CRITICAL]


def test_every_check_has_a_name_of_its_own_and_says_why() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert re.fullmatch(r"[a-z]+\.[a-z0-9-]+", check.name)
        assert check.why.endswith(".")
        assert check.what == check.what[:1].lower() + check.what[1:]


def test_a_shared_role_counts_as_what_the_strongest_agent_may() -> None:
    agents = agents_of([("a", READ), ("a", MIGRATE), ("b", WRITE), ("b", READ), ("c", READ)], ["c", "d"])
    assert agents.access == {"a": MIGRATE, "b": WRITE, "c": READ, "d": None}
    assert agents.parameters() == {"agents": ["a", "b", "c", "d"], "readers": ["c"], "not_migrators": ["b", "c", "d"]}


def test_where_the_guard_stops_it_too_it_is_less() -> None:
    owned = next(check for check in CHECKS if check.name == "agents.own-objects")
    assert owned.finding([("a", "b")], environment="e").severity is Severity.CRITICAL
    assert owned.finding([("a", "b")], environment="e", guard=True).severity is Severity.WARNING


def test_environments_apart_share_nothing() -> None:
    one = identity("staging", "a.example.com", system_identifier=1, password="x", recorded=1)
    other = identity("production", "b.example.com", system_identifier=2, password="y")
    assert identity_findings([one, other]) == []


def test_unknown_is_not_the_same_as_unknown() -> None:
    one, other = identity("staging", "a.example.com"), identity("production", "b.example.com")
    assert identity_findings([one, other]) == []


def test_the_same_address_is_one_server_whatever_its_case() -> None:
    one, other = identity("staging", "DB.example.com"), identity("production", "db.example.com", databases=("other",))
    assert [finding.check for finding in identity_findings([one, other])] == ["environments.same-cluster"]


def test_roles_of_one_name_are_named() -> None:
    one = identity("staging", "a", roles=frozenset({"claude", "x"}))
    other = identity("production", "b", roles=frozenset({"claude", "y"}))
    (finding,) = identity_findings([one, other])
    assert (finding.check, finding.subjects) == ("environments.same-role", ("claude",))


def test_what_the_guard_wrote_down_is_compared() -> None:
    assert recorded_findings("staging", "shop", environment="staging", system_identifier="7", is_now="7") == []
    assert recorded_findings("staging", "shop", environment="staging", system_identifier="7", is_now=None) == []
    found = recorded_findings("staging", "shop", environment="production", system_identifier="7", is_now="8")
    assert [(finding.check, finding.severity) for finding in found] == [
        ("environments.recorded-name", Severity.CRITICAL),
        ("environments.recorded-identity", Severity.CRITICAL),
    ]
