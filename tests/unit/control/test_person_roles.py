"""Roles are compared by what they allow, not by their letters."""

from __future__ import annotations

import itertools

from dbshield.control.person_roles import Role


def test_from_least_to_most() -> None:
    order = [Role.VIEWER, Role.APPROVER, Role.ADMIN]
    for (low, one), (high, other) in itertools.product(enumerate(order), repeat=2):
        assert (one < other, one <= other, one > other, one >= other) == (low < high, low <= high, low > high, low >= high)
    assert sorted([Role.ADMIN, Role.VIEWER, Role.APPROVER]) == order
    assert Role.ADMIN >= "approver"
