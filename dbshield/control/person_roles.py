"""What a person may do: look, decide, or change as well."""

from __future__ import annotations

from enum import StrEnum, unique

from dbshield.errors import Refused


@unique
class Role(StrEnum):
    """From least to most, and compared so: `role >= Role.APPROVER`."""

    VIEWER = "viewer"
    """Sees everything, decides nothing."""
    APPROVER = "approver"
    """Decides on held statements too."""
    ADMIN = "admin"
    """Freezes, thaws, revokes too."""

    @property
    def rank(self) -> int:
        return RANKS[self.value]

    # A text would be compared by its letters, in which an admin is the least.
    def __lt__(self, other: str) -> bool:
        return self.rank < Role(other).rank

    def __le__(self, other: str) -> bool:
        return self.rank <= Role(other).rank

    def __gt__(self, other: str) -> bool:
        return self.rank > Role(other).rank

    def __ge__(self, other: str) -> bool:
        return self.rank >= Role(other).rank


RANKS = {"viewer": 0, "approver": 1, "admin": 2}


def wrong_role(name: str, role: Role, needed: Role) -> Refused:
    """Somebody who may not do what they want to do."""
    return Refused(
        f"{name} has the role {role}, and this takes the role {needed}",
        hint=f"`dbshield user role {name} {needed}` changes it, with a code of somebody who may.",
    )
